"""chat: a conversation in the terminal with what is live."""

import sys
from base64 import b64encode
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from deployer.cli.options import the_stack
from deployer.cli.terminal import is_coloured, style, styled
from deployer.errors import CancelledError, DeployerError, UsageError
from deployer.gates.harness.answers import show_time
from deployer.spelling import did_you_mean, harmless, speakable
from deployer.stack.fields.values import JsonValue
from deployer.system.files import read_regular
from deployer.usecases.context.settings import settings_of

if TYPE_CHECKING:
    from deployer.gates.harness.conversation import Conversation, Figures, Piece, Said
    from deployer.usecases.check import Opened


_COMMANDS: Final = ("/clear", "/system", "/file", "/exit")
_IMAGES: Final = {
    ".png": "image/png",
    **dict.fromkeys((".jpg", ".jpeg"), "image/jpeg"),
    ".webp": "image/webp",
}
_LARGEST = 16 << 20
"""Bytes that are read of a file."""


@click.command("chat", short_help="Chat with a live stack in the terminal.")
@click.argument("stack", type=click.Path(path_type=Path), required=False)
@click.option("--url", metavar="URL", help="Chat with any llama-server.")
@click.option(
    "--api-key-env",
    metavar="NAME",
    help="With --url: environment variable that contains the key.",
)
@click.option("--system", default="", metavar="TEXT", help="The system prompt.")
@click.option(
    "--thinking-budget",
    "budget",
    type=click.IntRange(min=0),
    metavar="N",
    help="Limit of thinking tokens.",
)
@click.option(
    "--max-tokens",
    "limit",
    type=click.IntRange(min=1),
    default=2048,
    show_default=True,
    metavar="N",
    help="Limit of tokens of an answer.",
)
@click.option(
    "--file",
    "files",
    type=click.Path(path_type=Path, dir_okay=False),
    multiple=True,
    help="Put a file of text, or an image, before the first prompt.",
)
@click.option("--once", metavar="PROMPT", help="Ask this, print the answer and exit.")
def chat_command(  # noqa: PLR0913 - one parameter an option
    stack: Path | None,
    url: str | None,
    api_key_env: str | None,
    *,
    system: str,
    budget: int | None,
    limit: int,
    files: tuple[Path, ...],
    once: str | None,
) -> None:
    """Talk with what is live; thinking is dim, and each answer ends with its timings.

    /clear forgets what was said, /system TEXT sets the system prompt, /file PATH puts
    a file before the next prompt, /exit ends.
    Ctrl-C ends an answer, and at the prompt the chat.  Without a terminal stdin is
    the prompt: the answer goes to stdout, all else to stderr.

    \b
    Example:
      deployer chat stacks/demo.yaml
      git diff | deployer chat stacks/demo.yaml --system "Review this change"
    """
    if stack is None and url is None:
        stack = the_stack()
    elif stack is not None and url is not None:
        raise UsageError(
            "give a stack or `--url`, one of the two",
            hint="deployer chat stacks/demo.yaml",
        )
    if once is None and not sys.stdin.isatty():
        once = sys.stdin.buffer.read().decode(errors="replace").strip()
    if once is not None and not once.strip():
        raise UsageError("no prompt was given", hint='write `--once "Hello"`')
    opened = _opened(stack, url, api_key_env, system, (budget, limit))
    opened.conversation.attached += map(_part_of, files)
    if once is not None:
        _ask_once(opened.conversation, once)
    else:
        _talk(opened)


def _opened(
    stack: Path | None,
    url: str | None,
    api_key_env: str | None,
    system: str,
    limits: tuple[int | None, int],
) -> "Opened":
    from deployer.usecases.check import (  # noqa: PLC0415 - httpx is slow to import
        Chatting,
        chat_at,
        chat_with,
    )

    chatting = Chatting(system, *limits)
    if url is not None:
        return chat_at(url, api_key_env, settings_of(), chatting)
    return chat_with(Path(stack or ""), settings_of(), chatting)


def _ask_once(conversation: "Conversation", prompt: str) -> None:
    """The plain answer to stdout, the rest to stderr."""
    said = _answer(conversation, prompt)
    if said.ended:
        raise CancelledError("the answer was ended")


def _talk(opened: "Opened") -> None:
    _edit_lines()
    conversation = opened.conversation
    click.echo(harmless(f"{opened.name} · {opened.url}"))
    _dim("/clear forgets, /system TEXT, /file PATH, /exit; Ctrl-C ends an answer")
    while (line := _prompt()) is not None:
        if line.startswith("/") and not line.startswith("//"):
            if not _obey(conversation, line):
                return
            continue
        if not (prompt := line.removeprefix("/")):
            continue
        try:
            _answer(conversation, prompt)
        except DeployerError as error:
            click.echo(harmless(f"error: {error.message}"), err=True)
            if error.hint:
                click.echo(harmless(f"  hint: {error.hint}"), err=True)


