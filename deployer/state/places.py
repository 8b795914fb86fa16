"""From where a state is to be kept, to the store that keeps it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from deployer import install_command
from deployer.errors import UsageError
from deployer.state import KEPT, StateStore
from deployer.state.files import FileStateStore, list_stacks, unnoticed

if TYPE_CHECKING:
    from deployer.state.objects import ObjectBucket

_OPTIONS = {
    "file": {"keep"},
    "s3": {"region", "endpoint", "keep"},
    "gs": {"keep"},
    "az": {"endpoint", "keep"},
}


@dataclass(frozen=True, slots=True)
class StatePlace:
    """A folder that holds the states of the stacks of one folder."""

    scheme: str
    """``file``, ``s3``, ``gs`` or ``az``."""
    where: str
    """A path; or a bucket (for ``az`` account and container), and a folder in it."""
    options: Mapping[str, str] = field(default_factory=dict)
    keep: int = KEPT

    @property
    def url(self) -> str:
        """The whole of it on one line, as `DEPLOYER_STATE_URL` takes it."""
        keep = {} if self.keep == KEPT else {"keep": str(self.keep)}
        pairs = {**self.options, **keep}.items()
        query = "&".join(f"{name}={quote(value, safe=':/')}" for name, value in pairs)
        return f"{self.scheme}://{quote(self.where)}{'?' if query else ''}{query}"

    def below(self, folder: Path) -> "StatePlace":
        """The folder in it for the stacks of another folder of the project."""
        if folder == Path():
            return self
        where = f"{self.where.rstrip('/')}/{folder.as_posix()}"
        return StatePlace(self.scheme, where, self.options, self.keep)


def place_at(url: str) -> StatePlace:
    """The place that a URL names; raises UsageError for others.

    ``s3://bucket/folder?region=…&endpoint=…``, ``gs://bucket/folder``,
    ``az://account/container/folder``, ``file:///folder``.
    """
    try:
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
    except ValueError:
        raise _no_place(url, "it is no URL") from None
    known = _OPTIONS.get(parts.scheme)
    if known is None:
        raise _no_place(url, f"it begins with none of {_schemes()}")
    if "@" in parts.netloc or "@" in options.get("endpoint", ""):
        raise _no_place(url, "a credential has no place in it")
    if unknown := sorted(options.keys() - known):
        raise _no_place(url, f"`{unknown[0]}` is not known for {parts.scheme}")
    keep = options.pop("keep", str(KEPT))
    if not keep.isdigit() or not int(keep):
        raise _no_place(url, "`keep` is not a number from 1")
    where = f"{parts.netloc}{unquote(parts.path)}".rstrip("/")
    if ".." in Path(where).parts or not where:
        raise _no_place(url, "it names no folder")
    return StatePlace(parts.scheme, where, options, int(keep))


def store_at(
    place: StatePlace,
    stack: str,
    *,
    stack_file: Path,
    notify: Callable[[str], None] | None = None,
) -> StateStore:
    """The store of one stack at a place."""
    told = notify or unnoticed
    if place.scheme == "file":
        folder = Path(place.where)
        return FileStateStore(folder, stack, keep=place.keep, notify=told)
    bucket = _bucket(place)
    from deployer.state.objects import ObjectStateStore  # noqa: PLC0415 - an extra

    return ObjectStateStore(
        bucket, stack, keep=place.keep, stack_file=stack_file, notify=told
    )


def stacks_at(place: StatePlace) -> tuple[str, ...]:
    """The stacks that have a state at a place, by name."""
    if place.scheme == "file":
        return list_stacks(Path(place.where))
    bucket = _bucket(place)
    from deployer.state.objects import stacks_in  # noqa: PLC0415 - an extra

    return stacks_in(bucket)


def _bucket(place: StatePlace) -> "ObjectBucket":
    try:
        from deployer.state.objects import open_bucket  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise UsageError(
            f"a state at `{place.scheme}://` needs `{error.name}`",
            hint=f"install it: `{install_command('remote')}`",
        ) from error
    return open_bucket(f"{place.scheme}://{place.where}", place.options)


def _schemes() -> str:
    return ", ".join(f"`{scheme}://`" for scheme in _OPTIONS)


def _no_place(url: str, why: str) -> UsageError:
    shown = url.partition("?")[0].rpartition("@")[2]
    return UsageError(
        f"`{shown}` is no place for states: {why}",
        hint="docs/state.md shows one of each kind",
    )
