"""What this machine can build with: cmake, a compiler, ninja, ccache, nvcc."""

import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deployer.errors import EngineError
from deployer.llama.build.recipe import toolkit
from deployer.system.children import COMPILERS, find_program, variables

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
    """Of cmake: ``Ninja`` or ``Unix Makefiles``."""
    ccache: bool
    nvcc: str | None
    environment: Mapping[str, str]
    """What the programs run with."""
    notes: tuple[str, ...] = ()
    """What the user should know."""


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
    """Whether compiling through ccache works, and what to say where it does not."""
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
