"""Moving a stack to another build: what that means, and the change to its files."""

import difflib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Final

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.version import InvalidVersion, Version

from deployer import DISTRIBUTION, __version__
from deployer.artefacts import lock_file
from deployer.artefacts.sources.pypi import Newest, newest
from deployer.diagnostics import Diagnostic, Severity, place_of
from deployer.errors import (
    DeployerError,
    SourceError,
    UnreachableError,
    UsageError,
)
from deployer.llama import description
from deployer.llama.build.trees import (
    SourceRequest,
    Surroundings,
    check_patches,
    describe_pin,
    pin_first,
    requests_for,
)
from deployer.llama.build.trees import number_of as tag_to_number
from deployer.llama.catalogue import Catalogue, Standing, catalogue, problems_of
from deployer.llama.description import Description
from deployer.llama.explain import compared
from deployer.llama.git import newest_build
from deployer.llama.known.advisories import Advisory, advisories_of, exposures_of
from deployer.llama.known.tables import newer, older
from deployer.llama.known.traps import Case, changes_between, traps_of
from deployer.llama.patches import Outcome, Patch, PatchVerdict, load_patches
from deployer.planning.argv import respelled, words_by_field
from deployer.planning.facts import UPSTREAM, Facts
from deployer.planning.progress import Watch
from deployer.spelling import shown
from deployer.stack.edits import Edit, Remove, Rename, SetValue, applied, edited
from deployer.stack.fields.marks import leaves
from deployer.stack.fields.model import Stack
from deployer.stack.fields.values import JsonValue
from deployer.stack.files import FLAGS
from deployer.stack.load import Loaded, load
from deployer.stack.yaml12 import Steps, parse, plain
from deployer.system.files import read_regular
from deployer.usecases.artefacts import pulls_of
from deployer.usecases.context.settings import Settings, patches_folder
from deployer.usecases.context.stack_files import name_in, stack_files, text_of
from deployer.usecases.reading.findings import number_of, stated_options

_NEEDLESS = (Outcome.UPSTREAM, Outcome.APPLIED, Outcome.NOT_APPLICABLE)


@dataclass(frozen=True, slots=True)
class Move:
    """One patch on the other build."""

    sign: str
    text: str
    hint: str = ""
    edit: Remove | None = None
    """Where it is no longer wanted."""


def patch_moves(
    loaded: Loaded,
    stack_file: Path,
    settings: Settings,
    tag: str,
    watch: Watch | None,
) -> tuple[Move, ...]:
    """Each patch of a stack: by the source of the build, else by the range it states.

    ``watch`` sees the source being fetched; None judges without one.
    """
    names = loaded.stack.llama_cpp.patches or ()
    if not names:
        return ()
    patches = load_patches(patches_folder(stack_file), names)
    if watch is None:
        return tuple(_by_range(i, p, tag) for i, p in enumerate(patches))
    around = Surroundings(settings.store.downloads, settings.environment, watch)
    pin = pin_first(_requests(loaded.stack, tag), around)
    verdicts = check_patches(pin, patches, around)
    return tuple(_by_tree(index, found) for index, found in enumerate(verdicts))


def _requests(stack: Stack, tag: str) -> Sequence[SourceRequest]:
    """The trees that a tag is looked for in, as the stack says or by default."""
    wanted = stack.llama_cpp
    named = () if wanted.source is None and wanted.repo is None else wanted.sources
    return requests_for(tag, named, wanted.repo)


def _by_tree(index: int, found: PatchVerdict) -> Move:
    text = f"{found.patch}: {found.outcome}, {found.evidence} (by the source)"
    if found.outcome in _NEEDLESS:
        return Move("-", text, edit=Remove(("llama_cpp", "patches", index)))
    sign = "✖" if found.outcome is Outcome.CONFLICT else "✔"
    return Move(sign, text, found.advice)


def _by_range(index: int, patch: Patch, tag: str) -> Move:
    """Without a source: what `patch.yaml` says of the last build that wants it."""
    last, new = tag_to_number(patch.until or ""), tag_to_number(tag)
    look = "`--tree` judges it by the source of the build"
    if last is None or new is None:
        return Move("?", f"{patch.name}: no range of builds to judge it by", look)
    if new > last:
        text = (
            f"{patch.name}: upstream has it since b{last + 1}"
            " (by `until` of its patch.yaml)"
        )
        return Move("-", text, edit=Remove(("llama_cpp", "patches", index)))
    text = f"{patch.name}: still wanted up to b{last} (by `until` of its patch.yaml)"
    return Move("✔", text, look)


