"""From the words of a llama-server's command line to the fields of a stack.

The inverse of `deployer.planning.argv`: the same `Flag` marks say which field an
option is, whatever the build spells it like.  An option without a field goes under
`server.flags` by the name that the build of the stack has for it.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Final, NamedTuple

from deployer.llama.catalogue import (
    Catalogue,
    Option,
    Standing,
    Takes,
    catalogue,
    every_name,
    known_builds,
    seen,
    spelled,
)
from deployer.llama.known.tables import newer, older
from deployer.spelling import is_secret_name, nearest
from deployer.stack.fields.marks import Section, fields_of, first_valid
from deployer.stack.fields.model import Model, Snapshot
from deployer.stack.fields.server import Drafting, Server
from deployer.stack.fields.values import (
    DECIDING,
    DEFAULT_KEY,
    ENV,
    TEMPLATE_ENDING,
    Flag,
    JsonValue,
)
from deployer.stack.files import FLAGS


class Word(NamedTuple):
    """A word of a command line, and where it was written."""

    text: str
    origin: str


class Value(NamedTuple):
    """The value of a field of a stack."""

    value: JsonValue
    origin: str
    """The option and the place that it comes from; the value itself is not in it."""


class Left(NamedTuple):
    """Something that a stack cannot say, or need not, and why."""

    what: str
    """Without its value, which may be a secret."""
    reason: str
    origin: str


@dataclass(slots=True)
class Adopted:
    """A command line and its environment, as fields."""

    fields: dict[str, Value] = field(default_factory=dict)
    """By dotted path."""
    left: list[Left] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What the user has to know: contradictions, secrets in the open, guesses."""
    options: int = 0
    """Options that were given, those that are left included."""


_SPEC: Final = "server.speculative."
_TYPE: Final = f"{_SPEC}type"
_LOAD: Final = "--load-mode"
_MODES: Final[Mapping[str, Mapping[str, bool]]] = {
    "mmap": {"mmap": True},
    "none": {"mmap": False},
    "mlock": {"mmap": False, "mlock": True},
    "mmap+mlock": {"mmap": True, "mlock": True},
    "dio": {"direct_io": True},
}
"""Fields by the value of `--load-mode`; `auto` is what leaving them out means."""
_SWITCH: Final[Mapping[str, str]] = {
    **dict.fromkeys(("on", "enabled", "true", "1"), "on"),
    **dict.fromkeys(("off", "disabled", "false", "0"), "off"),
    **dict.fromkeys(("auto", "-1"), "auto"),
}
_NUMBER: Final = re.compile(r"-\.?\d")
_UNSET: Final = re.compile(r"\$\{\w+[^}]*\}|\$[A-Za-z_]\w*|\$\(.*")
_PASSED_ON: Final = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")

_PATHS: Final[Mapping[str, str]] = {
    "--model": "model.path",
    "--mmproj": "model.mmproj.path",
    "--model-draft": "model.draft.path",
    "--model-vocoder": "model.vocoder.path",
}
_ADDRESSES: Final[Mapping[str, str]] = {
    "--model-url": "model.url",
    "--mmproj-url": "model.mmproj.url",
    "--hf-file": "model.file",
    "--hf-file-v": "model.vocoder.file",
}
_REPOSITORIES: Final[Mapping[str, str]] = {
    "--hf-repo": "model",
    "--hf-repo-draft": "model.draft",
    "--hf-repo-v": "model.vocoder",
}
_LISTS: Final[Mapping[str, str]] = {
    "--lora": "model.lora",
    "--lora-scaled": "model.lora",
    "--control-vector": "model.control_vectors",
    "--control-vector-scaled": "model.control_vectors",
}
_ENGINES: Final[Mapping[str, str]] = {
    "--reuse-port": "deployer sets it for the hand-over",
    "--no-mmproj": "a stack without `model.mmproj` loads none",
    "--mmproj-auto": "a projector is named in `model.mmproj`",
    "--offline": "llama-server of a stack never fetches",
    "--hf-token": "weights are fetched by deployer, which reads `HF_TOKEN`",
}
"""Options that say what holds for every stack."""


