"""Where the `deployer` command begins: what is known already needs no command line."""

import atexit
import gc
import os
import sys

from deployer import __version__, interrupts, version_line


def run() -> None:
    """Answer from what earlier runs kept, or run the command line; then exit."""
    interrupts.end_at_once()
    gc.set_threshold(150_000, 10, 10)  # importing makes much, and no garbage
    left: list[int] = []
    atexit.register(_leave, left)  # the first to be registered is the last to run
    words = sys.argv[1:]
    if (text := _known(words)) is None or not _said(text):
        from deployer.cli.main import run as run_all  # noqa: PLC0415 - slow to import

        left.append(run_all())
    else:
        left.append(0)
    interrupts.ignore()
    sys.exit(left[0])


def _leave(left: list[int]) -> None:
    """End at once when all is done: taking a large interpreter apart takes long."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):  # Python tells it, as it always does
        return
    if left:
        os._exit(left[0])


def _known(words: list[str]) -> str | None:
    if "_DEPLOYER_COMPLETE" in os.environ:
        return None
    match words:
        case ["version"]:
            return f"{version_line()}\n"
        case ["--version"]:
            return f"deployer, version {__version__}\n"
        case ["plan" | "apply", *_]:
            from deployer.answers.kept import call_of, find  # noqa: PLC0415 - hashes

            call = call_of(words)
            return find(call, dict(os.environ)) if call else None
        case _:
            return None


def _said(text: str) -> bool:
    """Print; False where that does not work, and is to be told in words."""
    try:
        if sys.stdout.encoding.lower() != "utf-8":
            return False
        left = text.encode()
        while left:
            left = left[os.write(sys.stdout.fileno(), left) :]
    except (OSError, AttributeError):  # nobody reads; or there is no stdout
        return False
    return True