_SHOWN = 12
"""Names of a list that are printed."""
_TEMPLATE_FIXED = 8753
"""First build that tells outdated chat templates of Gemma 4, where none was read."""
_BOM = "\ufeff"


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that the other build means."""

    topic: str
    sign: str
    text: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A file of the stack, before and after."""

    path: Path
    before: str
    after: str

    @property
    def diff(self) -> str:
        """The change as `diff -u` shows it."""
        name = str(self.path)
        lines = difflib.unified_diff(
            self.before.splitlines(keepends=True),
            self.after.splitlines(keepends=True),
            name,
            name,
        )
        return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)


@dataclass(frozen=True, slots=True)
class Upgrade:
    """Everything that a change of the build means for a stack."""

    stack: str
    old: str
    new: str
    lines: tuple[Line, ...]
    files: tuple[Rewritten, ...]
    """Lines that change."""

    @property
    def certain(self) -> bool:
        """Return whether everything that was judged is known of both builds."""
        return all(line.sign != "?" for line in self.lines)


@dataclass(frozen=True, slots=True)
class Wanted:
    """How an upgrade is asked for."""

    to: str
    """A tag, or `latest`."""
    with_tree: bool = False
    """Judge patches by the source of the new build, which is fetched."""


def upgrade(
    stack_file: Path, settings: Settings, wanted: Wanted, watch: Watch
) -> Upgrade:
    """Return what moving a stack to another build means; changes nothing.

    Raises SourceError where `latest` or a tree cannot be reached.
    """
    loaded = load(stack_file, allowed=settings.allowed(stack_file))
    locked = lock_file.read(lock_file.lock_path(stack_file))
    tag = _tag(loaded.stack, wanted.to, settings)
    further = advisories_of(settings.advisories)
    before = _old_side(loaded, stack_file, settings, wanted, watch)
    target = _side(tag, loaded.stack, settings, wanted, watch)
    old, new = before.build, target.build
    tree = watch if wanted.with_tree else None
    moves = patch_moves(loaded, stack_file, settings, tag, tree)
    unknown = _unknown((before, target))
    flags = (*unknown, *_flag_edits(loaded.stack, before, target))
    pinned = tuple(_pin_edits(loaded.stack, tag))
    edits = [edit for edit, _ in pinned if edit is not None]
    edits += [move.edit for move in moves if move.edit]
    edits += [edit for edit, _ in flags if edit is not None]
    after = _changed(loaded.stack, edits)
    lines = (
        *(line for _, line in pinned if line is not None),
        *_patch_lines(moves),
        *(line for _, line in flags),
        *_change_lines(after, old, target),
        *_stated_lines(after, before, target),
        *(_pull_lines(loaded.stack, tag, (old, new), settings) if tree else ()),
        *_trap_lines(loaded.stack, after, before, target),
        *_exposure_lines(loaded.stack, after, (before, target), further),
        *_weights_lines(after, before, target, locked),
    )
    files = tuple(_rewritten(loaded, edits))
    return Upgrade(loaded.stack.name, loaded.stack.llama_cpp.tag, tag, lines, files)


def write(found: Upgrade) -> None:
    """Write the files anew."""
    for file in found.files:
        file.path.write_bytes(file.after.encode())


def _tag(stack: Stack, to: str, settings: Settings) -> str:
    if to == "latest":
        downloads = settings.store.downloads
        repo = stack.llama_cpp.repo or UPSTREAM
        return newest_build(repo, downloads, settings.environment)
    try:
        Stack.model_validate(
            stack.model_copy(
                update={"llama_cpp": stack.llama_cpp.model_copy(update={"tag": to})}
            ).model_dump(exclude_none=True)
        )
    except ValueError:
        raise UsageError(
            f"`{to[:60]}` is no tag of llama.cpp",
            hint="write `--to b11434`, `--to v0.6.0`, a commit, or `--to latest`",
        ) from None
    return to


