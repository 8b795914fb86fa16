"""From a URL to the store of a stack, and back to the URL."""

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from deployer.errors import UsageError
from deployer.state import KEPT
from deployer.state.files import FileStateStore, unnoticed
from deployer.state.objects import ObjectStateStore
from deployer.state.places import StatePlace, place_at, stacks_at, store_at
from tests.state.s3 import REGION, Proxy, bucket_at

HINT = "docs/state.md shows one of each kind"


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("s3://b", StatePlace("s3", "b")),
        ("s3://b/", StatePlace("s3", "b")),
        ("s3://b/f/g/", StatePlace("s3", "b/f/g")),
        (
            "s3://b/f?region=eu-west-1&endpoint=http://127.0.0.1:9000",
            StatePlace(
                "s3",
                "b/f",
                {"region": "eu-west-1", "endpoint": "http://127.0.0.1:9000"},
            ),
        ),
        ("s3://b/f?keep=3", StatePlace("s3", "b/f", {}, 3)),
        ("s3://b/f?keep=1", StatePlace("s3", "b/f", {}, 1)),
        ("gs://b/a%20folder", StatePlace("gs", "b/a folder")),
        ("az://account/container/f", StatePlace("az", "account/container/f")),
        (
            "az://a/c?endpoint=https://x.test",
            StatePlace("az", "a/c", {"endpoint": "https://x.test"}),
        ),
        ("file:///srv/states", StatePlace("file", "/srv/states")),
        ("file:///srv/states?keep=20", StatePlace("file", "/srv/states", {}, 20)),
    ],
)
def test_a_url_names_a_place_which_has_that_url(url: str, place: StatePlace) -> None:
    assert place_at(url) == place
    assert place_at(place.url) == place


def test_the_url_of_a_place_is_as_people_type_it() -> None:
    endpoint = {"region": "eu-west-1", "endpoint": "http://127.0.0.1:9000/a b"}
    place = StatePlace("s3", "b/a folder", endpoint, 3)
    assert place.url == (
        "s3://b/a%20folder?region=eu-west-1&endpoint=http://127.0.0.1:9000/a%20b&keep=3"
    )
    assert StatePlace("s3", "b", {}, KEPT).url == "s3://b"


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("", "it begins with none of `file://`, `s3://`, `gs://`, `az://`"),
        ("/srv", "it begins with none of `file://`, `s3://`, `gs://`, `az://`"),
        ("s3://[b/f", "it is no URL"),
        ("s3://b/f?region", "it is no URL"),
        ("s3://me@b/f", "a credential has no place in it"),
        ("s3://b?endpoint=http://me:key@h", "a credential has no place in it"),
        ("gs://b?region=eu", "`region` is not known for gs"),
        ("s3://b?zeal=1&colour=red", "`colour` is not known for s3"),
        ("file:///f?endpoint=x", "`endpoint` is not known for file"),
        ("s3://b?keep=-1", "`keep` is not a number from 1"),
        ("s3://b?keep=0", "`keep` is not a number from 1"),
        ("s3://b?keep=many", "`keep` is not a number from 1"),
        ("s3://b/../c", "it names no folder"),
        ("s3://b/%2e%2e/c", "it names no folder"),
        ("s3://", "it names no folder"),
        ("file:///", "it names no folder"),
    ],
)
def test_what_is_no_place_says_why_and_shows_no_credential(url: str, told: str) -> None:
    with pytest.raises(UsageError) as caught:
        place_at(url)
    shown = url.partition("?")[0].rpartition("@")[2]
    assert caught.value.message == f"`{shown}` is no place for states: {told}"
    assert caught.value.hint == HINT


def test_folders_of_a_project_lie_below() -> None:
    place = StatePlace("s3", "b/f/", {"region": "r"}, 3)
    assert place.below(Path()) is place
    below = place.below(Path("stacks") / "eu")
    assert below == StatePlace("s3", "b/f/stacks/eu", {"region": "r"}, 3)


