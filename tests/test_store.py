"""The store: whole entries, or none."""

import itertools
import json
import multiprocessing
import os
import signal
import stat
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

import pytest

import deployer.artefacts.store as store_module
from deployer.artefacts.sources.files import File, stamped
from deployer.artefacts.store import Entry, Kind, Store
from deployer.errors import StoreError
from deployer.stack.fields.values import JsonValue
from deployer.usecases.context.settings import home_of

THEN = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def fill(folder: Path) -> Mapping[str, JsonValue]:
    (folder / "bin").mkdir()
    (folder / "bin" / "llama-server").write_bytes(b"program")
    (folder / "bin" / "llama-server").chmod(0o700)
    (folder / "notes").write_bytes(b"text")
    return {"tag": "b10434"}


def publish(
    store: Store,
    key: str = "k1",
    fill: Callable[[Path], Mapping[str, JsonValue]] = fill,
    *,
    kind: Kind = "build",
    said: list[str] | None = None,
    now: datetime = THEN,
    again: bool = False,
) -> Entry:
    say = (said if said is not None else []).append
    return store.publish(kind, key, fill, now=lambda: now, say=say, again=again)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


def leftovers(store: Store) -> list[str]:
    return sorted(p.name for p in (store.home / "build").iterdir() if p.name[0] == ".")


def test_what_is_published_is_found(store: Store) -> None:
    assert store.find("build", "k1") is None
    assert publish(store) == store.find("build", "k1")


def test_an_entry_says_what_it_is(store: Store) -> None:
    entry = publish(store)
    assert (entry.kind, entry.key, entry.created) == ("build", "k1", THEN)
    assert entry.about == {"tag": "b10434"}
    assert entry.size == 11
    assert entry.path("notes").read_bytes() == b"text"


def test_the_executable_bit_stays_and_nothing_is_writable(store: Store) -> None:
    entry = publish(store)
    modes = {n: entry.path(n).stat().st_mode & 0o777 for n in entry.files}
    assert modes == {"bin/llama-server": 0o555, "notes": 0o444}


def test_the_store_is_private(store: Store) -> None:
    entry = publish(store)
    for folder in (store.home, entry.folder.parent, entry.folder):
        assert folder.stat().st_mode & 0o777 == 0o700


def test_a_second_publish_does_not_fill(store: Store) -> None:
    first = publish(store)

    def never(_: Path) -> Mapping[str, JsonValue]:
        raise AssertionError

    assert publish(store, fill=never) == first


def test_a_failing_fill_leaves_nothing(store: Store) -> None:
    def fails(folder: Path) -> Mapping[str, JsonValue]:
        (folder / "half").write_bytes(b"...")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        publish(store, fill=fails)
    assert list((store.home / "build").iterdir()) == []


def test_a_full_disk_is_said_with_what_is_free(store: Store) -> None:
    def fails(_: Path) -> Mapping[str, JsonValue]:
        with Path("/dev/full").open("wb", buffering=0) as stream:
            stream.write(b"x")
        return {}

    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(StoreError, match=r"no room for build k1 .* is free") as caught:
        publish(store, fill=fails)
    assert "store gc" in caught.value.hint


def test_equal_files_take_room_once(store: Store) -> None:
    def twins(folder: Path) -> Mapping[str, JsonValue]:
        for name in ("libggml.so", "libggml.so.0"):
            (folder / name).write_bytes(b"same")
        return {}

    entry = publish(store, fill=twins)
    assert entry.path("libggml.so").samefile(entry.path("libggml.so.0"))
    assert entry.size == 4
    assert store.verify(entry) == []


def test_links_inside_an_entry_stay_links(store: Store) -> None:
    def linked(folder: Path) -> Mapping[str, JsonValue]:
        (folder / "libggml.so.0").write_bytes(b"library")
        (folder / "libggml.so").symlink_to("libggml.so.0")
        return {}

    entry = publish(store, fill=linked)
    assert entry.path("libggml.so").readlink() == Path("libggml.so.0")
    assert store.verify(entry) == []


