"""Validate or render a stack; nothing is made."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import deployer
from deployer.artefacts import lock_file
from deployer.diagnostics import UNCERTAIN, Diagnostic
from deployer.engines.place import render
from deployer.errors import InternalError, UsageError
from deployer.planning.progress import Watch, unwatched
from deployer.stack.fields.values import JsonValue
from deployer.system.file_modes import as_the_user
from deployer.usecases.context.settings import Options, Settings
from deployer.usecases.plan import prepare

if TYPE_CHECKING:
    from deployer.engines.contract import Rendering


@dataclass(frozen=True, slots=True)
class Valid:
    """The notes and known issues of a valid stack file."""

    notes: tuple[str, ...]
    notices: tuple[Diagnostic, ...]
    listens: str = ""
    """Host and port of its server on this machine; empty where it has none."""
    schema: str = ""
    """The published schema that accepts the file, by name and version."""

    @property
    def certain(self) -> bool:
        """Return whether everything was checked; an unknown build leaves options."""
        return all(it.code != UNCERTAIN for it in self.notices)


def validate(
    stack_file: Path,
    settings: Settings,
    engine: str | None,
    *,
    unsaved: str | None = None,
) -> Valid:
    """Check a stack file offline; raises StackError with every problem.

    A file that the model accepts is held against the published schema as well; raises
    InternalError where that refuses it.  What is ``unsaved`` in an editor is checked
    in place of the content of the file, by the model alone.
    """
    from deployer.llama.known.advisories import advisories_of  # noqa: PLC0415 - as below
    from deployer.stack.load import load  # noqa: PLC0415 - the model is slow to import
    from deployer.usecases.reading.read_stack import (  # noqa: PLC0415 - as above
        refusals_of,
        refuse,
        stated_options,
    )
    from deployer.usecases.reading.weights import known_offline  # noqa: PLC0415 - as above

    loaded = load(
        stack_file,
        engine=engine,
        allowed=settings.allowed(stack_file),
        unsaved=unsaved,
        further=refusals_of,
    )
    locked = lock_file.read(lock_file.lock_path(stack_file))
    stated = stated_options(loaded, stack_file, settings, locked)
    notices = refuse(loaded, stated, advisories_of(settings.advisories))
    stack = loaded.stack
    schema = "" if unsaved is not None else by_schema(stack_file, loaded.values)
    host, port = stack.of_engine("host"), stack.of_engine("port")
    listens = "" if port is None else f"{host}:{port}"
    notes = (*loaded.notes, *known_offline(loaded, stack_file))
    return Valid(notes, notices, listens, schema)


def by_schema(stack_file: Path, values: JsonValue) -> str:
    """Return the version of the published schema, which accepts the values."""
    from jsonschema import Draft7Validator  # noqa: PLC0415 - slow, and only here

    # A wheel carries the published file; a checkout has it beside the package.
    package = Path(deployer.__file__).parent
    shipped = package / "stack.schema.json"
    file = shipped if shipped.exists() else package.parent / "schema" / shipped.name
    schema = json.loads(file.read_text("utf-8"))
    for refused in Draft7Validator(schema).iter_errors(values):
        raise InternalError(
            f"the published schema ({schema['$id']}) refuses `{refused.json_path}` of"
            f" {stack_file}, which deployer accepts",
            hint="nothing is wrong with the file: report this line, without secrets",
        )
    return str(schema["$id"])


def rendered(
    stack_file: Path, settings: Settings, options: Options, watch: Watch = unwatched
) -> "Rendering":
    """The command line and the files of a stack; a lock file is used, never written.

    Raises what planning raises, and EngineError for what the engine cannot make.
    """
    prepared, _ = prepare(stack_file, settings, options, watch)
    return render(prepared.engine, prepared.graph, settings.place(stack_file))


def write(rendering: "Rendering", folder: Path) -> tuple[Path, ...]:
    """Put the files into a folder, which is made; what they replace is overwritten."""
    from deployer.engines.contract import write_files  # noqa: PLC0415 - not to validate

    with as_the_user():
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise UsageError(f"`{folder}` is a file", hint="name a folder") from None
        return write_files(rendering.files, folder)