def test_a_store_of_files_keeps_what_its_place_says(tmp_path: Path) -> None:
    told: list[str] = []
    place = StatePlace("file", str(tmp_path), {}, 4)
    store = store_at(place, "demo", stack_file=Path("demo.yaml"), notify=told.append)
    assert isinstance(store, FileStateStore)
    assert (store.folder, store.stack, store.keep) == (tmp_path, "demo", 4)
    store.notify("a line")
    assert told == ["a line"]
    unheard = store_at(place, "demo", stack_file=Path("demo.yaml"))
    assert isinstance(unheard, FileStateStore)
    assert unheard.notify is unnoticed


@pytest.mark.usefixtures("credentials")
def test_a_store_of_objects_keeps_what_its_place_says() -> None:
    told: list[str] = []
    place = StatePlace("s3", "b/f", {"region": "us-east-1"}, 4)
    store = store_at(place, "demo", stack_file=Path("s/d.yaml"), notify=told.append)
    assert isinstance(store, ObjectStateStore)
    assert (store.stack, store.keep) == ("demo", 4)
    assert store.place == "s3://b/f/demo.state.json"
    assert store.stack_file == Path("s/d.yaml")
    store.notify("a line")
    assert told == ["a line"]
    assert store.put_back(Path("/kept/x y")) == (
        "deployer state push s/d.yaml '/kept/x y'"
    )


def test_the_stacks_of_a_folder_are_listed(tmp_path: Path) -> None:
    for name in ("b.state.json", "a.state.json", "a.lock", "B.state.json"):
        (tmp_path / name).write_text("")
    assert stacks_at(StatePlace("file", str(tmp_path))) == ("a", "b")


@pytest.mark.usefixtures("credentials")
def test_what_a_store_does_not_know_is_no_place_either() -> None:
    place = StatePlace("s3", "b", {"colour": "red"})
    with pytest.raises(UsageError, match=r"^`s3://b` is no place for a") as caught:
        store_at(place, "demo", stack_file=Path("demo.yaml"))
    assert "colour" in caught.value.message


def test_the_stacks_of_a_bucket_are_listed(s3: tuple[Proxy, str]) -> None:
    folder = f"listed-{os.getpid()}"
    bucket = bucket_at(s3[1], folder)
    for name in ("b.state.json", "a.state.json", "a.lock.json", "history/c/1.json"):
        bucket.put(name, b"", None)
    options = {"endpoint": s3[1], "region": REGION}
    assert stacks_at(StatePlace("s3", f"states/{folder}", options)) == ("a", "b")


def test_without_its_extra_a_bucket_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "deployer.state.objects")
    monkeypatch.setitem(sys.modules, "obstore.exceptions", None)
    with pytest.raises(UsageError) as caught:
        stacks_at(StatePlace("s3", "b"))
    assert caught.value.message == "a state at `s3://` needs `obstore.exceptions`"
    assert caught.value.hint == "install it: `pip install 'gguf-deployer[remote]'`"


@pytest.mark.usefixtures("credentials")
@pytest.mark.parametrize("url", ["s3://b/f", "gs://b/f", "az://account/container/f"])
def test_each_kind_of_bucket_is_opened_without_a_request(url: str) -> None:
    region = {"region": "us-east-1"} if url.startswith("s3") else {}
    store = store_at(
        replace(place_at(url), options=region), "demo", stack_file=Path("demo.yaml")
    )
    assert store.place == f"{url}/demo.state.json"


def test_a_container_of_azure_is_asked_for_in_its_account(
    s3: tuple[Proxy, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server knows no Azure: what it is asked for is what this looks at."""
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "a2V5LW9mLXRoZS10ZXN0cw==")
    place = place_at(f"az://account/container/f?endpoint={s3[1]}")
    store = store_at(place, "demo", stack_file=Path("demo.yaml"))
    assert store.holder() is None
    assert s3[0].seen == ["GET /container/f/demo.lock.json"]