def adopted(
    words: Iterable[Word],
    variables: Mapping[str, Word],
    known: Catalogue,
    *,
    drafts: bool = False,
) -> Adopted:
    """Return the fields that a command line and its environment become on a build.

    An option of the command line wins over its variable, and one that is said again
    over the first, as in llama-server.  ``drafts`` says that a draft model is known
    from elsewhere.
    """
    uses = [*_of_variables(variables, known), *_uses([*words], known)]
    made = Adopted(options=len(uses))
    kind = _drafting(uses, known, drafts=drafts)
    for use in uses:
        _Carrying(made, known, kind).carry(use)
    _others(made, variables)
    return made


@dataclass(frozen=True, slots=True)
class _Use:
    """An option as it was given."""

    name: str
    option: Option | None
    values: tuple[str, ...]
    origin: str

    @property
    def said(self) -> str:
        """The option and its place, without the value."""
        return f"{self.name}, {self.origin}" if self.origin else self.name

    @property
    def spellings(self) -> tuple[str, ...]:
        """Every name that any build has for it."""
        return _spellings(self.name)

    @property
    def value(self) -> str:
        return self.values[0] if self.values else ""


@cache
def _spellings(name: str) -> tuple[str, ...]:
    found = {spelled(name): None}
    for option in seen(name):
        found |= dict.fromkeys(option.spellings)
    return tuple(found)


def _find(name: str, known: Catalogue) -> Option | None:
    """The option of the build, or else of the newest build that knows the name."""
    found = known.find(name)
    if found is not None and found.standing is not Standing.REMOVED:
        return found
    others = [it for it in seen(name) if it.standing is not Standing.REMOVED]
    return others[-1] if others else found


def _is_option(word: str) -> bool:
    return word.startswith("-") and len(word) > 1 and not _NUMBER.match(word)


def _uses(words: list[Word], known: Catalogue) -> Iterator[_Use]:
    """Cut the words before each option."""
    while words:
        first = words.pop(0)
        name, equals, rest = first.text.partition("=")
        option = _find(name, known) if _is_option(name) else None
        values = [rest] if equals else []
        count = _count(option)
        while not equals and words and len(values) < count:
            if _is_option(words[0].text) and (option is None or _switches(option)):
                break
            values.append(words.pop(0).text)
        yield _Use(name[:60], option, tuple(values), first.origin)


def _count(option: Option | None) -> int:
    if option is None:
        return 1
    return {Takes.NOTHING: 0, Takes.TWO: 2}.get(option.takes, 1)


def _switches(option: Option) -> bool:
    return option.takes is Takes.SWITCH


def _of_variables(variables: Mapping[str, Word], known: Catalogue) -> Iterator[_Use]:
    """The options that are set by variables of the environment."""
    for name, word in variables.items():
        option = None if name == DEFAULT_KEY else _by_variable(name, known)
        if option is None:
            continue
        origin = f"${name} {word.origin}".strip()
        if option.takes is not Takes.NOTHING:
            yield _Use(option.name, option, (word.text,), origin)
        elif _SWITCH.get(word.text.lower()) == "on":
            yield _Use(option.name, option, (), origin)
        elif option.off:
            yield _Use(option.off[0], option, (), origin)


def _by_variable(name: str, known: Catalogue) -> Option | None:
    for found in (known, *(catalogue(it) for it in reversed(known_builds()))):
        for option in found.options:
            if option.env == name:
                return option
    return None


def _drafting(uses: list[_Use], known: Catalogue, *, drafts: bool) -> str:
    """The type of speculative decoding; empty: none, `,`: several."""
    kinds = [use.value for use in uses if use.name == "--spec-type"]
    if kinds:
        return "" if kinds[-1] == "none" else kinds[-1]
    names = {it for use in uses for it in use.spellings}
    simple = drafts or bool({"--model-draft", "--hf-repo-draft"} & names)
    del known
    return "draft-simple" if simple else ""


