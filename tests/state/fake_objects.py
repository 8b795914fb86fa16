"""An object store in memory, with the rules of S3, that counts what it is asked for.

Speaks as a store of `obstore` does, so that everything above is the product's own.
Tags are digests of contents, as in S3: a content that comes back has its old tag.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

from obstore.exceptions import AlreadyExistsError, PreconditionError

if TYPE_CHECKING:
    from obstore import GetResult, ListResult, ObjectMeta, PutMode, PutResult

PAGE = 1_000
"""Keys in one answer to a listing."""
_LISTED = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Request:
    """One request, and what it carried."""

    method: str
    """GET, PUT, DELETE or LIST."""
    path: str
    sent: int = 0
    """Bytes of its body."""
    received: int = 0
    """Bytes of the body of its answer; of a listing the bytes of its keys."""
    done: bool = True
    """False where a condition did not hold, or nothing was there."""


Travel = Callable[[], None]
"""What passes while a request, or its answer, is on its way."""


def at_once() -> None:
    """Nothing passes."""


@dataclass(frozen=True, slots=True)
class FakeObjects:
    """A client of a folder; clients that share ``objects`` see the same one."""

    objects: dict[str, bytes] = field(default_factory=dict)
    travel: Travel = at_once
    log: list[Request] = field(default_factory=list)
    """What this client asked for, in the order in which the store answered."""

    def get(self, path: str, /) -> "GetResult":
        """An object; raises FileNotFoundError."""
        self.travel()
        content = self.objects.get(path)
        size = 0 if content is None else len(content)
        self.log.append(Request("GET", path, 0, size, content is not None))
        self.travel()
        if content is None:
            raise FileNotFoundError(path)
        meta = {"size": len(content), "e_tag": tag_of(content)}
        return cast("GetResult", _Answer(content, meta))

    def put(
        self, path: str, file: bytes, /, *, mode: "PutMode", use_multipart: bool
    ) -> "PutResult":
        """Write an object; raises AlreadyExistsError or PreconditionError."""
        del use_multipart
        self.travel()
        before = self.objects.get(path)
        tag = None if before is None else tag_of(before)
        wanted = None if mode == "create" else cast("dict[str, str]", mode)["e_tag"]
        fits = tag == wanted
        if fits:
            self.objects[path] = file
        self.log.append(Request("PUT", path, len(file), done=fits))
        self.travel()
        if not fits:
            raise (AlreadyExistsError if mode == "create" else PreconditionError)(path)
        return {"e_tag": tag_of(file), "version": None}

    def list_with_delimiter(
        self, prefix: str | None, /
    ) -> "ListResult[Sequence[ObjectMeta]]":
        """What lies right in a folder, page by page."""
        folder = f"{prefix}/" if prefix else ""
        inside = {
            it.removeprefix(folder) for it in self.objects if it.startswith(folder)
        }
        right = sorted(folder + it for it in inside if "/" not in it)
        below = sorted({f"{folder}{it.split('/')[0]}/" for it in inside if "/" in it})
        entries = [*right, *below]
        for start in range(0, max(len(entries), 1), PAGE):
            self.travel()
            size = sum(map(len, entries[start : start + PAGE]))
            self.log.append(Request("LIST", folder, 0, size))
            self.travel()
        metas = [self._meta(name) for name in right]
        return {"objects": metas, "common_prefixes": below}

    def delete(self, paths: str, /) -> None:
        """Remove an object; none there is fine."""
        self.travel()
        there = self.objects.pop(paths, None) is not None
        self.log.append(Request("DELETE", paths, done=there))
        self.travel()

    def _meta(self, name: str) -> "ObjectMeta":
        return {
            "path": name,
            "size": len(self.objects[name]),
            "e_tag": tag_of(self.objects[name]),
            "last_modified": _LISTED,
            "version": None,
        }


@dataclass(frozen=True, slots=True)
class _Content:
    """What an object holds."""

    content: bytes

    def to_bytes(self) -> bytes:
        return self.content


@dataclass(frozen=True, slots=True)
class _Answer:
    """An object that was read."""

    content: bytes
    meta: dict[str, Any]

    def bytes(self) -> _Content:
        return _Content(self.content)


def tag_of(content: bytes) -> str:
    """The tag that S3 gives an object that was written in one piece."""
    return f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'
