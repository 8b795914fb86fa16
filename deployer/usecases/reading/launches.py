"""How llama-server is started elsewhere: a command line, a script, `docker run`."""

import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

from deployer.errors import UsageError
from deployer.llama.adopted import Left, Value, Word


@dataclass(slots=True)
class Launch:
    """One llama-server as another program would start it."""

    name: str
    words: list[Word] = field(default_factory=list)
    """Options, without the program."""
    variables: dict[str, Word] = field(default_factory=dict)
    folder: Path = Path()
    """Where relative paths begin."""
    program: str = ""
    """The llama-server, where it is one of this machine."""
    image: str = ""
    """The image of its container; empty for none."""
    mounts: dict[str, str] = field(default_factory=dict)
    """Folders of the container -> of this machine; empty: of no folder of it."""
    ports: dict[int, tuple[str, int]] = field(default_factory=dict)
    """Ports of the container -> host and port of this machine."""
    idle: Word | None = None
    """Rest after which it frees its memory, where its form has one."""
    more: dict[str, Value] = field(default_factory=dict)
    """Fields that no option says."""
    left: list[Left] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


_STARTERS: Final = frozenset(("exec", "nohup", "env", "sudo", "time", "export"))
Lookup: TypeAlias = Callable[[str], str | None]

_PROGRAM: Final = re.compile(r"(.*/)?llama-server([-.][\w.-]*)?")
IMAGE: Final = re.compile(r"llama[._-]?cpp|llama-server", re.IGNORECASE)
_END: Final = re.compile(r"[;&|]{1,2}|\d?>{1,2}.*|<.*|2>&1")
SET: Final = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
_REFERENCE: Final = re.compile(
    r"\$\$|\$\{(?P<braced>\w+)(?P<how>:?[-?+])?(?P<rest>[^}]*)\}|\$(?P<plain>[A-Za-z_]\w*)"
)


def split(text: str, file: str, line: int = 1) -> list[Word]:
    """Cut a command line as a shell does; each word with the line that it begins in.

    Raises UsageError where a quote is not closed.
    """
    words: list[Word] = []
    pending, begun = "", line
    for number, row in enumerate(text.splitlines(), start=line):
        if not pending:
            begun = number
            if row.lstrip().startswith("#"):
                continue
        whole = pending + row.removesuffix("\\")
        try:
            parts = shlex.split(whole)
        except ValueError:
            pending = f"{whole}\n"
            continue
        pending = ""
        for part in parts:
            if part.startswith("#") and f" {part}" in whole:
                break
            words.append(Word(part, f"{file}:{begun}" if file else ""))
    if pending:
        raise UsageError(f"{file}:{begun}: a quote is not closed", hint="close it")
    return words


def expanded(text: str, lookup: Lookup) -> str:
    """The text with its variables; one that is not set stays as it is written."""

    def value(found: re.Match[str]) -> str:
        if found[0] == "$$":
            return "$"
        name, how = found["braced"] or found["plain"], found["how"] or ""
        given = lookup(name)
        if "-" in how and (given is None or (how == ":-" and not given)):
            return expanded(found["rest"], lookup)
        if "+" in how:
            return expanded(found["rest"], lookup) if given else ""
        return found[0] if given is None else given

    return _REFERENCE.sub(value, text)


def of_words(
    words: Sequence[Word], folder: Path, variables: Mapping[str, Word], name: str = ""
) -> Launch | None:
    """The launch that a command line is, also behind `docker run`; None for none."""
    texts = [word.text for word in words]
    for at, text in enumerate(texts):
        if text in ("docker", "podman") and "run" in texts[at : at + 4]:
            return _docker([*words[texts.index("run", at) + 1 :]], folder, variables)
        if text in ("-c", "-lc", "-ec") and at and texts[at - 1].endswith("sh"):
            inner = split(words[at + 1].text, words[at + 1].origin.rpartition(":")[0])
            here = [Word(it.text, words[at + 1].origin) for it in inner]
            return of_words(here, folder, variables, name)
    programs = (i for i, it in enumerate(texts) if _PROGRAM.fullmatch(it))
    if (at := next(programs, -1)) < 0:
        return None
    own = dict(variables)
    made = Launch(name, folder=folder, program=texts[at])
    before = []
    for word in words[:at]:
        if found := SET.fullmatch(word.text):
            own[found[1]] = Word(found[2], word.origin)
        elif word.text not in _STARTERS:
            before.append(word)
    if before:
        what = " ".join(word.text for word in before)[:60]
        why = "deployer starts llama-server itself"
        made.left.append(Left(what, why, before[0].origin))
    made.words = _until_end(words[at + 1 :])
    made.variables = own
    return made


def _until_end(words: Sequence[Word]) -> list[Word]:
    """The words up to what is the shell's."""
    found: list[Word] = []
    for word in words:
        if _END.fullmatch(word.text):
            break
        found.append(word)
        if word.text.endswith(";") and len(word.text) > 1:
            found[-1] = Word(word.text[:-1], word.origin)
            break
    return found