def _pin_edits(stack: Stack, tag: str) -> Iterator[tuple[Edit | None, Line | None]]:
    """The tag, and what else pins the build that it is not any more."""
    wanted = stack.llama_cpp
    if tag == wanted.tag:
        return
    yield SetValue(("llama_cpp", "tag"), tag), None
    if wanted.commit is not None:
        text = f"llama_cpp.commit: `{wanted.commit}` is that of {wanted.tag}: taken out"
        yield Remove(("llama_cpp", "commit")), Line("build", "-", text)
    for name in ("package", "binary"):
        if ready := getattr(wanted, name):
            text = f"llama_cpp.{name}: `{ready}` stays the build that it is"
            hint = f"name a `{name}` that is {tag}, or a `source`"
            yield None, Line("build", "✖", text, hint)


def _changed(stack: Stack, edits: list[Edit]) -> Stack:
    values = stack.model_dump(mode="json", exclude_none=True)
    return Stack.model_validate(applied(values, edits), strict=False)


def _patch_lines(moves: tuple[Move, ...]) -> Iterator[Line]:
    for move in moves:
        yield Line("patches", "-" if move.edit else move.sign, move.text, move.hint)


@dataclass(frozen=True, slots=True)
class _Side:
    """One of the two builds, as far as it is known."""

    build: int | None
    known: Catalogue
    stated: Description | None
    """Those of its source; None where that was not read."""
    trouble: str = ""
    """Reason why the source could not be asked."""


def _side(
    tag: str, stack: Stack, settings: Settings, wanted: Wanted, watch: Watch
) -> _Side:
    """The build of a tag; its source is read where asked for, or where the table ends.

    Raises SourceError where the source has no such tag.
    """
    build = tag_to_number(tag)
    known = catalogue(build)
    if not (wanted.with_tree or known.beyond):
        return _Side(build, known, None)
    around = Surroundings(settings.store.downloads, settings.environment, watch)
    try:
        pin = pin_first(_requests(stack, tag), around)
    except UnreachableError as error:
        return _Side(build, known, None, error.message)
    match pin.about.get("number"):
        case int(number):
            build = number
        case _:
            pass
    stated = describe_pin(pin, (), around)
    known = catalogue(build) if stated is None else stated.catalogue(build)
    return _Side(build, known, stated)


def _old_side(
    loaded: Loaded, stack_file: Path, settings: Settings, wanted: Wanted, watch: Watch
) -> _Side:
    """The build that the stack has now: as it was locked, else by its tag."""
    locked = lock_file.read(lock_file.lock_path(stack_file))
    build = number_of(loaded.stack, locked)
    known = stated_options(loaded, stack_file, settings, locked)
    stated = None if locked is None else description.find(settings.home, locked.build)
    if stated is None and wanted.with_tree:
        return _side(loaded.stack.llama_cpp.tag, loaded.stack, settings, wanted, watch)
    return _Side(build, known, stated)


def _unknown(sides: Iterable[_Side]) -> Iterator[tuple[Edit | None, Line]]:
    """The builds whose options are not known."""
    for side in sides:
        if side.known.beyond:
            hint = side.trouble or "`--tree` reads its source"
            text = f"{side.known.beyond}: options are uncertain"
            yield None, Line("flags", "?", text, hint)


def _flag_edits(
    stack: Stack, old: _Side, new: _Side
) -> Iterator[tuple[Edit | None, Line]]:
    """Yield the outcome of each option that the new build refuses as it is."""
    was, now = (
        words_by_field(leaves(stack), build=it.build, known=it.known.spellings)
        for it in (old, new)
    )
    words = dict(now)
    before = {p.path for p in problems_of(was, old.build, old.known)}
    for problem in problems_of(now, new.build, new.known):
        again = " (it was so before)" if problem.path in before else ""
        if not problem.path.startswith(FLAGS):
            text = f"{problem.path}: {problem.what}{again}"
            sign = "✖" if problem.severity is Severity.ERROR else "?"
            yield None, Line("flags", sign, text, problem.hint)
            continue
        if problem.severity is not Severity.ERROR:
            yield None, Line("flags", "?", problem.what, problem.hint)
            continue
        name, *values = words[problem.path]
        path: Steps = ("server", "flags", problem.path.removeprefix(FLAGS))
        edit = _instead(path, name, values, new, _drafts(stack))
        if edit is None:
            yield None, Line("flags", "✖", problem.what, problem.hint)
        else:
            yield edit, Line("flags", "±", f"{problem.what}{again}; {_said(edit)}")