@pytest.mark.parametrize("target", ["/etc/passwd", "../../outside", "missing"])
def test_links_that_leave_are_refused(store: Store, target: str) -> None:
    def escaping(folder: Path) -> Mapping[str, JsonValue]:
        (folder / "link").symlink_to(target)
        return {}

    with pytest.raises(StoreError, match="leaves its entry"):
        publish(store, fill=escaping)
    assert store.find("build", "k1") is None


def test_a_missing_file_makes_an_entry_absent(store: Store) -> None:
    entry = publish(store)
    entry.path("notes").unlink()
    assert store.find("build", "k1") is None
    assert store.verify(entry) == ["`notes` is gone"]


def test_a_shortened_file_makes_an_entry_absent(store: Store) -> None:
    path = publish(store).path("notes")
    path.chmod(0o600)
    path.write_bytes(b"t")
    assert store.find("build", "k1") is None


def flip(entry: Entry) -> None:
    """Write another byte into a file, and put its time back."""
    notes = entry.path("notes")
    written = notes.stat().st_mtime_ns
    notes.chmod(0o600)
    notes.write_bytes(b"tixt")
    notes.chmod(0o444)
    os.utime(notes, ns=(written, written))


@pytest.mark.trust
def test_a_flipped_byte_is_found_though_size_and_time_are_kept(store: Store) -> None:
    flip(publish(store))
    assert store.find("build", "k1") is None
    assert store.flaw("build", "k1") == (
        "`notes` has other content than when it was published"
    )


@pytest.mark.trust
def test_what_reading_everything_found_counts_from_then_on(store: Store) -> None:
    """A disk that decays changes no stamp: the manifest here knows the new one."""
    entry = publish(store)
    flip(entry)
    manifest = entry.folder / "manifest.json"
    content = json.loads(manifest.read_text())
    content["files"]["notes"]["ctime_ns"] = entry.path("notes").stat().st_ctime_ns
    manifest.chmod(0o600)
    manifest.write_text(json.dumps(content))
    decayed = store.find("build", "k1")
    assert decayed is not None
    assert "has other content" in store.verify(decayed)[0]
    assert store.find("build", "k1") is None
    assert publish(store).path("notes").read_bytes() == b"text"


def test_an_entry_without_all_of_a_stamp_is_read_once(store: Store) -> None:
    entry = publish(store)
    manifest = entry.folder / "manifest.json"
    content = json.loads(manifest.read_text())
    for file in content["files"].values():
        del file["ctime_ns"]
    manifest.write_text(json.dumps(content))
    assert store.find("build", "k1") is not None
    assert set(json.loads(store.digests.read_text())) == {
        str(entry.path(name)) for name in entry.files
    }


@pytest.mark.trust
@pytest.mark.parametrize(
    ("content", "why"),
    [(b"", "is 0 B, was 4 B"), (bytes(4), "has other content"), (None, "is gone")],
)
def test_what_is_damaged_is_made_again_and_says_why(
    store: Store, content: bytes | None, why: str
) -> None:
    notes = publish(store).path("notes")
    notes.unlink()
    if content is not None:
        notes.write_bytes(content)
    said: list[str] = []
    entry = publish(store, said=said)
    assert len(said) == 1
    assert said[0].startswith(f"`notes` {why}")
    assert said[0].endswith(": making it again")
    assert entry.path("notes").read_bytes() == b"text"


def test_a_file_that_was_only_touched_is_the_same(store: Store) -> None:
    entry = publish(store)
    os.utime(entry.path("notes"), ns=(1, 1))
    assert store.find("build", "k1") == entry


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"version": 99, "key": "k1"}'])
def test_a_foreign_manifest_makes_an_entry_absent(store: Store, content: str) -> None:
    entry = publish(store)
    (entry.folder / "manifest.json").write_text(content)
    assert store.find("build", "k1") is None
    assert store.entries() == []


