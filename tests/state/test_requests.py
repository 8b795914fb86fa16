"""What a store asks its bucket for, by count; and that the bucket in memory is like S3.

Nothing here measures time: fewer requests and bytes are what makes a run fast.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from deployer.errors import DeployerError, LockedError, StalePlanError
from deployer.planning.state import State
from deployer.state.files import to_json
from deployer.state.objects import (
    FREE,
    ObjectBucket,
    ObjectStateStore,
    open_bucket,
    stacks_in,
)
from tests.state.fake_objects import PAGE, FakeObjects, Request
from tests.state.s3 import REGION, Proxy, bucket_at

S3 = tuple[Proxy, str]


def now() -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC)


class Counted:
    """A store on a bucket in memory, and what it asked for."""

    def __init__(self, **changes: int) -> None:
        self.client = FakeObjects()
        bucket = ObjectBucket(self.client, "s3://states/f")
        self.store = ObjectStateStore(bucket, "demo", now=now, **changes)  # type: ignore[arg-type]

    def asked(self, do: Callable[[], object]) -> list[str]:
        self.client.log.clear()
        do()
        return [f"{it.method} {it.path}" for it in self.client.log]

    def other(self) -> ObjectStateStore:
        """The same state, as another process sees it."""
        return replace(self.store, _seen={})


@pytest.fixture
def counted(first: State) -> Counted:
    found = Counted()
    found.store.write(first, expect=0)
    return found


def test_what_was_written_last_is_replaced_without_a_look(
    counted: Counted, first: State, second: State
) -> None:
    asked = counted.asked(lambda: counted.store.write(second, expect=1))
    assert asked == ["PUT history/demo/00000001.json", "PUT demo.state.json"]
    sent = [it.sent for it in counted.client.log]
    assert sent == [len(to_json(first)), len(to_json(second))]


def test_so_is_what_was_read_last(counted: Counted, second: State) -> None:
    other = counted.other()
    assert counted.asked(other.read) == ["GET demo.state.json"]
    asked = counted.asked(lambda: other.write(second, expect=1))
    assert asked == ["PUT history/demo/00000001.json", "PUT demo.state.json"]


def test_who_has_not_read_it_looks_first(counted: Counted, second: State) -> None:
    asked = counted.asked(lambda: counted.other().write(second, expect=1))
    assert asked[0] == "GET demo.state.json"
    assert len(asked) == 3


def test_the_version_that_is_too_many_is_one_request(first: State) -> None:
    counted = Counted(keep=2)
    for serial in (1, 2, 3):
        counted.store.write(replace(first, serial=serial), expect=serial - 1)
    asked = counted.asked(
        lambda: counted.store.write(replace(first, serial=4), expect=3)
    )
    assert asked == [
        "PUT history/demo/00000003.json",
        "DELETE history/demo/00000001.json",
        "PUT demo.state.json",
    ]
    assert counted.store.serials() == (2, 3)


def test_what_another_wrote_meanwhile_is_seen_and_left(
    counted: Counted, second: State
) -> None:
    theirs = replace(second, released=7)
    counted.other().write(theirs, expect=1)
    with pytest.raises(StalePlanError, match="was at serial 1, and is at 2"):
        counted.store.write(second, expect=1)
    assert counted.other().read() == theirs


def test_what_another_wrote_back_to_is_not_taken_for_done(
    counted: Counted, first: State, second: State
) -> None:
    """The memory of a store is a hint: what it would not write is looked at."""
    counted.other().write(second, expect=1)
    with pytest.raises(StalePlanError):
        counted.store.write(replace(first, released=3), expect=1)
    with pytest.raises(StalePlanError):
        counted.store.write(first, expect=1)
    assert counted.other().read() == second


def test_a_serial_that_does_not_grow_is_a_mistake_of_ours(
    counted: Counted, first: State
) -> None:
    with pytest.raises(ValueError, match="has a higher serial"):
        counted.store.write(replace(first, released=3), expect=1)


def test_a_lock_is_three_requests_and_a_held_one_is_one(counted: Counted) -> None:
    def hold() -> None:
        with counted.store.lock(operation="apply"):
            pass

    assert counted.asked(hold) == ["GET demo.lock.json", *["PUT demo.lock.json"] * 2]

    def ask() -> None:
        with pytest.raises(LockedError):
            counted.other().lock(operation="rollback").__enter__()

    with counted.store.lock(operation="apply"):
        assert counted.asked(ask) == ["GET demo.lock.json"]


def test_who_loses_a_lock_by_a_hair_is_told_to_whom(counted: Counted) -> None:
    """Between its look and its write somebody else took it."""
    store = counted.store
    hold = counted.other().lock(operation="rollback")
    journeys = iter([_nothing, _nothing, hold.__enter__])

    def travel() -> None:
        next(journeys, _nothing)()

    client = FakeObjects(counted.client.objects, travel)
    mine = replace(store, bucket=ObjectBucket(client, "s3://states/f"))
    with pytest.raises(LockedError, match=r"is locked by .* for rollback$") as caught:
        mine.lock(operation="apply").__enter__()
    holder = store.holder()
    assert holder is not None
    assert caught.value.hint.endswith(f"`deployer state unlock STACK {holder.id}`")


def _nothing() -> None:
    """Most journeys are quiet."""


def test_a_thousand_stacks_are_listed_by_the_page(counted: Counted) -> None:
    for number in range(PAGE):
        counted.client.objects[f"s{number}.state.json"] = b""
        counted.client.objects[f"history/s{number}/00000001.json"] = b""
    asked = counted.asked(lambda: stacks_in(counted.store.bucket))
    assert asked == ["LIST ", "LIST "]
    assert len(stacks_in(counted.store.bucket)) == PAGE + 1


def test_stacks_of_a_place_share_their_connections(s3: S3, first: State) -> None:
    proxy, url = s3
    folder = f"s3://states/connections-{os.getpid()}"
    options = {"endpoint": url, "region": REGION}
    for number in range(20):
        store = ObjectStateStore(open_bucket(folder, dict(options)), f"s{number}")
        store.write(replace(first, stack=f"s{number}"), expect=0)
    assert len(proxy.seen) == 40
    assert proxy.connections < 20


@pytest.mark.usefixtures("credentials")
def test_another_option_is_another_place() -> None:
    one = open_bucket("s3://states/f", {"region": "us-east-1"})
    assert open_bucket("s3://states/f", {"region": "us-east-1"}) is one
    assert open_bucket("s3://states/f", {"region": "us-west-1"}) is not one
    assert open_bucket("s3://states/g", {"region": "us-east-1"}) is not one


def story(bucket: ObjectBucket, first: State, refuge: Path) -> Iterator[object]:
    """Everything that stores do to a bucket, and what each came to."""

    def told(do: Callable[[], object]) -> object:
        try:
            return do()
        except DeployerError as error:
            return type(error).__name__

    store = ObjectStateStore(bucket, "demo", now=now, keep=3, refuges=(refuge,))
    other = replace(store, _seen={})
    yield told(store.read)
    for serial in range(1, 7):
        state = replace(first, serial=serial)
        yield told(lambda: store.write(state, expect=state.serial - 1))  # noqa: B023
    yield told(lambda: other.write(replace(first, serial=3, released=9), expect=2))
    yield told(other.read)
    yield told(lambda: other.write(replace(first, serial=7), expect=6))
    yield told(lambda: store.write(replace(first, serial=7, released=9), expect=6))
    yield told(store.serials)
    yield told(lambda: store.kept(5))
    yield told(lambda: store.kept(1))
    yield told(lambda: stacks_in(bucket))
    with store.lock(operation="apply"):
        yield told(lambda: other.lock(operation="apply").__enter__())
        yield (holder := other.holder()) is not None and holder.operation
    yield told(other.holder)
    whole = bucket.get("demo.state.json")
    bucket.put("demo.state.json", b"{", whole)
    yield told(store.read)
    yield told(lambda: store.mend(replace(first, serial=6)))
    yield told(store.read)
    yield told(lambda: bucket.drop("demo.lock.json"))
    yield told(lambda: bucket.drop("demo.lock.json"))
    yield told(lambda: bucket.get("demo.lock.json"))


def test_the_bucket_in_memory_is_asked_and_answers_as_a_real_one(
    s3: S3, tmp_path: Path, first: State
) -> None:
    """Same requests, same bytes, same outcomes: what simulations rest on."""
    proxy, url = s3
    folder = f"like-{os.getpid()}"
    client = FakeObjects()
    real = [*story(bucket_at(url, folder), first, tmp_path)]
    assert [*story(ObjectBucket(client, "fake"), first, tmp_path)] == real
    lines = zip(proxy.seen, proxy.carried, strict=True)
    seen = [_seen(line, folder, *carried) for line, carried in lines]
    assert [_asked(it) for it in client.log] == seen
    assert len(seen) > 40


def _seen(line: str, folder: str, sent: int, received: int) -> tuple[object, ...]:
    """A request as the server saw it; what a GET of nothing says is the server's."""
    method, _, path = line.partition(" ")
    if path == "/states":  # of the folder; a removal is a list of one name
        return ("LIST",) if method == "GET" else ("DELETE",)
    name = path.removeprefix(f"/states/{folder}/")
    return method, name, sent, received


def _asked(it: Request) -> tuple[object, ...]:
    if it.method in ("LIST", "DELETE"):
        return (it.method,)
    return it.method, it.path, it.sent, it.received


def test_the_tags_of_the_bucket_in_memory_are_those_of_s3(s3: S3) -> None:
    client = FakeObjects()
    real = bucket_at(s3[1], f"tags-{os.getpid()}").put("x", FREE, None)
    assert ObjectBucket(client, "fake").put("x", FREE, None) == real
    assert client.log == [Request("PUT", "x", len(FREE))]
