"""What goes wrong with a state in an object store, and what is said: without a server.

`test_objects.py` has the same store on a real S3 server, and every fault of requests.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from deployer.errors import AuthError, LockedError, StalePlanError, StateError
from deployer.planning.state import VERSION, State
from deployer.state.files import to_json
from deployer.state.lock import holder_to_json, this_process
from deployer.state.objects import (
    ATTEMPTS,
    FREE,
    Found,
    MovedError,
    ObjectBucket,
    ObjectStateStore,
)
from tests.state.fake_objects import FakeObjects

PLACE = "s3://b/f/demo.state.json"
WAY_BACK = "`deployer state repair 's/a b.yaml'` goes on from the newest whole version"
LOCK = "demo.lock.json"
STATE = "demo.state.json"


def now() -> datetime:
    return datetime(2026, 1, 1, 10, 1, 2, tzinfo=UTC)


class Told(ObjectBucket):
    """A bucket in which chosen writes do not go as they should."""

    def __init__(self, client: FakeObjects) -> None:
        super().__init__(client, "s3://b/f")
        object.__setattr__(self, "refuse", {})

    refuse: dict[str, Exception]

    def put(self, name: str, content: bytes, before: Found | None) -> Found:
        if name in self.refuse:
            raise self.refuse[name]
        return super().put(name, content, before)


@pytest.fixture
def client() -> FakeObjects:
    return FakeObjects()


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def kept(client: FakeObjects, said: list[str], tmp_path: Path) -> ObjectStateStore:
    return ObjectStateStore(
        Told(client),
        "demo",
        now=now,
        notify=said.append,
        refuges=(tmp_path,),
        stack_file=Path("s/a b.yaml"),
    )


def written(kept: ObjectStateStore, first: State, count: int) -> list[State]:
    states = [replace(first, serial=serial) for serial in range(1, count + 1)]
    for state in states:
        kept.write(state, expect=state.serial - 1)
    return states


def refuses(kept: ObjectStateStore, **names: Exception) -> None:
    assert isinstance(kept.bucket, Told)
    named = {"lock": LOCK, "state": STATE}
    kept.bucket.refuse.update({named[it]: error for it, error in names.items()})


def enter(kept: ObjectStateStore) -> None:
    with kept.lock(operation="apply"):
        pass


def error_of(do: Callable[[], object]) -> tuple[str, str]:
    with pytest.raises((StateError, LockedError)) as caught:
        do()
    return caught.value.message, caught.value.hint


def test_a_state_that_is_gone_is_missed(
    kept: ObjectStateStore, client: FakeObjects, first: State
) -> None:
    written(kept, first, 2)
    del client.objects[STATE]
    told = (f"`{PLACE}` is gone, though there was one", WAY_BACK)
    assert error_of(kept.read) == told


def test_the_state_of_another_stack_is_refused(
    kept: ObjectStateStore, client: FakeObjects, first: State
) -> None:
    client.objects[STATE] = to_json(replace(first, stack="other")).encode()
    told = (f"`{PLACE}` holds the state of the stack `other`", WAY_BACK)
    assert error_of(kept.read) == told


def test_a_damaged_state_has_a_way_back_and_a_newer_one_its_own(
    kept: ObjectStateStore, client: FakeObjects
) -> None:
    client.objects[STATE] = b"{"
    message, hint = error_of(kept.read)
    assert message.startswith(f"`{PLACE}` is damaged: not JSON")
    assert hint == WAY_BACK
    client.objects[STATE] = f'{{"version": {VERSION + 1}}}'.encode()
    assert error_of(kept.read)[1] == "upgrade deployer"


@pytest.mark.parametrize("damage", [b"{", b"other", None])
def test_mending_keeps_what_was_there_beside_it(
    kept: ObjectStateStore, client: FakeObjects, first: State, damage: bytes | None
) -> None:
    states = written(kept, first, 3)
    if damage == b"other":
        damage = to_json(replace(first, stack="other")).encode()
    if damage is None:
        del client.objects[STATE]
    else:
        client.objects[STATE] = damage
        client.objects["demo.state.damaged.json"] = b"of an earlier time"
    kept.mend(states[1])
    assert kept.read() == states[1]
    assert client.objects.get("demo.state.damaged.json") == damage
    kept.write(replace(states[1], serial=3), expect=2)


@pytest.mark.parametrize("newer", [False, True])
def test_what_is_not_damaged_is_not_mended(
    kept: ObjectStateStore, client: FakeObjects, first: State, *, newer: bool
) -> None:
    written(kept, first, 1)
    if newer:
        client.objects[STATE] = f'{{"version": {VERSION + 1}}}'.encode()
    before = dict(client.objects)
    told = (f"`{PLACE}` is not damaged: it is left as it is", "")
    assert error_of(lambda: kept.mend(first)) == told
    assert client.objects == before


def test_mending_makes_way_for_a_write_of_somebody_else(
    kept: ObjectStateStore, first: State
) -> None:
    refuses(kept, state=MovedError())
    told = (f"`{PLACE}` was written just now", "")
    assert error_of(lambda: kept.mend(first)) == told


def test_a_version_that_is_not_kept_or_not_whole_is_named(
    kept: ObjectStateStore, client: FakeObjects, first: State
) -> None:
    written(kept, first, 2)
    place = "s3://b/f/history/demo/0000000"
    assert error_of(lambda: kept.kept(7)) == (f"`{place}7.json` is not there", "")
    client.objects["history/demo/00000001.json"] = b"{"
    message, _ = error_of(lambda: kept.kept(1))
    assert message.startswith(f"`{place}1.json` is damaged: ")


def test_only_versions_are_versions(
    kept: ObjectStateStore, client: FakeObjects
) -> None:
    for name in ("00000012.json", "100000003.json", "1.json", "00000001.json.old"):
        client.objects[f"history/demo/{name}"] = b""
    assert kept.serials() == (12, 100000003)


def test_a_version_that_is_there_already_is_replaced(
    kept: ObjectStateStore, client: FakeObjects, first: State, second: State
) -> None:
    """A write that died after it, or a mended state."""
    kept.write(first, expect=0)
    client.objects["history/demo/00000001.json"] = b"of another time"
    kept.write(second, expect=1)
    assert kept.kept(1) == first


def test_a_held_lock_says_by_whom_and_what_to_type(kept: ObjectStateStore) -> None:
    with kept.lock(operation="rollback"):
        holder = kept.holder()
        assert holder is not None
        since = f"(pid {os.getpid()}) since 2026-01-01 10:01:02 UTC for rollback"
        assert str(holder).endswith(since)
        unlock = f"`deployer state unlock 's/a b.yaml' {holder.id}`"
        told = (f"`demo` is locked by {holder}", f"if it runs no more: {unlock}")
        assert error_of(lambda: enter(kept)) == told


def test_a_lock_is_broken_by_its_id_alone(
    kept: ObjectStateStore, client: FakeObjects
) -> None:
    assert error_of(lambda: kept.unlock("x")) == ("`demo` is not locked", "")
    held = kept.lock(operation="apply")
    held.__enter__()
    holder = kept.holder()
    assert holder is not None
    other = f"the lock `demo` has not the ID `x`: it is held by {holder}"
    assert error_of(lambda: kept.unlock("x")) == (other, f"its ID is `{holder.id}`")
    assert kept.holder() == holder
    assert kept.unlock(holder.id) == holder
    assert client.objects[LOCK] == FREE
    assert kept.holder() is None


def test_a_lock_that_changes_hands_while_it_is_broken_stays(
    kept: ObjectStateStore,
) -> None:
    held = kept.lock(operation="apply")
    held.__enter__()
    holder = kept.holder()
    assert holder is not None
    refuses(kept, lock=MovedError())
    just = "`demo` was just locked or freed by another process"
    told = (just, "run it again to see by whom")
    assert error_of(lambda: kept.unlock(holder.id)) == told


def test_a_lock_that_is_free_and_cannot_be_had_is_given_up(
    kept: ObjectStateStore, client: FakeObjects
) -> None:
    refuses(kept, lock=MovedError())
    just = "`demo` was just locked or freed by another process"
    told = (just, "run it again to see by whom")
    assert error_of(lambda: enter(kept)) == told
    assert [it.method for it in client.log] == ["GET"] * ATTEMPTS


def test_a_lock_that_cannot_be_freed_says_how(
    kept: ObjectStateStore, said: list[str]
) -> None:
    with kept.lock(operation="apply"):
        holder = kept.holder()
        assert holder is not None
        refuses(kept, lock=StateError("away"))
    told = (
        f"the lock could not be freed (away): `deployer state unlock 's/a b.yaml'"
        f" {holder.id}`"
    )
    assert said == [told]


def test_a_lock_that_is_anothers_by_now_is_left_in_silence(
    kept: ObjectStateStore, client: FakeObjects, said: list[str]
) -> None:
    theirs = holder_to_json(this_process("destroy", now=now)).encode()
    with kept.lock(operation="apply"):
        client.objects[LOCK] = theirs
    assert client.objects[LOCK] == theirs
    assert said == []


@pytest.mark.parametrize("content", [b"{", b'{"version": 9}'])
def test_a_lock_that_does_not_say_whose_it_is_is_nobodys_to_take(
    kept: ObjectStateStore, client: FakeObjects, content: bytes
) -> None:
    client.objects[LOCK] = content
    for ask in (kept.holder, lambda: enter(kept), lambda: kept.unlock("x")):
        message, hint = error_of(ask)
        start = f"the lock beside `{PLACE}` does not say who holds it: "
        assert message.startswith(start)
        assert hint == "if nothing works on the stack, remove that object"


def test_an_answer_of_before_is_asked_again_and_not_for_ever(
    kept: ObjectStateStore, client: FakeObjects, first: State, tmp_path: Path
) -> None:
    """A store may answer with a copy that is behind."""
    written(kept, first, 2)
    client.log.clear()
    message, hint = error_of(lambda: kept.write(replace(first, serial=9), expect=8))
    behind = f"`{PLACE}` keeps answering with what it was before"
    assert f"({behind})" in message
    push = "before anything else: `deployer state push 's/a b.yaml' "
    assert hint.startswith(push)
    assert [it.method for it in client.log] == ["GET"] * ATTEMPTS
    assert (tmp_path / "errored.demo.state.json").exists()


def test_what_is_stored_already_is_not_written(
    kept: ObjectStateStore, client: FakeObjects, first: State
) -> None:
    states = written(kept, first, 2)
    client.log.clear()
    kept.write(states[1], expect=1)
    assert [it.method for it in client.log] == ["GET"]


def test_another_lineage_is_refused(kept: ObjectStateStore, first: State) -> None:
    written(kept, first, 1)
    with pytest.raises(StalePlanError, match="is a new one now"):
        kept.write(replace(first, lineage="l2", serial=2), expect=1)


def test_refused_credentials_put_the_state_aside(
    kept: ObjectStateStore, first: State, tmp_path: Path
) -> None:
    refuses(kept, state=AuthError("`s3://b/f` refuses these credentials"))
    message, _ = error_of(lambda: kept.write(first, expect=0))
    assert "(`s3://b/f` refuses these credentials)" in message
    place = tmp_path / "errored.demo.state.json"
    assert place.read_text() == to_json(first)
