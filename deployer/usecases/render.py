"""A stack as its engine would make it, without making anything."""

from pathlib import Path

from deployer.engines.contract import Rendering, write_files
from deployer.engines.place import render
from deployer.errors import UsageError
from deployer.planning.events import Watch, unwatched
from deployer.system.file_modes import as_the_user
from deployer.usecases.context.settings import Options, Settings
from deployer.usecases.plan import prepare


def rendered(
    stack_file: Path, settings: Settings, options: Options, watch: Watch = unwatched
) -> Rendering:
    """The command line and the files of a stack; a lock file is used, never written.

    Raises what planning raises, and EngineError for what the engine cannot make.
    """
    prepared, _ = prepare(stack_file, settings, options, watch)
    return render(prepared.engine, prepared.graph, settings.place(stack_file))


def write(rendering: Rendering, folder: Path) -> tuple[Path, ...]:
    """Put the files into a folder, which is made; what they replace is overwritten."""
    with as_the_user():
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise UsageError(f"`{folder}` is a file", hint="name a folder") from None
        return write_files(rendering.files, folder)
