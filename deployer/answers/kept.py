"""Answers of earlier runs, kept with everything they depend on.

`plan` says the same as before while no input has changed, and so does an `apply` that
has nothing to do: then the text of the last full run is the answer, and neither model,
YAML nor command line is imported.  Whatever differs, or cannot be told, is left to the
full run; so is every call with an option that is not listed here.
"""

import os
from hashlib import sha256

from deployer.answers.inputs import Input, code, digest, look
from deployer.answers.private import read, write
from deployer.home import home_of

_YES = ("--yes", "-y")
"""Options of `apply` that change nothing where there is nothing to ask."""
_VARIABLES = ("HOME", "PATH", "XDG_DATA_HOME")
"""Variables that decide what is read, beside our own."""
_OURS = "DEPLOYER_"


def call_of(words: list[str]) -> tuple[str, ...]:
    """The words of a call that may be answered from here; none for any other."""
    match words:
        case ["plan", *paths] if paths and not any(p.startswith("-") for p in paths):
            return tuple(words)
        case ["apply", *rest]:
            paths = [word for word in rest if word not in _YES]
            plain = len(paths) == 1 and not paths[0].startswith("-")
            return ("apply", paths[0]) if plain else ()
        case _:
            return ()


def find(call: tuple[str, ...], environment: dict[str, str]) -> str | None:
    """What the last full run of a call said, if it would say the same again."""
    try:
        content = read(folder_of(home_of(environment)), _name(call))
        head, _, rest = content.partition(b"\n")
        if head != sha256(rest).hexdigest().encode():
            return None
        about, _, text = rest.decode().partition("\n\n")
        first, *inputs = about.split("\n")
        if first != _surroundings(environment) or not _still_so(inputs):
            return None
    except (OSError, ValueError):
        return None
    return text


def keep(
    call: tuple[str, ...],
    environment: dict[str, str],
    inputs: tuple[Input, ...],
    text: str,
) -> None:
    """Remember what a full run said; not being able to is no error.

    The inputs have to be `unchanged` since before they were read.
    """
    try:
        lines = [_surroundings(environment), *(_line(*it) for it in inputs)]
        rest = "\n".join(lines).encode() + b"\n\n" + text.encode()
        content = sha256(rest).hexdigest().encode() + b"\n" + rest
        write(folder_of(home_of(environment)), _name(call), content)
    except (OSError, ValueError):
        return


def folder_of(home: str) -> str:
    """Where the answers are kept."""
    return f"{home}/cache/answers"


def _name(call: tuple[str, ...]) -> str:
    return digest(os.getcwd(), *call)[:32]


def _surroundings(environment: dict[str, str]) -> str:
    """One digest of what every answer depends on."""
    names = sorted(n for n in environment if n in _VARIABLES or n.startswith(_OURS))
    variables = (f"{name}={environment[name]}" for name in names)
    machine = (os.uname().release, str(os.geteuid()))
    return digest("1", code(), *machine, *variables)


def _line(how: str, path: str) -> str:
    word = look(how, path)
    if any(sign in path or sign in word for sign in "\t\n"):
        raise ValueError("not on one line")
    return f"{how}\t{word}\t{path}"


def _still_so(lines: list[str]) -> bool:
    for line in lines:
        how, word, path = line.split("\t")
        if look(how, path) != word:
            return False
    return True