def _edit_lines() -> None:
    """Arrow keys and what was typed before, where Python has them."""
    try:
        import readline  # noqa: F401, PLC0415 - changes what `input` does
    except ImportError:
        return


def _prompt() -> str | None:
    """Return the typed line; None for the end."""
    click.echo()
    try:
        return input("> ").strip()
    except (EOFError, KeyboardInterrupt):
        click.echo()
        return None


def _obey(conversation: "Conversation", line: str) -> bool:
    """Carry out a command of the chat; false ends it."""
    word, _, rest = line.partition(" ")
    match word:
        case "/exit" | "/quit":
            return False
        case "/clear":
            conversation.clear()
            _dim("forgotten")
        case "/system":
            conversation.system = rest.strip()
            _dim("set" if rest.strip() else "there is none any more")
        case "/file":
            try:
                conversation.attached.append(_part_of(Path(rest.strip()).expanduser()))
            except DeployerError as error:
                click.echo(harmless(f"error: {error.message}"), err=True)
            else:
                _dim("it goes with the next prompt")
        case _:
            near = did_you_mean(word, _COMMANDS)
            hint = near or f"there are {', '.join(_COMMANDS)}"
            click.echo(harmless(f"there is no `{word}`; {hint}"), err=True)
    return True


def _part_of(file: Path) -> JsonValue:
    """Return a file as a part of a message; raises UsageError for what is none."""
    try:
        content = read_regular(file, _LARGEST)
    except OSError as error:
        raise UsageError(f"`{file}` cannot be read: {error.strerror}") from error
    if (kind := _IMAGES.get(file.suffix.lower())) is not None:
        url = f"data:{kind};base64,{b64encode(content).decode()}"
        return {"type": "image_url", "image_url": {"url": url}}
    try:
        return {"type": "text", "text": f"{file.name}:\n\n{content.decode()}\n"}
    except UnicodeDecodeError:
        known = ", ".join(_IMAGES)
        raise UsageError(f"`{file}` is no text, and no image ({known})") from None


def _answer(conversation: "Conversation", prompt: str) -> "Said":
    """Ask, print the answer while it comes, and what it took."""
    printer = _Printer()
    try:
        said = conversation.ask(prompt, printer)
    finally:
        printer.end()
    notes = [figures_line(said.figures)]
    notes += ["cut: the context or --max-tokens is full"] if said.cut else []
    notes += [f"stopped: {said.stop}"] if said.stop else []
    notes += ["ended by you"] if said.ended else []
    if not said.text and not said.ended:
        notes += ["no answer came"]
    _dim(harmless(" · ".join(filter(None, notes))), err=True)
    return said


class _Printer:
    """Prints pieces: the answer to stdout, thinking to a terminal on stderr."""

    def __init__(self) -> None:
        self._thinking = False
        self._begun = False
        self._line_is_open = False

    def __call__(self, piece: "Piece") -> None:
        """Print one piece."""
        text = piece.text
        if piece.thinking != self._thinking:
            self._turn(piece)
        if not self._begun:
            text = text.lstrip()
        if not text or (piece.thinking and not sys.stderr.isatty()):
            return
        self._begun = True
        self._line_is_open = not text.endswith("\n")
        shown = speakable(text)
        if piece.thinking:
            _dim(shown, nl=False, err=True)
        else:
            click.echo(shown, nl=False, file=styled(sys.stdout))

    def _turn(self, piece: "Piece") -> None:
        """From thinking to the answer, or back."""
        if sys.stderr.isatty():
            self._close(err=True)
            head = "thinking" if piece.thinking else "answer"
            _dim(f"── {head}", err=True)
        self._thinking, self._begun = piece.thinking, False

    def end(self) -> None:
        """End the last line."""
        self._close(err=self._thinking)

    def _close(self, *, err: bool) -> None:
        if self._line_is_open:
            click.echo(err=err)
        self._line_is_open = False


def figures_line(figures: "Figures") -> str:
    """Return the cost of an answer, in words; unknown figures are left out."""
    parts = []
    if figures.tokens is not None:
        thought = f" ({figures.thought} of them thinking)" if figures.thought else ""
        parts.append(f"{figures.tokens} tokens{thought}")
    if figures.per_second is not None:
        here = " as seen here" if figures.measured_here else ""
        parts.append(f"{figures.per_second:.1f} tokens/s{here}")
    if figures.first_seconds is not None:
        took = show_time(figures.first_seconds)
        parts.append(f"TTFT {took} as seen here")
    if figures.prompt is not None and figures.cached is not None:
        parts.append(f"{figures.cached} of {figures.prompt} prompt tokens cached")
    elif figures.prompt is not None:
        parts.append(f"{figures.prompt} prompt tokens")
    return " · ".join(parts)


def _dim(text: str, *, nl: bool = True, err: bool = False) -> None:
    """Print harmless text, dim on a terminal that has colours."""
    stream = sys.stderr if err else sys.stdout
    text = style(text, "dim") if is_coloured(stream) else text
    click.echo(text, styled(stream), nl, color=is_coloured(stream))