def _drafts(stack: Stack) -> str:
    """Return the type of speculative decoding that stands among the options."""
    flags = (stack.server.flags if stack.server else None) or {}
    return str(flags.get("spec-type", ""))


def _instead(
    path: Steps, name: str, values: list[str], new: _Side, drafts: str
) -> Edit | None:
    """Another name for an option; gone, where there is none; None: only a value."""
    known = new.known
    option = known.find(name)
    if option is not None and option.standing is not Standing.REMOVED:
        return None
    # Upstream names several successors where another option decides between them.
    named = option.instead if option is not None and len(option.instead) == 1 else ()
    value = values[0] if values else ""
    typed = () if new.build is None else respelled(name, new.build, drafts)
    for words in (*typed, *newer(name), *older(name, value), *named):
        spelled, _, value = words.partition(" ")
        found = known.find(spelled)
        if found is None or found.standing is Standing.REMOVED:
            continue
        bare = spelled.removeprefix("--")
        if not values and not value and bare.startswith("no-"):
            return Rename(path, bare.removeprefix("no-"), value=False)
        if not values and not value:
            return Rename(path, bare, value=True)
        return Rename(path, bare, value or None)
    return Remove(path)


def _stated_lines(stack: Stack, old: _Side, new: _Side) -> Iterator[Line]:
    """Yield what two builds state differently: defaults, API, saved files."""
    groups = words_by_field(leaves(stack), build=new.build, known=new.known.spellings)
    states = {word for _, words in groups for word in words}
    if not (old.known.beyond or new.known.beyond):
        for change in compared(old.known, new.known).changed:
            option = new.known.find(change.name)
            stated = option is not None and states & {*option.spellings}
            if change.part == "default" and not stated:
                text = f"`{change.name.lstrip('-')}`: {change.old} → {change.new}"
                yield Line("defaults", "~", f"{text} (as the builds print it)")
    if old.stated is None or new.stated is None:
        return
    a, b = old.stated, new.stated
    for what, before, after in (
        ("routes", a.routes, b.routes),
        ("request fields", a.fields, b.fields),
        ("chat templates", a.templates, b.templates),
        ("architectures", a.architectures, b.architectures),
    ):
        if gone := sorted({*before} - {*after}):
            yield Line("server API", "▲", f"{what} that are gone: {_some(gone)}")
        if came := sorted({*after} - {*before}):
            yield Line("server API", "+", f"new {what}: {_some(came)}")
    for name, now in b.formats.items():
        if (was := a.formats.get(name)) is not None and was != now:
            text = f"{name} files: version {was} → {now}"
            hint = "saved slots and caches of the old build cannot be restored"
            yield Line("saved states", "▲", text, hint)