@dataclass(frozen=True, slots=True)
class _Carrying:
    """Carries one option after the other into the fields."""

    made: Adopted
    known: Catalogue
    kind: str

    def carry(self, use: _Use) -> None:
        names = {*use.spellings}
        own = next((it for it in _ENGINES if spelled(use.name) == it), "")
        if not _is_option(use.name):
            what = "a word that belongs to no option"
            self.made.left.append(Left(what, "llama-server refuses it", use.origin))
        elif {"--api-key", "--api-key-file"} & names:
            self._key(use, in_file="--api-key-file" in names)
        elif variable := next(filter(None, map(_UNSET.search, use.values)), None):
            self.leave(use, f"`{variable[0]}` is not set where this was read")
        elif own:
            self.made.notes.append(f"`{use.name}` needs no field: {_ENGINES[own]}")
        elif self._weights(use, names) or self._ends(use, names):
            pass
        elif _LOAD in names and (use.value in _MODES or use.value == "auto"):
            modes = _MODES.get(use.value, {})
            if use.value == "mlock" and self.known.find(_LOAD) is not None:
                modes = {"mlock": True}  # which older builds take for mapped, too
            for name, value in modes.items():
                self._put(f"server.{name}", value, use)
        elif not self._typed(use, names):
            self._free(use)

    def leave(self, use: _Use, reason: str) -> None:
        self.made.left.append(Left(use.name, reason, use.origin))

    def _put(self, path: str, value: JsonValue, use: _Use) -> None:
        before = self.made.fields.get(path)
        if before is not None and before.value != value:
            self.made.notes.append(
                f"`{path}` is said twice, and differs: {before.origin}, then"
                f" {use.said}, which llama-server takes"
            )
        self.made.fields[path] = Value(value, use.said)

    def _weights(self, use: _Use, names: set[str]) -> bool:
        """Weights of every role, and the files beside them."""
        for table in (_PATHS, _ADDRESSES):
            for option, path in table.items():
                if option in names:
                    self._put(path, use.value, use)
                    return True
        for option, path in _REPOSITORIES.items():
            if option in names:
                self._repository(path, use)
                return True
        for option, path in _LISTS.items():
            if option in names:
                self._listed(path, use, scaled=option.endswith("-scaled"))
                return True
        return False

    def _repository(self, path: str, use: _Use) -> None:
        repo, colon, quant = use.value.partition(":")
        self._put(f"{path}.repo", repo, use)
        if colon:
            self._put(f"{path}.quant", quant, use)
        elif path == "model" and f"{path}.file" not in self.made.fields:
            self.made.notes.append(
                "`model.quant`: llama-server takes Q4_K_M, or the first file of the"
                " repository; deployer names the files that there are"
            )

    def _listed(self, path: str, use: _Use, *, scaled: bool) -> None:
        at = sum(
            1 for it in self.made.fields if re.fullmatch(rf"{path}\.\d+\.path", it)
        )
        parts = use.value.split(",")
        if scaled and len(use.values) == 2:  # older builds take FNAME SCALE
            parts = [":".join(use.values)]
        for number, part in enumerate(parts, start=at):
            name, colon, scale = part.rpartition(":") if scaled else (part, "", "")
            self._put(f"{path}.{number}.path", name if colon else part, use)
            if colon:
                self._put(f"{path}.{number}.scale", float(scale), use)

    def _ends(self, use: _Use, names: set[str]) -> bool:
        """Host and port, and a template of the user's own."""
        if "--host" in names:
            self._put("local.host", use.value, use)
        elif "--port" in names and use.value.isdecimal():
            self._put("local.port", int(use.value), use)
        elif "--chat-template-file" in names:
            self._template(use)
        else:
            return False
        return True

    def _key(self, use: _Use, *, in_file: bool) -> None:
        """A key is never carried, but where it is found."""
        self._put("auth.api_key.env", DEFAULT_KEY, use)
        stood = "stood in the open" if use.value else "is given"
        if in_file or _UNSET.search(use.value):
            stood = "was read from elsewhere"
        self.made.notes.append(
            f"the API key {stood} ({use.said}): the stack reads it from the"
            f" environment variable `{DEFAULT_KEY}`; put it into `.env`"
        )

    def _template(self, use: _Use) -> None:
        if use.value.endswith(TEMPLATE_ENDING):
            self._put("server.chat_template", use.value, use)
        else:
            self.leave(use, f"a template of a stack ends in `{TEMPLATE_ENDING}`")

    def _typed(self, use: _Use, names: set[str]) -> bool:
        """An option that has a field, in any spelling."""
        if "--spec-type" in names:
            return self._spec_type(use)
        found = [it for it in _typed_fields() if it.spelling in names]
        if own := [it for it in found if it.path.startswith(_SPEC)]:
            return self._speculative(use, own)
        if not found:
            return False
        one = found[0]
        value = self._value_of(use, one)
        if use.values and use.value == str(one.flag.default):
            said = f"`{use.name} {use.value}` means what leaving it out means"
            self.made.notes.append(said)
        elif value is None:
            self.leave(use, f"`{one.path}` does not take its value")
        else:
            self._put(one.path, value, use)
        return True

    def _spec_type(self, use: _Use) -> bool:
        if use.value == "none":
            return True
        value = first_valid(Drafting, "type", [use.value])
        if value is None:
            return False
        self._put(_TYPE, value, use)
        return True

    def _speculative(self, use: _Use, own: "list[_Typed]") -> bool:
        """An option of speculative decoding, which depends on the type."""
        if "," in self.kind:
            return False
        fit = [it for it in own if self.kind in it.flag.types]
        if not self.kind:
            self.leave(use, "nothing drafts: no draft model, and no `--spec-type`")
        elif not fit:
            self.leave(use, f"`{self.kind}` does not read it")
        elif (value := self._value_of(use, fit[0])) is None:
            self.leave(use, f"`{fit[0].path}` does not take its value")
        else:
            self.made.fields.setdefault(_TYPE, Value(self.kind, use.said))
            self._put(fit[0].path, value, use)
        return True

    def _value_of(self, use: _Use, one: "_Typed") -> JsonValue:
        """The value of the field; None where it takes none like this."""
        words = one.flag.name.split()[1:]
        if one.is_switch:
            on = use.values == tuple(words) or not use.values
            off = spelled(use.name) in _negative(use)
            return on and not off
        text = use.value
        option = use.option
        if option is not None and option.takes is Takes.SWITCH:
            text = _SWITCH.get(text.lower(), text) if use.values else "on"
        elif not use.values:
            return None
        return first_valid(one.section, one.name, _readings(text))

    def _free(self, use: _Use) -> None:
        """An option without a field, by the name that the build has for it."""
        option, name = use.option, spelled(use.name)
        if option is None:
            close = nearest(name, every_name())
            hint = f"; did you mean `{close}`?" if close else ""
            if self.known.beyond and name.startswith("--"):
                value: JsonValue = _scalar(use.value) if use.values else True
                self._put(f"{FLAGS}{name[2:]}", value, use)
                said = f"`{name}`: no build that was read has it, and"
                self.made.notes.append(f"{said} {self.known.beyond}")
            else:
                self.leave(use, f"no build of llama.cpp that was read has it{hint}")
            return
        here = self._here(use)
        if here is None:
            build = f"b{self.known.build}" if self.known.build else "the build"
            self.leave(use, f"{build} has no such option, and none that says the same")
            return
        self._flagged(use, here)

    def _here(self, use: _Use) -> tuple[Option, str, str] | None:
        """The option of the build, the name to write, and a value that it implies."""
        for name in (use.name, *use.spellings):
            option = self.known.find(name)
            if option is not None and option.standing is not Standing.REMOVED:
                off = spelled(use.name) in _negative(use)
                sides = option.off if off and option.off else (option.name,)
                long = next((it for it in sides if it.startswith("--")), option.name)
                return option, long, ""
        for name in use.spellings:
            for words in (*newer(name), *older(name)):
                new, _, value = words.partition(" ")
                option = self.known.find(new)
                if option is not None and option.standing is not Standing.REMOVED:
                    return option, new, value
        return None

    def _flagged(self, use: _Use, here: tuple[Option, str, str]) -> None:
        option, long, value = here
        bare = long.removeprefix("--")
        if option.takes is Takes.NOTHING:
            off = bare.startswith("no-") and f"--{bare[3:]}" in option.names
            self._put(f"{FLAGS}{bare[3:] if off else bare}", not off, use)
            return
        if option.takes is Takes.TWO:
            self._put(f"{FLAGS}{bare}", [_scalar(it) for it in use.values], use)
            return
        text = value or use.value or ("on" if option.takes is Takes.SWITCH else "")
        if not text:
            self.leave(use, "it has no value")
            return
        read: JsonValue = text if option.takes is Takes.TEXT else _scalar(text)
        path, again = f"{FLAGS}{bare}", self.made.fields.get(f"{FLAGS}{bare}")
        if again is not None and option.joined is not None:
            many = again.value if isinstance(again.value, list) else [again.value]
            self.made.fields[path] = Value([*many, read], use.said)
        else:
            self._put(path, read, use)


