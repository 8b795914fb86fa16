"""From a source tree to llama-server: configured, built, and collected.

The tree and the build folder stay in a work folder that all patches of one source
share.  A file that has the wanted content already is left alone, so the build tool
sees what changed, and an interrupted build carries on where it stopped.
"""

import fcntl
import filecmp
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from deployer.artefacts.sources.files import copy, writing
from deployer.errors import EngineError
from deployer.llama.build import recipe
from deployer.llama.build.recipe import System, Target, refusals, toolkit
from deployer.llama.build.trees import Surroundings, fetch_patched
from deployer.llama.patches import Patch
from deployer.planning.facts import Pin
from deployer.planning.progress import Progress, Watch
from deployer.planning.resources import digest
from deployer.runtime.compile import build_command, collect, configure_command
from deployer.system.children import COMPILERS, cores, find_program, variables

# Flags of the user's shell would end up in binaries that other stacks share.
_LANGUAGE = re.compile(r"LC_.*|LANG|LANGUAGE")
_RELEASE = re.compile(r"release (\d+\.\d+)")
TOOLKITS = Path("/usr/local")
_SECONDS = 30
_INSTALL = (
    "Debian, Ubuntu: `apt install build-essential cmake ninja-build`; "
    "macOS: `xcode-select --install`, `brew install cmake ninja`; "
    "cmake and ninja also come with `pip install cmake ninja`"
)


@dataclass(frozen=True, slots=True)
class Toolchain:
    """The programs of a build."""

    cmake: str
    generator: str
    """``Ninja`` or ``Unix Makefiles``."""
    ccache: bool
    nvcc: str | None
    environment: Mapping[str, str]
    """The environment of the programs."""
    notes: tuple[str, ...] = ()
    """Notes for the user."""


def find_toolchain(
    environment: Mapping[str, str], *, cuda: str | None, toolkits: Path = TOOLKITS
) -> Toolchain:
    """The programs to build with; raises EngineError naming everything that lacks.

    ``toolkits`` is the folder that CUDA toolkits are installed in.
    """
    clean = _clean(environment)
    cmake = find_program("cmake", clean)
    c_compiler = _compiler(clean, "CC", ("cc", "gcc", "clang"))
    cxx_compiler = _compiler(clean, "CXX", ("c++", "g++", "clang++"))
    ninja = find_program("ninja", clean)
    missing = [
        name
        for name, found in (
            ("`cmake`", cmake),
            ("a C compiler (`cc`)", c_compiler),
            ("a C++ compiler (`c++`)", cxx_compiler),
            ("`ninja` or `make`", ninja or find_program("make", clean)),
        )
        if not found
    ]
    if missing or not cmake or not c_compiler:
        raise EngineError(
            f"building llama-server needs {_listed(missing)}, not found here",
            hint=_INSTALL,
        )
    nvcc = None if cuda is None else _nvcc(cuda, clean, toolkits)
    ccache, note = _ccache(c_compiler, clean)
    return Toolchain(
        cmake=cmake,
        generator="Ninja" if ninja else "Unix Makefiles",
        ccache=ccache,
        nvcc=nvcc,
        environment=clean if nvcc is None else {**clean, "CUDACXX": nvcc},
        notes=(note,) if note else (),
    )