def test_a_damaged_entry_is_replaced(store: Store) -> None:
    publish(store).path("notes").unlink()
    entry = publish(store)
    assert entry.path("notes").read_bytes() == b"text"
    assert leftovers(store) == []


def test_entries_come_oldest_first_with_their_kinds(store: Store) -> None:
    publish(store, "new", now=THEN.replace(year=2027))
    publish(store, "old", kind="weights")
    assert [(e.kind, e.key) for e in store.entries()] == [
        ("weights", "old"),
        ("build", "new"),
    ]


def test_removing_is_complete_and_may_be_repeated(store: Store) -> None:
    publish(store)
    store.remove("build", "k1")
    store.remove("build", "k1")
    assert store.entries() == []
    assert leftovers(store) == []


@pytest.mark.parametrize("key", ["", "../x", ".hidden", "a/b", "a\0"])
def test_a_key_cannot_leave_the_store(store: Store, key: str) -> None:
    with pytest.raises(StoreError, match="cannot be the key"):
        store.find("build", key)


def test_the_manifest_is_not_a_file_of_the_entry(store: Store) -> None:
    def clash(folder: Path) -> Mapping[str, JsonValue]:
        (folder / "manifest.json").write_text("{}")
        return {}

    with pytest.raises(StoreError, match="of its own named"):
        publish(store, fill=clash)


def _die_while_filling(home: Path, key: str) -> None:
    def die(folder: Path) -> Mapping[str, JsonValue]:
        (folder / "half").write_bytes(b"...")
        os._exit(9)

    publish(Store(home), key, die)


@pytest.mark.parametrize("key", ["k1", "other"])
def test_the_next_publish_sweeps_what_a_killed_one_left(store: Store, key: str) -> None:
    context = multiprocessing.get_context("spawn")
    child = context.Process(target=_die_while_filling, args=(store.home, key))
    child.start()
    child.join(60)
    assert child.exitcode == 9
    assert len(leftovers(store)) == 1
    publish(store)
    assert leftovers(store) == []


