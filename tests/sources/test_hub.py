"""The hub, spoken to by the real client: pinned to a commit, fetched, resumed."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deployer.artefacts.sources import hub
from deployer.artefacts.sources.hub import Choice
from deployer.errors import AuthError, DeployerError, SourceError, StoreError
from deployer.planning.facts import Pin
from deployer.planning.progress import Progress, unwatched
from tests.sources.hub import COMMIT, REPO, Hub, sha256

MODEL = b"GGUF" + os.urandom(2_000_000)
FILES = {
    "README.md": b"# tiny",
    "tiny-Q4_K_M.gguf": MODEL,
    "tiny-Q8_0.gguf": b"GGUF another",
    "mmproj-F16.gguf": b"GGUF projector",
    "BF16/tiny-BF16-00001-of-00002.gguf": b"GGUF part one",
    "BF16/tiny-BF16-00002-of-00002.gguf": b"GGUF part two",
}


def test_a_revision_that_is_a_path_removes_nothing(tmp_path: Path) -> None:
    """The form of a lock file refuses it before; here the folder itself does."""
    downloads, victim, into = (tmp_path / x for x in ("a/downloads", "victim", "into"))
    for folder in (downloads / "hub" / "owner--m", victim, into):
        folder.mkdir(parents=True)
    (victim / sha256(MODEL)).write_bytes(MODEL)
    pin = Pin(
        "hub",
        {"model": [sha256(MODEL)]},
        {"repo": "owner/m", "revision": "../../../../victim", "model": ["m.gguf"]},
        {"model": ["m.gguf"]},
    )
    with pytest.raises(StoreError, match="nothing was written or removed"):
        hub.fetch(pin, into, downloads=downloads, environment={}, progress=unwatched)
    assert (victim / sha256(MODEL)).exists()


@pytest.fixture
def world(make_site: Callable[[], Any]) -> Hub:
    api, cdn = make_site(), make_site()
    world = Hub(api, cdn, {"HF_ENDPOINT": api.url})
    world.publish(FILES)
    return world


@pytest.fixture
def into(tmp_path: Path) -> Path:
    folder = tmp_path / "into"
    folder.mkdir()
    return folder


@pytest.fixture
def downloads(tmp_path: Path) -> Path:
    return tmp_path / "downloads"


def pin(world: Hub, **choice: str) -> Pin:
    return hub.pin(Choice(repo=REPO, **choice), environment=world.environment)


def fetch(world: Hub, found: Pin, into: Path, downloads: Path) -> list[Progress]:
    seen: list[Progress] = []
    hub.fetch(
        found,
        into,
        downloads=downloads,
        environment=world.environment,
        progress=seen.append,
    )
    return seen


def test_a_pin_names_the_commit_and_the_digests(world: Hub) -> None:
    found = pin(world, quant="Q4_K_M", mmproj="F16")
    assert found == Pin(
        source="hub",
        identity={
            "model": [sha256(MODEL)],
            "mmproj": sha256(FILES["mmproj-F16.gguf"]),
        },
        where={
            "repo": REPO,
            "revision": COMMIT,
            "model": ["tiny-Q4_K_M.gguf"],
            "mmproj": "mmproj-F16.gguf",
        },
        about={
            "model": ["tiny-Q4_K_M.gguf"],
            "mmproj": "mmproj-F16.gguf",
            "size": len(MODEL) + len(FILES["mmproj-F16.gguf"]),
        },
    )


def test_a_pin_downloads_nothing(world: Hub) -> None:
    pin(world, revision="main", quant="Q4_K_M")
    assert [r.path for r in world.api.requests] == [f"/api/models/{REPO}/revision/main"]
    assert world.cdn.requests == []


def test_fetched_files_are_the_pinned_ones(
    world: Hub, into: Path, downloads: Path
) -> None:
    seen = fetch(world, pin(world, quant="Q4_K_M", mmproj="F16"), into, downloads)
    assert sorted(p.name for p in into.iterdir()) == [
        "mmproj-F16.gguf",
        "tiny-Q4_K_M.gguf",
    ]
    assert (into / "tiny-Q4_K_M.gguf").read_bytes() == MODEL
    assert Progress("tiny-Q4_K_M.gguf", len(MODEL), len(MODEL)) in seen
    assert [p for p in downloads.rglob("*") if p.is_file()] == []


def test_all_parts_of_a_split_model_arrive(
    world: Hub, into: Path, downloads: Path
) -> None:
    found = pin(world, quant="BF16")
    fetch(world, found, into, downloads)
    assert found.about["model"] == [
        "tiny-BF16-00001-of-00002.gguf",
        "tiny-BF16-00002-of-00002.gguf",
    ]
    assert sorted(p.name for p in into.iterdir()) == found.about["model"]


def test_a_dying_file_server_is_resumed(
    world: Hub, into: Path, downloads: Path
) -> None:
    big = b"GGUF" + bytes(12_000_000)
    world.publish({"big-Q8_0.gguf": big})
    world.cdn.pages[f"/blobs/{sha256(big)}"].cuts = [11_000_000]
    fetch(world, pin(world, quant="Q8_0"), into, downloads)
    asked = [r.headers.get("range") for r in world.cdn.requests]
    assert asked == [None, "bytes=11000000-"]
    assert (into / "big-Q8_0.gguf").read_bytes() == big


def test_damaged_content_is_refused(world: Hub, into: Path, downloads: Path) -> None:
    found = pin(world, quant="Q4_K_M")
    broken = MODEL[:-1] + b"!"
    world.cdn.pages[f"/blobs/{sha256(MODEL)}"].body = broken
    with pytest.raises(SourceError, match=f"sha256 is {sha256(broken)}"):
        fetch(world, found, into, downloads)
    assert list(into.iterdir()) == []


def test_the_token_goes_to_the_hub_and_nowhere_else(
    world: Hub, into: Path, downloads: Path
) -> None:
    world.environment["HF_TOKEN"] = "hf_secret"
    fetch(world, pin(world, quant="Q8_0"), into, downloads)
    assert {r.headers.get("authorization") for r in world.api.requests} == {
        "Bearer hf_secret"
    }
    assert {r.headers.get("authorization") for r in world.cdn.requests} == {None}


def test_a_token_stored_on_this_machine_is_not_used(world: Hub) -> None:
    pin(world, quant="Q8_0")
    assert {r.headers.get("authorization") for r in world.api.requests} == {None}


@pytest.mark.parametrize(
    ("status", "headers", "token", "error", "words", "hint"),
    [
        (
            403,
            {"X-Error-Code": "GatedRepo"},
            "",
            AuthError,
            "is gated, and `HF_TOKEN` is not set",
            "accept the licence at ",
        ),
        (
            403,
            {"X-Error-Code": "GatedRepo"},
            "hf_secret",
            AuthError,
            "the token in `HF_TOKEN` has no access",
            "accept the licence at ",
        ),
        (
            401,
            {"X-Error-Message": "Invalid credentials in Authorization header"},
            "hf_secret",
            AuthError,
            "the hub refuses `owner/tiny-GGUF` (HTTP 401)",
            "the token in `HF_TOKEN` may be wrong",
        ),
        (
            401,
            {"X-Error-Code": "RepoNotFound"},
            "",
            SourceError,
            "does not exist, or is private",
            "check the spelling; if it is private, set `HF_TOKEN`",
        ),
        (
            404,
            {"X-Error-Code": "RevisionNotFound"},
            "",
            SourceError,
            "has no such revision",
            "see ",
        ),
        (500, {}, "", SourceError, "could not serve", "it may be busy"),
    ],
)
def test_refusals_say_which_token_and_where_to_accept(
    world: Hub,
    status: int,
    headers: dict[str, str],
    token: str,
    error: type[DeployerError],
    words: str,
    hint: str,
) -> None:
    world.refuse(status, headers)
    world.environment["HF_TOKEN"] = token
    with pytest.raises(error) as caught:
        pin(world, quant="Q8_0")
    assert words in str(caught.value)
    assert caught.value.hint.startswith(hint)
    assert "hf_secret" not in f"{caught.value}{caught.value.hint}"


def test_a_gate_that_closes_after_the_pin_is_said(
    world: Hub, into: Path, downloads: Path
) -> None:
    found = pin(world, quant="Q8_0")
    world.refuse(403, {"X-Error-Code": "GatedRepo"})
    with pytest.raises(AuthError, match="is gated"):
        fetch(world, found, into, downloads)


def test_a_hub_out_of_reach_is_said(world: Hub) -> None:
    world.environment["HF_ENDPOINT"] = "http://127.0.0.1:9"
    with pytest.raises(SourceError, match="the hub could not be reached"):
        pin(world, quant="Q8_0")


def test_an_endpoint_that_is_no_hub_is_said(
    world: Hub, into: Path, downloads: Path
) -> None:
    found = pin(world, quant="Q8_0")
    del world.api.pages[f"/{REPO}/resolve/{COMMIT}/tiny-Q8_0.gguf"].headers[
        "X-Repo-Commit"
    ]
    with pytest.raises(SourceError, match="could not be reached") as caught:
        fetch(world, found, into, downloads)
    assert "HF_ENDPOINT" in caught.value.hint


def test_a_file_larger_than_the_disk_is_not_begun(
    world: Hub, into: Path, downloads: Path
) -> None:
    found = pin(world, quant="Q8_0")
    huge = Pin(found.source, found.identity, found.where, {"size": 10**18})
    with pytest.raises(StoreError, match=r"needs 1000000\.0 TB"):
        fetch(world, huge, into, downloads)
    assert world.cdn.requests == []


def test_a_name_that_is_no_repository_is_refused(world: Hub) -> None:
    with pytest.raises(SourceError, match="is not the name of a repository"):
        hub.pin(Choice(repo="not a name", quant="Q8_0"), environment=world.environment)


def test_watchers_may_look_away(world: Hub, into: Path, downloads: Path) -> None:
    hub.fetch(
        pin(world, quant="Q8_0"),
        into,
        downloads=downloads,
        environment=world.environment,
        progress=unwatched,
    )
    assert (into / "tiny-Q8_0.gguf").read_bytes() == FILES["tiny-Q8_0.gguf"]