def _clean(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a build: what would change its outcome is left out."""
    kept = {
        name: value
        for name, value in variables(environment, *COMPILERS).items()
        if not _LANGUAGE.fullmatch(name)
    }
    # cmake and ninja of the Python package index lie beside the interpreter.
    beside = str(Path(sys.executable).parent)
    path = kept.get("PATH", "")
    return {**kept, "PATH": f"{path}:{beside}" if path else beside, "LC_ALL": "C"}


def _compiler(
    environment: Mapping[str, str], variable: str, names: tuple[str, ...]
) -> str | None:
    wanted = environment.get(variable)
    if wanted:
        return find_program(wanted.split()[0], environment)
    found = (find_program(name, environment) for name in names)
    return next((program for program in found if program), None)


def _nvcc(cuda: str, environment: Mapping[str, str], toolkits: Path) -> str:
    """The compiler of toolkit ``cuda``; raises EngineError."""
    wanted = toolkit(cuda)
    short = ".".join(str(part) for part in wanted)
    places = [
        environment.get("CUDACXX"),
        str(toolkits / f"cuda-{short}" / "bin" / "nvcc"),
        find_program("nvcc", environment),
        str(toolkits / "cuda" / "bin" / "nvcc"),
    ]
    seen = {place: _release(place, environment) for place in places if place}
    for place, release in seen.items():
        if release is not None and toolkit(release) == wanted:
            return place
    others = sorted({release for release in seen.values() if release})
    raise EngineError(
        f"this machine has no CUDA toolkit {short}"
        + (f", only {', '.join(others)}" if others else ""),
        hint=f"install it, or set `llama_cpp.cuda` to `{others[-1]}`"
        if others
        else "install it, set CUDACXX to its `nvcc`, or build on another engine",
    )


def _release(nvcc: str, environment: Mapping[str, str]) -> str | None:
    if not Path(nvcc).is_file():
        return None
    found = _RELEASE.search(_said((nvcc, "--version"), environment) or "")
    return found[1] if found else None


def _ccache(compiler: str, environment: Mapping[str, str]) -> tuple[bool, str]:
    """Return whether ccache works here, and a note where it does not."""
    ccache = find_program("ccache", environment)
    if ccache is None:
        return False, ""
    with tempfile.TemporaryDirectory(prefix="deployer-") as folder:
        source = Path(folder) / "try.c"
        source.write_text("int main(void) { return 0; }\n", encoding="utf-8")
        command = (ccache, compiler, "-c", str(source), "-o", f"{source}.o")
        if _said(command, environment) is not None:
            return True, ""
    return False, f"`{ccache}` does not work and is not used; see `ccache --show-stats`"


def _said(command: tuple[str, ...], environment: Mapping[str, str]) -> str | None:
    """Return what a program prints; ``None`` where it fails."""
    try:
        done = subprocess.run(  # noqa: S603 - a list, and no shell
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _listed(names: list[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


_STEP = re.compile(r"\[ *(?P<done>\d+)/(?P<total>\d+)\] (?P<what>.*)")
_PERCENT = re.compile(r"\[ *(?P<done>\d+)%\] (?P<what>.*)")
_COMPILED = re.compile(r"Building (?:C|CXX|CUDA|OBJC|OBJCXX|ASM) object\b")
_FIRST = (
    # The compiler ran out of memory: what follows it says nothing of the cause.
    re.compile(r"Killed signal|virtual memory exhausted|out of memory", re.IGNORECASE),
    re.compile(r"No space left on device|Disk quota exceeded"),
    re.compile(r"^CMake Error\b"),
    re.compile(r"(?:^|:\s|\d: )(?:fatal )?error\b[: ]"),
    re.compile(r"undefined reference to|ld: symbol\(s\) not found|cannot find -l"),
    re.compile(r"^(?:ninja|make(?:\[\d+\])?): (?:error|\*\*\*)"),
    re.compile(r"^FAILED: "),
)
_NEXT_STEP = re.compile(r"\[ *\d+(?:/\d+|%)\] |FAILED: |-- |ninja: |make(\[\d+\])?: ")
_SHOWN = 6


@dataclass(frozen=True, slots=True)
class Step:
    """One line of progress."""

    done: int
    total: int
    compiled: bool
    """True for a step that compiled a file, not for linking or copying."""
    unit: str
    """``objects``, or ``%`` where the build tool says no more."""


def step_of(line: str) -> Step | None:
    """The progress that a line of the build tool reports."""
    if found := _STEP.match(line):
        unit, total = "objects", int(found["total"])
    elif found := _PERCENT.match(line):
        unit, total = "%", 100
    else:
        return None
    compiled = _COMPILED.match(found["what"]) is not None
    return Step(int(found["done"]), total, compiled, unit)


def first_error(lines: Iterable[str]) -> list[str]:
    """The first line that names a cause, and what belongs to it; empty for none."""
    kept = [line.rstrip() for line in lines]
    for pattern in _FIRST:
        for number, line in enumerate(kept):
            if pattern.search(line):
                return list(_block(kept[number:]))
    return []


def _block(lines: list[str]) -> Iterator[str]:
    yield lines[0]
    for line in lines[1:_SHOWN]:
        if _NEXT_STEP.match(line):
            return
        if line:
            yield line


_NICENESS = "10"
_PATIENCE = 10  # seconds for the build tool to end once it is told to
_STATUS = "[%f/%t] "  # ninja's own default, which the user may have changed


@dataclass(frozen=True, slots=True)
class Job:
    """One llama-server to build."""

    name: str
    """For people: ``llama-server b8672``."""
    source: str
    """Digest of the unpatched tree: equal for builds that share their work."""
    lay_out: Callable[[Path], None] = field(repr=False)
    """Fills an empty folder with the tree, patched."""
    target: recipe.Target
    jobs: int
    """Files that are compiled side by side."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """The outcome of a build."""

    files: int
    """Files that were compiled; the others were there already."""
    log: Path


@dataclass(frozen=True, slots=True)
class Work:
    """The folder of one source and one set of definitions."""

    folder: Path

    @property
    def source(self) -> Path:
        """The patched tree."""
        return self.folder / "source"

    @property
    def incoming(self) -> Path:
        """The tree while it is laid out."""
        return self.folder / "incoming"

    @property
    def build(self) -> Path:
        """The build folder of cmake."""
        return self.folder / "build"

    @property
    def configured(self) -> Path:
        """There once cmake ended well; gone with the folder it belongs to."""
        return self.build / "configured"

    @property
    def log(self) -> Path:
        """Everything the programs printed in the last build."""
        return self.folder / "build.log"


def compile_server(
    job: Job,
    into: Path,
    *,
    work: Path,
    tools: Toolchain,
    progress: Watch,
    say: Callable[[str], None],
) -> Compiled:
    """Build llama-server and put it, its libraries and templates into ``into``.

    ``work`` holds the work folders of all builds.  Raises EngineError with the first
    error and the path of the log, StoreError on a full disk, and what laying out the
    tree or ``progress`` raises; running it again then carries on.
    """
    definitions = recipe.options(job.target, ccache=tools.ccache)
    name = digest([job.source, tools.generator, tools.nvcc, *definitions])
    place = Work(work / name[:32])
    for note in tools.notes:
        say(note)
    with (
        writing(work, purpose=job.name),
        _alone(place.folder, job.name, say) as lock,
    ):
        _lay_out(job, place)
        run = _Run(job.name, place, tools, progress, lock)
        run.configure(definitions)
        files = run.build(job.jobs)
        try:
            collect(place.build, place.source, into, copy)
        except FileNotFoundError as error:
            raise EngineError(
                "the build ended without `llama-server`",
                hint=f"the whole log is `{place.log}`",
            ) from error
    return Compiled(files=files, log=place.log)


def forget_work(work: Path) -> None:
    """Remove the work folders of all builds that nobody is building in."""
    for folder in work.iterdir() if work.is_dir() else ():
        lock = folder / "lock"
        if not lock.is_file():
            continue
        with lock.open("rb") as held, suppress(BlockingIOError):
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)


@contextmanager
def _alone(folder: Path, name: str, say: Callable[[str], None]) -> Iterator[int]:
    """Hold the work folder; yields the descriptor that holds it.

    The build tool inherits it: were we killed, the next build would wait until the
    last compiler of this one has ended, instead of writing into the same files.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another build of `{name}` in the same folder")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def _lay_out(job: Job, place: Work) -> None:
    """Make the source what it should be; a file that is so already stays as it is."""
    shutil.rmtree(place.incoming, ignore_errors=True)
    place.incoming.mkdir()
    job.lay_out(place.incoming)
    wanted = _entries(place.incoming)
    place.source.mkdir(exist_ok=True)
    for name in sorted(_entries(place.source) - wanted, reverse=True):
        _remove(place.source / name)
    for name in sorted(wanted):
        _settle(place.incoming / name, place.source / name)
    shutil.rmtree(place.incoming)


def _entries(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def _settle(new: Path, old: Path) -> None:
    """Put one file or folder in its place, unless what is there is the same."""
    if new.is_dir() and not new.is_symlink():
        if old.is_symlink() or not old.is_dir():
            _remove(old)
            old.mkdir()
        return
    if _same(new, old):
        return
    _remove(old)
    new.rename(old)
    if not old.is_symlink():
        os.utime(old)  # newer than whatever was made of its predecessor


def _same(new: Path, old: Path) -> bool:
    if new.is_symlink() or old.is_symlink():
        both = new.is_symlink() and old.is_symlink()
        return both and new.readlink() == old.readlink()
    if not old.is_file() or new.stat().st_mode != old.stat().st_mode:
        return False
    return filecmp.cmp(new, old, shallow=False)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class _Run:
    """The programs of one build, and where their words go."""

    name: str
    place: Work
    tools: Toolchain
    progress: Watch
    lock: int

    def configure(self, definitions: tuple[str, ...]) -> None:
        """Run cmake, unless it ran before.

        The folder is of these definitions only, and the build tool runs cmake again
        where its files changed; doing so needlessly would renew files it generates.
        A folder that was moved or copied still builds what lies at its old place, so
        what was made in it is worth nothing.
        """
        self.place.log.unlink(missing_ok=True)
        here = str(self.place.folder.resolve())
        if self.place.configured.exists():
            if self.place.configured.read_text(encoding="utf-8") == here:
                return
            shutil.rmtree(self.place.build)
        command = configure_command(
            self.place.source,
            self.place.build,
            definitions,
            cmake=self.tools.cmake,
            generator=self.tools.generator,
        )
        self.progress(Progress(f"configuring {self.name}", 0, None, unit="lines"))
        self._run(command, what="configured", watch=lambda _: None)
        self.place.configured.write_text(here, encoding="utf-8")

    def build(self, jobs: int) -> int:
        """Run the build tool; how many files it compiled."""
        compiled = 0

        def watch(line: str) -> None:
            nonlocal compiled
            if step := step_of(line):
                compiled += step.compiled
                self.progress(Progress(self.name, step.done, step.total, step.unit))

        command = build_command(self.place.build, jobs, cmake=self.tools.cmake)
        self._run(command, what="compiled", watch=watch)
        return compiled

    def _run(
        self, command: list[str], *, what: str, watch: Callable[[str], None]
    ) -> None:
        begin = self.place.log.stat().st_size if self.place.log.exists() else 0
        status = self._followed(["nice", "-n", _NICENESS, *command], watch)
        if status == 0:
            return
        with self.place.log.open(encoding="utf-8", errors="replace") as log:
            log.seek(begin)
            error = first_error(log) or [f"`{command[0]}` ended with {status}"]
        raise EngineError(
            f"{self.name} could not be {what}: " + "\n  ".join(error),
            hint=_advice(error) + f"the whole log is `{self.place.log}`",
        )

    def _followed(self, command: list[str], watch: Callable[[str], None]) -> int:
        """Run a program to its end, or end it where we are told to stop."""
        with (
            self.place.log.open("a", encoding="utf-8") as log,
            subprocess.Popen(  # noqa: S603 - a list, and no shell
                command,
                cwd=self.place.folder,
                env={**self.tools.environment, "NINJA_STATUS": _STATUS},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                pass_fds=(self.lock,),
                process_group=0,
            ) as process,
        ):
            try:
                for line in process.stdout or ():
                    log.write(line)
                    log.flush()
                    watch(line)
                return process.wait()
            finally:
                if process.poll() is None:
                    _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    """End the build tool and its compilers; ninja then keeps what is whole."""
    os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _advice(error: list[str]) -> str:
    text = "\n".join(error).lower()
    if "killed signal" in text or "memory" in text:
        return "the machine ran out of memory: build with fewer jobs; "
    if "cuda::" in text:
        return (
            "the CUDA toolkit lacks a library: install `libcublas-dev` of the same "
            "version, and the driver or its stubs; "
        )
    if "no space left" in text or "quota exceeded" in text:
        return "free space with `deployer store gc`; "
    return ""


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of a build beside its source."""

    cuda: str | None
    architectures: tuple[str, ...]
    """Compute capabilities of the GPUs that the stack names."""
    cmake: tuple[str, ...]
    system: System
    """The system of the machine that builds."""


def target_of(pin: Pin, settings: Settings) -> Target:
    """Return what the recipe needs to know of a pinned source."""
    number, commit = pin.about.get("number"), pin.about.get("commit")
    return Target(
        number=number if isinstance(number, int) else None,
        commit=commit if isinstance(commit, str) else None,
        system=settings.system,
        cuda=settings.cuda,
        architectures=settings.architectures,
        cmake=settings.cmake,
    )


def build_from_source(
    pin: Pin,
    settings: Settings,
    patches: Sequence[Patch],
    into: Path,
    *,
    work: Path,
    around: Surroundings,
    say: Callable[[str], None],
) -> Compiled:
    """Build the pinned source into ``into``; ``work`` keeps what builds share.

    Raises EngineError, SourceError and StoreError; running it again carries on.
    """
    target = target_of(pin, settings)
    if refused := refusals(target):
        raise EngineError(refused[0].what, hint=refused[0].hint)
    job = Job(
        name=f"llama-server {_called(target, pin)}",
        source=digest(
            {name: x for name, x in pin.identity.items() if name != "patches"}
        ),
        lay_out=lambda folder: fetch_patched(pin, patches, folder, around),
        target=target,
        jobs=cores(),
    )
    work.mkdir(parents=True, exist_ok=True, mode=0o700)
    return compile_server(
        job,
        into,
        work=work,
        tools=find_toolchain(around.environment, cuda=settings.cuda),
        progress=around.progress,
        say=say,
    )


def _called(target: Target, pin: Pin) -> str:
    if target.number is not None:
        return f"b{target.number}"
    return (target.commit or str(pin.where.get("path", "")))[:9]