def _replace(store: Store, kill_at: int) -> None:
    """Replace an entry, killed at a call in the store or before a change of a name."""
    calls = 0

    def count() -> None:
        nonlocal calls
        calls += 1
        if calls == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def look(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename == store_module.__file__:
            count()

    sys.addaudithook(lambda event, _: count() if event == "os.rename" else None)
    sys.setprofile(look)
    publish(store, fill=fill_anew, again=True)
    os._exit(0)


def fill_anew(folder: Path) -> Mapping[str, JsonValue]:
    (folder / "notes").write_bytes(b"others")
    return {}


def test_a_kill_at_any_point_of_a_replacement_leaves_a_whole_entry(
    store: Store,
) -> None:
    publish(store)
    killed = Counter[str]()
    for at in itertools.count(1):
        process = multiprocessing.get_context("fork").Process(
            target=_replace, args=(store, at)
        )
        process.start()
        process.join(60)
        entry = store.find("build", "k1")
        assert entry is not None, f"killed at call {at}"
        content = entry.path("notes").read_text()
        if process.exitcode == 0:
            assert content == "others"
            break
        assert process.exitcode == -signal.SIGKILL
        killed[content] += 1
        if content == "others":
            publish(store, again=True)
    assert min(killed["text"], killed["others"]) > 1
    assert leftovers(store) == []


def test_an_entry_is_replaced_where_names_cannot_be_exchanged(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(store)
    monkeypatch.setattr(store_module, "_EXCHANGE", 1 << 30)  # as a file system refuses
    publish(store, fill=fill_anew, again=True)
    entry = store.find("build", "k1")
    assert entry is not None
    assert entry.path("notes").read_bytes() == b"others"
    assert leftovers(store) == []


def test_who_comes_second_waits_says_so_and_finds(store: Store) -> None:
    filling, waiting = threading.Event(), threading.Event()
    said: list[str] = []
    entries: list[Entry] = []

    def slow(folder: Path) -> Mapping[str, JsonValue]:
        filling.set()
        assert waiting.wait(30)
        return fill(folder)

    def hear(message: str) -> None:
        said.append(message)
        waiting.set()

    def second() -> None:
        assert filling.wait(30)
        entries.append(
            store.publish("build", "k1", slow, now=lambda: THEN, say=hear),
        )

    thread = threading.Thread(target=second)
    thread.start()
    first = publish(store, fill=slow)
    thread.join(30)
    assert entries == [first]
    assert said == ["waiting for another process that makes `build/k1`"]


def test_a_publisher_at_work_is_not_swept(store: Store) -> None:
    def nested(folder: Path) -> Mapping[str, JsonValue]:
        thread = threading.Thread(target=publish, args=(store, "k2"))
        thread.start()
        thread.join(30)
        assert folder.is_dir()
        return fill(folder)

    publish(store, "k1", nested)
    assert [e.key for e in store.entries()] == ["k1", "k2"]


def refer(store: Store, path: Path) -> Entry:
    wrong = File(size=path.stat().st_size, sha256="0" * 64, external=str(path))
    file = stamped(wrong, path)
    files = {path.name: file}
    return store.refer("weights", "w1", files, {}, now=lambda: THEN, say=lambda _: None)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF weights")
    return path


def test_a_file_of_the_user_is_referred_to(store: Store, model: Path) -> None:
    entry = refer(store, model)
    assert entry.path("model.gguf") == model
    assert entry.size == 0
    assert store.find("weights", "w1") == entry


def test_a_changed_file_of_the_user_is_not_found(store: Store, model: Path) -> None:
    entry = refer(store, model)
    os.utime(model, ns=(1, 1))
    assert store.find("weights", "w1") is None
    assert "was written to since" in entry.problems()[0]


def test_removing_a_reference_keeps_the_file(store: Store, model: Path) -> None:
    refer(store, model)
    store.remove("weights", "w1")
    assert model.read_bytes() == b"GGUF weights"


def test_verifying_reads_the_file_of_the_user(store: Store, model: Path) -> None:
    assert "has other content" in store.verify(refer(store, model))[0]


@pytest.mark.parametrize(
    ("environment", "home"),
    [
        ({"DEPLOYER_HOME": "/x", "XDG_DATA_HOME": "/y", "HOME": "/h"}, "/x"),
        ({"XDG_DATA_HOME": "/y", "HOME": "/h"}, "/y/deployer"),
        ({"XDG_DATA_HOME": "relative", "HOME": "/h"}, "/h/.local/share/deployer"),
        ({"DEPLOYER_HOME": "", "HOME": "/h"}, "/h/.local/share/deployer"),
    ],
)
def test_where_the_store_is(environment: dict[str, str], home: str) -> None:
    assert home_of(environment) == home


def test_a_manifest_lists_digest_size_and_mode(store: Store) -> None:
    entry = publish(store)
    content = json.loads((entry.folder / "manifest.json").read_text())
    assert content["created"] == "2026-11-22T12:00:00+00:00"
    assert content["files"]["notes"]["size"] == 4
    assert content["files"]["notes"]["mode"] == 0o444
    assert content["files"]["notes"]["sha256"].startswith("982d9e3eb996f559")


def test_a_snapshot_is_for_its_owner_alone(store: Store) -> None:
    """It holds the memory of a server: prompts and keys."""
    entry = publish(store, kind="snapshot")
    modes = {stat.S_IMODE(entry.path(name).stat().st_mode) for name in entry.files}
    assert modes == {0o500, 0o400}
    assert stat.S_IMODE(entry.folder.stat().st_mode) == 0o700
    assert store.look("snapshot", "k1") == entry
    assert store.look("snapshot", "k2") is None