def _negative(use: _Use) -> tuple[str, ...]:
    """The names that turn the option off, of every build."""
    return tuple(it for option in seen(use.name) for it in option.off)


class _Typed(NamedTuple):
    """A field that an option has, by one of its spellings."""

    spelling: str
    path: str
    name: str
    section: type[Section]
    flag: Flag

    @property
    def is_switch(self) -> bool:
        """Return whether it is a boolean: an option without a value of its own."""
        annotation = self.section.model_fields[self.name].annotation
        return annotation == bool | None


@cache
def _typed_fields() -> tuple[_Typed, ...]:
    above: Mapping[str, type[Section]] = {
        "server.": Server,
        _SPEC: Drafting,
        "model.": Model,
        "snapshot.": Snapshot,
    }
    return tuple(
        _Typed(words.split()[0], f"{prefix}{name}", name, section, flag)
        for prefix, section in above.items()
        for name, marks in fields_of(section).items()
        for flag in marks.flags
        for words in filter(None, (flag.name, flag.off))
    )


def _readings(text: str) -> Iterator[JsonValue]:
    """Yield the values that a text may be read as, the most specific first."""
    number = _scalar(text)
    if not isinstance(number, str):
        yield number
    if text.startswith("{"):
        try:
            yield json.loads(text)
        except ValueError:
            return
    yield text
    parts = (
        re.split(r"[,/]", text) if re.fullmatch(r"[\d.,/]+", text) else text.split(",")
    )
    yield [_scalar(it) for it in parts if it]
    yield [it for it in text.split(",") if it]


def _scalar(text: str) -> JsonValue:
    if re.fullmatch(r"[+-]?\d{1,15}", text):
        return int(text)
    if re.fullmatch(r"[+-]?(\d+\.\d*|\.\d+|\d+)([eE][+-]?\d+)?", text):
        return float(text)
    return text


def _others(made: Adopted, variables: Mapping[str, Word]) -> None:
    """The variables that are no options: what decides is carried, secrets by name."""
    newest = catalogue(known_builds()[-1])
    for name, word in variables.items():
        origin = f"${name} {word.origin}".strip()
        if name == DEFAULT_KEY and "auth.api_key.env" not in made.fields:
            made.fields.setdefault("auth.api_key.env", Value(DEFAULT_KEY, origin))
            if word.text:
                said = f"the API key stood in the open ({origin}): put it into `.env`"
                made.notes.append(said)
        elif name.startswith("LLAMA_ARG_") or _by_variable(name, newest):
            if _by_variable(name, newest) is None:
                made.left.append(Left(f"${name}", "no option has it", word.origin))
        elif name.startswith(DECIDING) or name in _PASSED_ON:
            secret = is_secret_name(name)
            value = name if secret else word.text
            made.fields[f"{ENV}{name}{'.env' * secret}"] = Value(value, origin)
