"""Validate or render a stack; nothing is made."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import deployer
from deployer.artefacts import lock_file
from deployer.diagnostics import UNCERTAIN, Diagnostic
from deployer.engines.place import render
from deployer.errors import AuthError, InternalError, SourceError, UsageError
from deployer.planning.progress import Watch, unwatched
from deployer.stack.fields.values import JsonValue
from deployer.system.files import as_the_user
from deployer.usecases.context.settings import Options, Settings
from deployer.usecases.plan import policy_findings, prepare

if TYPE_CHECKING:
    from deployer.engines.contract import Rendering
    from deployer.planning.resources import Graph


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
    from deployer.usecases.reading.findings import refusals_of, refuse, stated_options  # noqa: PLC0415 - as above
    from deployer.usecases.reading.pins import image_notes  # noqa: PLC0415 - as above
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
    values = loaded.values if unsaved is None else None
    schema = by_schema(stack_file, values, stack.engine)
    host, port = stack.of_engine("host"), stack.of_engine("port")
    listens = "" if port is None else f"{host}:{port}"
    more = (*image_notes(stack, locked), *known_offline(loaded, stack_file, stated))
    values = loaded.values if isinstance(loaded.values, dict) else {}
    notices += policy_findings(
        stack_file, settings, stack.name, values, loaded.places, planned=False
    )
    return Valid((*loaded.notes, *more), notices, listens, schema)


def by_schema(stack_file: Path, values: JsonValue, engine: str) -> str:
    """Return the version of the published schema, which accepts the values.

    Empty for what is not held against it: None, and a stack of an engine that another
    package registers.
    """
    if values is None:
        return ""
    from jsonschema import Draft7Validator  # noqa: PLC0415 - slow, and only here

    # A wheel carries the published file; a checkout has it beside the package.
    package = Path(deployer.__file__).parent
    shipped = package / "stack.schema.json"
    file = shipped if shipped.exists() else package.parent / "schema" / shipped.name
    schema = json.loads(file.read_text("utf-8"))
    if engine not in schema["properties"]["engine"]["enum"]:
        return ""
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

    Without a lock file, and where sources cannot be asked, what they would pin is made
    of zeros, and the rendering says so.  Raises what planning raises, and EngineError
    for what the engine cannot make.
    """
    place = settings.place(stack_file)
    try:
        prepared, _ = prepare(stack_file, settings, options, watch)
    except (SourceError, AuthError):
        if options.locked or lock_file.lock_path(stack_file).exists():
            raise
        found = _unpinned(stack_file, settings, options)
        if found is None:
            raise
        graph, engine, unpinned = found
        return replace(render(engine, graph, place), unpinned=unpinned)
    return render(prepared.engine, prepared.graph, place)


def _unpinned(
    stack_file: Path, settings: Settings, options: Options
) -> "tuple[Graph, str, tuple[str, ...]] | None":
    """The resources of a stack with zeros for each digest, and what those stand for.

    None for sources whose very form is unknown before they are asked.
    """
    from deployer.engines.place import abilities_of, narrowed  # noqa: PLC0415 - rare
    from deployer.planning.facts import Facts, sources_of, unpinned  # noqa: PLC0415 - as above
    from deployer.planning.graph import expand  # noqa: PLC0415 - as above
    from deployer.stack.load import load  # noqa: PLC0415 - as above

    allowed = settings.allowed(stack_file)
    stack = load(stack_file, engine=options.engine, allowed=allowed).stack
    able = abilities_of(stack.engine, settings.environment, settings.home)
    roles = ("build", *stack.model.sources)
    pins = {role: unpinned(stack, role) for role in roles}
    if None in pins.values():
        return None
    known = {role: pin for role, pin in pins.items() if pin is not None}
    graph = expand(stack, Facts.of(known, {}), narrowed(stack, able))
    names = (f"{role} ({sources_of(stack, role)[0]})" for role in roles)
    return graph, stack.engine, tuple(names)


def write(rendering: "Rendering", folder: Path) -> tuple[Path, ...]:
    """Put the files into a folder, which is made; what they replace is overwritten."""
    from deployer.engines.contract import write_files  # noqa: PLC0415 - not to validate

    with as_the_user():
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise UsageError(f"`{folder}` is a file", hint="name a folder") from None
        return write_files(rendering.files, folder)