_ALONE: Final = frozenset(
    {
        *("-d", "--detach", "-i", "-t", "-it", "-ti", "-dit", "-itd", "--rm", "--init"),
        *("--privileged", "-P", "--tty", "--interactive", "--read-only"),
    }
)
"""Options of `docker run` that take no value."""


def _docker(
    words: list[Word], folder: Path, variables: Mapping[str, Word]
) -> Launch | None:
    """Read the words behind `docker run`."""
    made = Launch("", folder=folder, variables=dict(variables))
    made.variables = {}
    while words and words[0].text.startswith("-"):
        option = words.pop(0)
        name, equals, value = option.text.partition("=")
        if not equals and name not in _ALONE and words:
            value = words.pop(0).text
        _docker_option(made, name, value, option.origin)
    if not words:
        return None
    made.image = words.pop(0).text
    if not IMAGE.search(made.image) and not any(
        _PROGRAM.fullmatch(word.text) for word in words
    ):
        return None
    if words and _PROGRAM.fullmatch(words[0].text):
        words.pop(0)
    made.words = _until_end(words)
    return made


def _docker_option(made: Launch, name: str, value: str, origin: str) -> None:
    match name:
        case "-v" | "--volume":
            mount(made, value)
        case "-p" | "--publish":
            publish(made, value)
        case "-e" | "--env":
            variable, equals, text = value.partition("=")
            known = text if equals else f"${{{variable}}}"
            made.variables[variable] = Word(known, origin)
        case "--name":
            made.name = value
        case _ if name in _ALONE or name in ("--restart", "--pull"):
            pass
        case "--gpus" | "--device" | "--runtime":
            made.notes.append(GPU)
        case _:
            why = "a setting of the container: deployer starts no container here"
            made.left.append(Left(f"docker {name}", why, origin))


GPU: Final = (
    "the container is given a GPU: a build for it needs `llama_cpp.cuda` (a version"
    " such as `12.8.1`) or `llama_cpp.backend: vulkan`"
)


def mount(made: Launch, text: str) -> None:
    """A volume in its short form: `OUTSIDE:INSIDE[:MODE]`."""
    outside, _, rest = text.partition(":")
    inside = rest.partition(":")[0] or outside
    is_folder = outside.startswith((".", "/", "~"))
    here = made.folder / Path(outside).expanduser() if is_folder else ""
    made.mounts[inside] = str(here)


def publish(made: Launch, text: str) -> None:
    """A port in its short form: `[[IP:]HOST:]CONTAINER[/tcp]`."""
    *address, host, inside = ["", *text.partition("/")[0].rsplit(":", 2)]
    if inside.isdecimal():
        outside = host if host.isdecimal() else inside
        where = next((it.strip("[]") for it in address if it), "0.0.0.0")  # noqa: S104 - what is published
        made.ports[int(inside)] = (where, int(outside))


def shell(path: Path, text: str, environment: Mapping[str, str]) -> Iterator[Launch]:
    """A script, or a line of a history: assignments, and every llama-server."""
    known: dict[str, str] = dict(environment)
    exported: dict[str, Word] = {}
    for words in _commands(split(text, str(path)), text):
        here = [_tilde(Word(expanded(w.text, known.get), w.origin)) for w in words]
        texts = [word.text for word in here]
        sets = [it for it in map(SET.fullmatch, texts) if it]
        plain = [it for it in texts if it not in ("export", "readonly")]
        if sets and len(sets) == len(plain):
            known |= {it[1]: it[2] for it in sets}
            if texts[0] == "export":
                exported |= {it[1]: Word(it[2], here[0].origin) for it in sets}
            continue
        if (made := of_words(here, path.parent, exported)) is not None:
            yield made


def _commands(words: list[Word], text: str) -> Iterator[list[Word]]:
    """The words, cut where a command ends: at a line's end, `;`, `&&`, `|`."""
    rows = text.splitlines()
    command: list[Word] = []
    for at, word in enumerate(words):
        command.append(word)
        line = int(word.origin.rpartition(":")[2])
        after = words[at + 1] if at + 1 < len(words) else None
        ends = word.text in (";", "&&", "||", "&") or word.text.endswith(";")
        if after is not None and not ends:
            new = int(after.origin.rpartition(":")[2])
            ends = new != line and not _continues(rows, line, new)
        if ends or after is None:
            yield command
            command = []


def _continues(rows: list[str], line: int, new: int) -> bool:
    """Return whether every line up to the new one goes on."""
    between = [
        row for row in rows[line - 1 : new - 1] if not row.lstrip().startswith("#")
    ]
    return all(row.rstrip().endswith(("\\", "(")) for row in between)


def _tilde(word: Word) -> Word:
    return Word(str(Path(word.text).expanduser()), word.origin)