def _some(names: list[str]) -> str:
    """The first names of a list, and how many there are besides."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(f"`{name}`" for name in names[:_SHOWN]) + more


def _said(edit: Edit) -> str:
    match edit:
        case Rename(_, key, None):
            return f"renamed to `{key}`"
        case Rename(_, key, value):
            return f"now `{key}: {str(value).lower()}`"
        case _:
            return "taken out"


def _change_lines(stack: Stack, old: int | None, new: _Side) -> Iterator[Line]:
    if old is None or new.build is None:
        return
    for crossed in changes_between(stack, old, new.build, new.known):
        sign = "~" if crossed.sure else "?"
        yield Line(crossed.change.area.value, sign, crossed.text)


def _pull_lines(
    stack: Stack, tag: str, builds: tuple[int | None, int | None], settings: Settings
) -> Iterator[Line]:
    """The pull requests between two builds, from the repository or else the index."""
    topic = "pull requests"
    old, new = builds
    backwards = old is not None and new is not None and old > new
    tags = (stack.llama_cpp.tag, tag)
    if backwards:
        tags, builds = (tag, stack.llama_cpp.tag), (new, old)
    try:
        pulls, about = pulls_of(stack, tags, builds, settings)
    except SourceError as error:
        yield Line(topic, "·", f"not known: {error.message}")
        return
    if about:
        yield Line(topic, "·", about)
    for pull in pulls:
        yield Line(
            topic, "-" if backwards else "+", f"#{pull.number} {shown(pull.title)}"
        )


def _trap_lines(before: Stack, after: Stack, old: _Side, new: _Side) -> Iterator[Line]:
    was = {caught.code: caught for caught in traps_of(before, old.known)}
    now = {caught.code: caught for caught in traps_of(after, new.known)}
    signs = {"error": "✖", "warning": "▲", "note": "·"}
    for caught in was.values():
        if caught.code not in now:
            yield _left("traps left", after, caught)
    for caught in now.values():
        if caught.code not in was:
            sign = signs[caught.severity.value]
            yield Line("traps entered", sign, _of(caught), caught.hint)


def _exposure_lines(
    before: Stack,
    after: Stack,
    sides: tuple[_Side, _Side],
    further: tuple[Advisory, ...],
) -> Iterator[Line]:
    """The advisories that the move ends, and those that hold on the new build."""
    old, new = (it.known for it in sides)
    was = {it.code: it for it in exposures_of(before, old, further) if it.code}
    now = {it.code: it for it in exposures_of(after, new, further) if it.code}
    for it in was.values():
        if it.code not in now and it.severity is not Severity.NOTE:
            yield _left("advisories left", after, it)
    signs = {"error": "✖", "warning": "▲", "note": "?"}
    for it in now.values():
        sign = signs[it.severity.value]
        yield Line("advisories that hold", sign, _of(it), it.hint)


def _left(topic: str, after: Stack, caught: Diagnostic) -> Line:
    """Return what the move ends, which a ready llama-server that stays does not."""
    for name in ("package", "binary"):
        if getattr(after.llama_cpp, name):
            return Line(topic, "?", _of(caught), f"where another `{name}` is named")
    return Line(topic, "✔", _of(caught))


def _of(caught: Diagnostic) -> str:
    return f"{caught.code}: {caught.what}"


def _weights_lines(
    stack: Stack, old: _Side, new: _Side, locked: Facts | None
) -> Iterator[Line]:
    own = stack.server is not None and stack.server.chat_template is not None
    detects = [_detects(it.known) for it in (old, new)]
    gemma4 = Case(stack, new.known).is_gemma4
    if detects == [False, True] and gemma4 and not own and stack.model.path is None:
        pinned = "the lock file pins it: " if locked is not None else ""
        yield Line(
            "weights",
            "↓",
            "GGUFs of Gemma 4 from before b8753 carry an outdated chat template:"
            " fetch it again",
            f"{pinned}`deployer lock STACK --upgrade`, or set `server.chat_template`",
        )


def _detects(known: Catalogue) -> bool:
    """Return whether a build detects the outdated chat templates of Gemma 4."""
    stated = known.states("sign gemma4-outdated-template")
    return (known.build or 0) >= _TEMPLATE_FIXED if stated is None else stated


def _rewritten(loaded: Loaded, edits: list[Edit]) -> Iterator[Rewritten]:
    """Each file that holds a field that changes, with the change proven."""
    by_file: dict[str, list[Edit]] = {}
    for edit in edits:
        place = place_of(loaded.places, ".".join(map(str, edit.path)))
        if place is None:
            raise DeployerError(f"`{edit.path}` stands in no file of the stack")
        by_file.setdefault(place.file, []).append(edit)
    for path in loaded.sources:
        if mine := by_file.get(str(path)):
            yield _proven(path, mine)


def _proven(path: Path, edits: list[Edit]) -> Rewritten:
    """The file with its changes; raises where it would not say exactly that."""
    before = read_regular(path).decode("utf-8")
    mark, text = (_BOM, before[1:]) if before.startswith(_BOM) else ("", before)
    after = edited(text, edits)
    if _values(after, path) != applied(_values(text, path), edits):
        raise DeployerError(
            f"`{path}` cannot be changed without changing more than is wanted",
            hint="change it by hand: `deployer upgrade` without `--write` says how",
        )
    return Rewritten(path, before, mark + after)


def _values(text: str, path: Path) -> JsonValue:
    table, _ = parse(text, str(path))
    return plain(table)


_ABOUT: Final = "llama.cpp"
"""Subject of this project; another may have the name on an index."""
_INDEX: Final = "`pip config list` shows which index is asked"
_EXTRA: Final = re.compile(r"""extra == ["']([^"']+)["']""")
_DEVELOPMENT: Final = "dev"
"""The extra that users do not install."""


@dataclass(frozen=True, slots=True)
class Looked:
    """Everything that was looked at."""

    findings: tuple[Diagnostic, ...]
    newest: str | None
    """On the index; None where that is unknown."""

    @property
    def newer(self) -> bool:
        """Return whether the index has a newer one."""
        return self.newest is not None and Version(self.newest) > Version(__version__)


def look(paths: Sequence[Path], settings: Settings) -> Looked:
    """Ask the index, and look at what is installed, at states and at lock files."""
    found, told = _newest(settings)
    files = [(file, name_in(text_of(file))) for file in stack_files(paths)]
    named = [(file, name) for file, name in files if name is not None]

    def state(file: Path, name: str) -> bool:
        return settings.states(file, name).read() is not None

    def lock(file: Path, _name: str) -> bool:
        return lock_file.read(lock_file.lock_path(file)) is not None

    findings = [told, *_dependencies()]
    if named:
        findings += [*_read("states", named, state), *_read("lock files", named, lock)]
    return Looked(tuple(findings), found)


def compare(found: Newest, here: str) -> Diagnostic:
    """Return what the newest version of an index means for this one."""
    try:
        there = Version(found.version)
    except InvalidVersion:
        return Diagnostic("newest", "the index tells a version that is none")
    if not any(_ABOUT in text for text in (found.summary, *found.keywords)):
        why = f"`{DISTRIBUTION}` on the index is another project: {found.summary}"
        return Diagnostic("newest", why, _INDEX)
    if there > Version(here):
        what = f"{found.version} is there"
        return Diagnostic("newest", what, _how_to_upgrade(), Severity.FINE)
    what = f"the index has {found.version}, and none that is newer"
    return Diagnostic("newest", what, severity=Severity.FINE)


def out_of_bounds(
    wanted: Sequence[str], installed: Callable[[str], str | None]
) -> Iterator[Diagnostic]:
    """Yield packages that are missing or of a wrong version."""
    for text in wanted:
        requirement = Requirement(text)
        marker = requirement.marker
        extra = marker is not None and not marker.evaluate({"extra": ""})
        if extra and not _is_for_users(marker):
            continue
        found = installed(requirement.name)
        if found is None and extra:
            continue
        if found is None or not requirement.specifier.contains(found, prereleases=True):
            has = f"is {found}" if found else "is not installed"
            why = f"`{requirement.name}` {has}, and has to be {requirement.specifier}"
            wants = f"{requirement.name}{requirement.specifier}"
            hint = f"python -m pip install '{wants}'"
            yield Diagnostic("dependencies", why, hint)


def _is_for_users(marker: Marker | None) -> bool:
    """Return whether an extra that users install asks for it, on this machine."""
    names = set(_EXTRA.findall(str(marker))) - {_DEVELOPMENT}
    return any(marker.evaluate({"extra": n}) for n in names if marker is not None)


def _newest(settings: Settings) -> tuple[str | None, Diagnostic]:
    try:
        found = newest(DISTRIBUTION, environment=settings.environment)
    except DeployerError as error:
        why = f"unknown: {error.message}"
        return None, Diagnostic("newest", why, _INDEX)
    finding = compare(found, __version__)
    return found.version if finding.severity is Severity.FINE else None, finding


def _how_to_upgrade() -> str:
    """Return what to type, by how this one was installed."""
    parts = Path(sys.prefix).parts
    if "pipx" in parts:
        return f"pipx upgrade {DISTRIBUTION}"
    if "uv" in parts and "tools" in parts:
        return f"uv tool upgrade {DISTRIBUTION}"
    return f"python -m pip install --upgrade {DISTRIBUTION}"


def _dependencies() -> Iterator[Diagnostic]:
    try:
        wanted = requires(DISTRIBUTION) or []
    except PackageNotFoundError:
        why = "unknown: this deployer is not installed as a package"
        yield Diagnostic("dependencies", why)
        return
    wrong = tuple(out_of_bounds(wanted, _installed))
    yield from wrong
    if not wrong:
        what = "all within their bounds"
        yield Diagnostic("dependencies", what, severity=Severity.FINE)


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _read(
    about: str,
    named: Sequence[tuple[Path, str]],
    there: Callable[[Path, str], bool],
) -> Iterator[Diagnostic]:
    """Yield whether this version reads them; what it cannot read says why."""
    count, wrong = 0, False
    for file, name in named:
        try:
            count += there(file, name)
        except DeployerError as error:
            wrong = True
            yield Diagnostic(about, error.message, error.hint)
    if not wrong:
        what = f"{count} there, and this version reads them"
        yield Diagnostic(about, what, severity=Severity.FINE)
