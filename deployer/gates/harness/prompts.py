"""Files of prompts: one JSON object a line, with what is expected of its answer.

    {"prompt": "Name the capital of France.", "contains": "Paris"}
    {"prompt": "1 + 1 =", "regex": "^2( |$)", "max_tokens": 4}
    {"prompt": "A city as JSON.", "json_schema": {"type": "object"}}

Every expectation of a line has to hold.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import ConfigDict, Field, JsonValue, ValidationError

from deployer.gates.checks.json_schema import misfit, schema_problem
from deployer.gates.harness.answers import Shape, excerpt, first_problem
from deployer.gates.harness.requests import Body, chat_body
from deployer.planning.verdict import Exchange
from deployer.system.files import read_regular

_MOST_BYTES: Final = 16 * 2**20
_EXPECTATIONS: Final = ("exact", "regex", "contains", "json_schema")


class Prompt(Shape):
    """One line of the file."""

    model_config = ConfigDict(extra="forbid")

    prompt: str = Field(min_length=1)
    system: str | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    exact: str | None = None
    """The whole answer, without the space around it."""
    regex: str | None = None
    """Found somewhere in the answer."""
    contains: str | None = None
    """In the answer, in any case of letters."""
    json_schema: dict[str, JsonValue] | bool | None = None
    """The answer is JSON that fits."""

    def body(self, max_tokens: int) -> Body:
        """The request; the line's own limit comes first."""
        user: JsonValue = {"role": "user", "content": self.prompt}
        system: JsonValue = {"role": "system", "content": self.system}
        messages = [user] if self.system is None else [system, user]
        return chat_body("", self.max_tokens or max_tokens, messages=messages)

    def complaint(self, answer: str) -> str:
        """Return what is expected and not so; empty when all is as expected."""
        text = answer.strip()
        shown = f"`{excerpt(text, 60) or 'nothing'}`"
        if self.exact is not None and text != self.exact.strip():
            return f"{shown} is not `{excerpt(self.exact, 60)}`"
        if self.regex is not None and not re.search(self.regex, text):
            return f"{shown} does not match `{excerpt(self.regex, 60)}`"
        wanted = self.contains
        if wanted is not None and wanted.casefold() not in text.casefold():
            return f"{shown} does not hold `{excerpt(wanted, 60)}`"
        if self.json_schema is not None:
            problem = misfit(text, self.json_schema)
            return f"{shown} {problem}" if problem else ""
        return ""


@dataclass(frozen=True, slots=True)
class Numbered:
    """A prompt, and the line it stands on."""

    line: int
    prompt: Prompt


@dataclass(frozen=True, slots=True)
class Prompts:
    """The content of a file."""

    name: str
    """As the stack names it."""
    digest: str
    """SHA-256 of the file in hexadecimal digits."""
    lines: tuple[Numbered, ...]

    @property
    def evidence(self) -> Exchange:
        """What the file was, for the report."""
        said = f"sha256 {self.digest}, {len(self.lines)} prompts"
        return Exchange(f"read {self.name}", None, said, 0.0)


def read_prompts(folder: Path | None, name: str, *, expecting: bool) -> Prompts | str:
    """The prompts of a file beside the stack, or what is wrong with it.

    `expecting` asks for at least one expectation a line.
    """
    path = Path(name) if folder is None else folder / name
    if not path.is_absolute():
        return f"`{name}` is relative to a stack, and there is none"
    try:
        content = read_regular(path, _MOST_BYTES + 1)
    except OSError as error:
        reason = (error.strerror or "it cannot be read").lower()
        return f"`{name}`: {reason}; paths are relative to the stack"
    if len(content) > _MOST_BYTES:
        return f"`{name}` is longer than {_MOST_BYTES >> 20} MiB"
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return f"`{name}` is not UTF-8 at byte {error.start}"
    lines = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        found = _read(line, expecting=expecting)
        if isinstance(found, str):
            return f"{name}:{number}: {found}"
        lines.append(Numbered(number, found))
    if not lines:
        return f"`{name}` holds no prompt"
    return Prompts(name, hashlib.sha256(content).hexdigest(), tuple(lines))


def _read(line: str, *, expecting: bool) -> Prompt | str:
    try:
        prompt = Prompt.model_validate_json(line.strip())
    except ValidationError as error:
        return first_problem(error)
    if expecting and not prompt.model_fields_set & set(_EXPECTATIONS):
        return f"it expects nothing; add one of `{'`, `'.join(_EXPECTATIONS)}`"
    if prompt.regex is not None:
        try:
            re.compile(prompt.regex)
        except re.error as error:
            return f"`regex` is wrong: {error}"
    if prompt.json_schema is not None and (
        problem := schema_problem(prompt.json_schema)
    ):
        return f"`json_schema`: {problem}"
    return prompt
