"""A bucket whose client fails as it is told: what is tried again, and what decides."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import pytest
import stamina
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    GenericError,
    NotFoundError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)

from deployer.errors import AuthError, StateError
from deployer.state.objects import ATTEMPTS, Found, MovedError, ObjectBucket
from tests.state.fake_objects import FakeObjects, tag_of

if TYPE_CHECKING:
    from obstore import GetResult, ListResult, ObjectMeta, PutMode, PutResult

AGAIN = (
    "try again later; without it nothing goes on but `deployer plan --without-state`"
)


class Faulty:
    """A client whose requests fail, each in its turn, before or after they are done."""

    def __init__(self) -> None:
        self.real = FakeObjects()
        self.before: deque[Exception | None] = deque()
        self.after: deque[Exception | None] = deque()

    def get(self, path: str, /) -> "GetResult":
        self._fail(self.before)
        return self.real.get(path)

    def put(
        self, path: str, file: bytes, /, *, mode: "PutMode", use_multipart: bool
    ) -> "PutResult":
        assert not use_multipart
        self._fail(self.before)
        done = self.real.put(path, file, mode=mode, use_multipart=use_multipart)
        self._fail(self.after)
        return done

    def list_with_delimiter(
        self, prefix: str | None, /
    ) -> "ListResult[Sequence[ObjectMeta]]":
        self._fail(self.before)
        return self.real.list_with_delimiter(prefix)

    def delete(self, paths: str, /) -> None:
        self._fail(self.before)
        self.real.delete(paths)

    def _fail(self, faults: deque[Exception | None]) -> None:
        if faults and (fault := faults.popleft()) is not None:
            raise fault


@pytest.fixture
def client() -> Iterator[Faulty]:
    stamina.set_testing(True, attempts=ATTEMPTS, cap=True)
    yield Faulty()
    stamina.set_testing(False)


@pytest.fixture
def bucket(client: Faulty) -> ObjectBucket:
    return ObjectBucket(client, "s3://b/f")


def found(content: bytes) -> Found:
    return Found(content, tag_of(content))


ASKS: list[Callable[[ObjectBucket], object]] = [
    lambda bucket: bucket.get("x"),
    lambda bucket: bucket.put("x", b"1", None),
    lambda bucket: [*bucket.names("")],
    lambda bucket: bucket.drop("x"),
]


@pytest.mark.parametrize("ask", ASKS)
def test_what_fails_is_tried_again_so_many_times(
    client: Faulty, bucket: ObjectBucket, ask: Callable[[ObjectBucket], object]
) -> None:
    client.before.extend([GenericError("away")] * (ATTEMPTS // 2 - 1))
    ask(bucket)
    client.before.extend([GenericError("no route to http://h/?sig=secret\nmore")] * 99)
    with pytest.raises(StateError) as caught:
        ask(bucket)
    assert caught.value.message == (
        "`s3://b/f` cannot be reached: no route to http://h/"
    )
    assert caught.value.hint == AGAIN


@pytest.mark.parametrize("ask", ASKS)
@pytest.mark.parametrize("error", [PermissionDeniedError, UnauthenticatedError])
def test_refused_credentials_are_not_tried_again(
    client: Faulty,
    bucket: ObjectBucket,
    ask: Callable[[ObjectBucket], object],
    error: type[BaseError],
) -> None:
    client.before.extend([error("no"), GenericError("never asked")])
    with pytest.raises(AuthError) as caught:
        ask(bucket)
    assert caught.value.message == "`s3://b/f` refuses these credentials"
    assert caught.value.hint == (
        "docs/state.md says where they are looked for; `deployer plan --without-state`"
        " needs none"
    )
    assert len(client.before) == 1


def test_a_long_reason_is_cut(client: Faulty, bucket: ObjectBucket) -> None:
    client.before.extend([GenericError("x" * 500)] * ATTEMPTS)
    with pytest.raises(StateError) as caught:
        bucket.get("x")
    assert caught.value.message == f"`s3://b/f` cannot be reached: {'x' * 200}"


@pytest.mark.parametrize("error", [FileNotFoundError, NotFoundError])
def test_what_is_not_there_is_none_and_is_dropped_at_once(
    client: Faulty, bucket: ObjectBucket, error: type[Exception]
) -> None:
    client.before.extend([error("x"), error("x")])
    assert bucket.get("x") is None
    bucket.drop("x")
    assert not client.before


def test_what_was_put_is_found_under_its_tag(bucket: ObjectBucket) -> None:
    assert bucket.put("x", b"1", None) == found(b"1")
    assert bucket.put("x", b"2", found(b"1")) == found(b"2")
    assert bucket.get("x") == found(b"2")
    with pytest.raises(MovedError):
        bucket.put("x", b"3", None)
    with pytest.raises(MovedError):
        bucket.put("x", b"3", found(b"1"))
    bucket.drop("x")
    assert bucket.get("x") is None
    with pytest.raises(MovedError):
        bucket.put("x", b"3", found(b"2"))
    assert bucket.get("x") is None


def test_a_write_whose_answer_got_lost_was_done(
    client: Faulty, bucket: ObjectBucket
) -> None:
    client.after.append(GenericError("lost"))
    assert bucket.put("x", b"1", None) == found(b"1")
    assert [it.method for it in client.real.log] == ["PUT", "GET"]


def test_a_write_that_was_not_done_is_tried_again(
    client: Faulty, bucket: ObjectBucket
) -> None:
    bucket.put("x", b"1", None)
    client.before.append(GenericError("away"))
    assert bucket.put("x", b"2", found(b"1")) == found(b"2")
    assert [it.method for it in client.real.log] == ["PUT", "GET", "PUT"]


@pytest.mark.parametrize("error", [AlreadyExistsError, PreconditionError])
def test_a_condition_that_only_seems_not_to_hold_is_tried_again(
    client: Faulty, bucket: ObjectBucket, error: type[BaseError]
) -> None:
    """A store may refuse two conditional writes at once, and do neither."""
    bucket.put("x", b"1", None)
    client.before.append(error("conflict"))
    assert bucket.put("x", b"2", found(b"1")) == found(b"2")


def test_a_failure_beside_a_change_of_others_is_tried_and_then_moved(
    client: Faulty, bucket: ObjectBucket
) -> None:
    """The first failure says nothing of a condition; the second one does."""
    bucket.put("x", b"1", None)
    bucket.put("x", b"theirs", found(b"1"))
    client.before.append(GenericError("away"))
    with pytest.raises(MovedError):
        bucket.put("x", b"mine", found(b"1"))
    assert bucket.get("x") == found(b"theirs")


def test_names_are_those_right_in_a_folder(bucket: ObjectBucket) -> None:
    for name in ("a", "history/a/1", "history/b/2", "history/b/3", "history/c"):
        bucket.put(name, b"", None)
    assert [*bucket.names("")] == ["a"]
    assert [*bucket.names("history/b")] == ["2", "3"]
    assert [*bucket.names("history")] == ["c"]
    assert [*bucket.names("nothing")] == []


def test_an_answer_in_half_is_asked_for_again(
    client: Faulty, bucket: ObjectBucket
) -> None:
    bucket.put("x", b"whole", None)
    half = _Half(client.real)
    assert ObjectBucket(half, "s3://b/f").get("x") == found(b"whole")
    half.left = 99
    with pytest.raises(StateError, match=r"^`s3://b/f/x` came in half$"):
        ObjectBucket(half, "s3://b/f").get("x")


def test_a_store_without_tags_is_refused() -> None:
    class Untagged(Faulty):
        def put(
            self, path: str, file: bytes, /, *, mode: "PutMode", use_multipart: bool
        ) -> "PutResult":
            del path, file, mode, use_multipart
            return {"e_tag": None, "version": None}

    with pytest.raises(StateError) as caught:
        ObjectBucket(Untagged(), "s3://b/f").put("x", b"1", None)
    assert caught.value.message == "the store gives its objects no tag (`ETag`)"
    assert caught.value.hint == (
        "without one, two writers cannot be told apart: take another store"
    )


class _Half(Faulty):
    """A client whose answers break off, as often as it is told."""

    def __init__(self, real: FakeObjects) -> None:
        super().__init__()
        self.real = real
        self.left = 2

    def get(self, path: str, /) -> "GetResult":
        self.left -= 1
        answer = self.real.get(path)
        if self.left >= 0:
            answer.meta["size"] += 1
        return answer
