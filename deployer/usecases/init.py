"""`init`: the files a new project starts from."""

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from deployer.engines.registry import templates
from deployer.errors import UsageError
from deployer.system.files import contained, read_regular

_IGNORED = (".deployer/", ".env")


def start_project(path: Path, template: str) -> Iterator[Path]:
    """Write the stack, its schema, `.env.example` and `.gitignore` lines.

    Yields every file that was written.  Raises UsageError where the stack is there
    already, or the template is unknown, and StoreError where a link leads out of the
    project; nothing is overwritten.
    """
    there = templates()
    if template not in there:
        known = "; ".join(f"`{name}`: {it.purpose}" for name, it in there.items())
        raise UsageError(f"no template `{template}`", hint=known)
    if path.exists():
        raise UsageError(
            f"`{path}` exists already", hint="give another path; nothing was written"
        )
    schema = path.parent.parent / "schema" / "stack.schema.json"
    example, ignore = path.with_name(".env.example"), path.with_name(".gitignore")
    named = there[template].beside
    beside = path.with_name(Path(named).name) if named else None
    for file in (path, schema, example, ignore, *([beside] if beside else [])):
        contained(path.parent.parent, file)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = _resource(there[template].file).replace("NAME", _name(path))
    path.write_text(text, encoding="utf-8")
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
