"""The store does not read what it knows: bytes that come from files are counted."""

import hashlib
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest

from deployer.artefacts.store import Entry, Store
from deployer.stack.fields.values import JsonValue
from tests.counting import file_bytes

LARGE = os.urandom(500_000) * 4


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


def published(store: Store, proven: Mapping[str, str] | None = None) -> Entry:
    return store.publish(
        "build",
        "k1",
        large,
        now=lambda: datetime.now(tz=UTC),
        say=lambda _: None,
        proven=proven,
    )


def replaced(entry: Entry, content: bytes) -> None:
    """Put another file of the same size and time in the place of the large one."""
    path = entry.path("large")
    status, other = path.stat(), path.with_name("other")
    other.write_bytes(content)
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(path)


def large(folder: Path) -> Mapping[str, JsonValue]:
    (folder / "large").write_bytes(LARGE)
    return {}


def test_an_unchanged_file_is_not_read(store: Store) -> None:
    published(store)
    assert file_bytes(lambda: store.find("build", "k1")) < 10_000


def test_another_file_of_the_same_size_and_time_is_read_once(store: Store) -> None:
    replaced(published(store), LARGE)
    assert file_bytes(lambda: store.find("build", "k1")) > len(LARGE)
    assert file_bytes(lambda: store.find("build", "k1")) < 10_000
    assert store.find("build", "k1") is not None


def test_other_content_of_the_same_size_and_time_is_found_out(store: Store) -> None:
    replaced(published(store), LARGE[::-1])
    assert store.find("build", "k1") is None


def test_what_a_fill_proves_is_not_read_again(store: Store) -> None:
    digest = hashlib.sha256(LARGE).hexdigest()

    assert file_bytes(lambda: published(store, {"large": digest})) < 200_000
    entry = store.find("build", "k1")
    assert entry is not None
    assert entry.files["large"].sha256 == digest
    assert store.verify(entry) == []
