"""Large files: in parts, over several connections, and every byte is met once."""

import hashlib
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from deployer.artefacts.sources import hub
from deployer.artefacts.sources.files import DigestCache, sha256_of
from deployer.artefacts.sources.transfer import CONNECTIONS, PART, download, fetch, pin
from deployer.artefacts.store import Store
from deployer.errors import AuthError, SourceError
from deployer.planning.facts import Pin
from deployer.planning.progress import Progress, Watch, unwatched
from tests.counting import file_bytes

MIB = 1024 * 1024
BODY = b"GGUF" + os.urandom(5 * PART // 2)
SHA = hashlib.sha256(BODY).hexdigest()
RANGES = {
    f"bytes=0-{PART - 1}",
    f"bytes={PART}-{2 * PART - 1}",
    f"bytes={2 * PART}-{len(BODY) - 1}",
}


@pytest.fixture
def page(site: Any) -> Any:
    return site.serve("/m.gguf", BODY)


def load(site: Any, into: Path, progress: Watch = unwatched, **options: Any) -> str:
    url = f"{site.url}{options.pop('path', '/m.gguf')}"
    asked = {"sha256": SHA, "size": len(BODY), **options}
    return download(url, into / "m.gguf", progress=progress, **asked)


def asked(site: Any) -> list[str | None]:
    return [request.headers.get("range") for request in site.requests]


def sent(site: Any) -> int:
    return sum(request.sent for request in site.requests)


@pytest.mark.usefixtures("page")
def test_each_part_is_asked_for_once_and_over_its_own_connection(
    site: Any, tmp_path: Path
) -> None:
    assert load(site, tmp_path) == SHA
    assert (tmp_path / "m.gguf").read_bytes() == BODY
    assert set(asked(site)) == RANGES
    assert len(site.requests) == site.connections == len(RANGES)
    assert sent(site) == len(BODY)


def test_no_more_connections_than_agreed(site: Any, tmp_path: Path) -> None:
    body = b"GGUF" + bytes((CONNECTIONS + 3) * PART)
    site.serve("/m.gguf", body)
    digest = hashlib.sha256(body).hexdigest()
    assert load(site, tmp_path, sha256=digest, size=len(body)) == digest
    assert 1 < site.connections <= CONNECTIONS
    assert sent(site) == len(body)


@pytest.mark.usefixtures("page")
def test_progress_is_that_of_the_file(site: Any, tmp_path: Path) -> None:
    seen: list[Progress] = []
    load(site, tmp_path, seen.append)
    assert [it.done for it in seen] == sorted(it.done for it in seen)
    assert seen[-1] == Progress("m.gguf", len(BODY), len(BODY))


@pytest.mark.usefixtures("page")
def test_from_the_network_to_the_store_no_byte_is_read_from_a_file(
    site: Any, tmp_path: Path
) -> None:
    store = Store(tmp_path)
    pin = Pin(
        source="url",
        identity={"model": [SHA]},
        where={"url": f"{site.url}/m.gguf"},
        about={"model": ["m.gguf"], "size": len(BODY)},
    )

    def fill(into: Path) -> dict[str, Any]:
        cache = DigestCache(store.digests)
        fetch(pin, into, downloads=store.downloads, cache=cache, progress=unwatched)
        return {}

    def publish() -> None:
        store.publish(
            "weights",
            "k",
            fill,
            now=lambda: datetime.now(tz=UTC),
            say=lambda _: None,
            proven={"m.gguf": SHA},
        )

    publish_small = file_bytes(publish)
    entry = store.find("weights", "k")
    assert entry is not None
    assert publish_small < MIB  # libraries that are imported meanwhile
    assert sent(site) == len(BODY)
    assert entry.files["m.gguf"].sha256 == sha256_of(entry.path("m.gguf"), unwatched)


@pytest.mark.usefixtures("page")
def test_a_file_that_was_hashed_when_it_was_pinned_is_not_hashed_again(
    site: Any, tmp_path: Path
) -> None:
    downloads, into = tmp_path / "downloads", tmp_path / "into"
    into.mkdir()
    cache = DigestCache(tmp_path / "digests.json")
    url = f"{site.url}/m.gguf"
    options: Any = {"downloads": downloads, "cache": cache, "progress": unwatched}

    def pin_and_fetch() -> None:
        fetch(pin(url, sha256=None, **options), into, **options)

    assert file_bytes(pin_and_fetch) < MIB
    assert sent(site) == len(BODY)


def test_a_part_that_breaks_off_is_asked_for_from_there(
    site: Any, page: Any, tmp_path: Path
) -> None:
    page.cuts = [5 * MIB]
    assert load(site, tmp_path) == SHA
    assert sent(site) < 2 * len(BODY)


def test_what_a_broken_run_leaves_is_the_beginning_of_the_file(
    site: Any, page: Any, tmp_path: Path
) -> None:
    page.cuts = [PART + 1, PART + 1, PART // 2] + [0] * 50
    with pytest.raises(SourceError, match="the server closed the connection"):
        load(site, tmp_path)
    left = (tmp_path / "m.gguf.part").read_bytes()
    assert left
    assert BODY.startswith(left)
    page.cuts = []
    site.requests.clear()
    assert load(site, tmp_path) == SHA
    assert sent(site) == len(BODY) - len(left)


def test_a_server_without_parts_is_asked_for_the_whole(
    site: Any, page: Any, tmp_path: Path
) -> None:
    page.ranges = False
    assert load(site, tmp_path) == SHA
    assert None in asked(site)


def test_a_busy_server_is_asked_again(site: Any, page: Any, tmp_path: Path) -> None:
    page.failures = [503, 429, 500]
    assert load(site, tmp_path) == SHA


def test_another_size_than_pinned_is_refused(
    site: Any, page: Any, tmp_path: Path
) -> None:
    page.body += b"more"
    with pytest.raises(SourceError, match=r"has \d+ bytes, pinned were \d+"):
        load(site, tmp_path)


def test_a_web_page_is_refused(site: Any, page: Any, tmp_path: Path) -> None:
    page.headers["Content-Type"] = "text/html"
    with pytest.raises(SourceError, match="is a web page, not a model file"):
        load(site, tmp_path)


@pytest.mark.usefixtures("page")
def test_who_watches_may_end_it(site: Any, tmp_path: Path) -> None:
    def enough(progress: Progress) -> None:
        if progress.done > PART:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load(site, tmp_path, enough)
    left = (tmp_path / "m.gguf.part").read_bytes()
    assert BODY.startswith(left)
    assert len(left) > PART


def test_an_address_that_expires_is_asked_for_anew(
    make_site: Callable[[], Any], tmp_path: Path
) -> None:
    """Hubs redirect to addresses that are signed for an hour."""
    front, back = make_site(), make_site()
    served = [200] * len(RANGES)
    back.serve("/old", BODY, status=403, failures=served, cuts=[PART // 2])
    back.serve("/new", BODY)
    page = front.serve("/m.gguf", b"", status=302)
    page.headers = {"Location": f"{back.url}/old"}

    def expire(_progress: Progress) -> None:
        while len(back.requests) < len(RANGES):
            os.sched_yield()  # each part is on its way
        page.headers = {"Location": f"{back.url}/new"}

    assert load(front, tmp_path, expire, token="secret") == SHA
    assert back.asked("GET", "/new")
    assert {r.headers.get("authorization") for r in front.requests} == {"Bearer secret"}
    assert {r.headers.get("authorization") for r in back.requests} == {None}


def test_a_refusal_is_final(site: Any, page: Any, tmp_path: Path) -> None:
    page.status = 403
    with pytest.raises(AuthError, match=r"needs a login \(HTTP 403\)"):
        load(site, tmp_path)
    assert len(site.requests) <= len(RANGES)


def test_a_hub_serves_parts_too(make_site: Callable[[], Any], tmp_path: Path) -> None:
    front, back = make_site(), make_site()
    back.serve("/blob", BODY)
    commit = "c0ffee" * 6 + "beef"
    headers = {
        "Location": f"{back.url}/blob",
        "ETag": '"0"',
        "X-Linked-Size": str(len(BODY)),
        "X-Linked-Etag": f'"{SHA}"',
        "X-Repo-Commit": commit,
    }
    front.serve(f"/o/r/resolve/{commit}/m.gguf", b"", status=302, headers=headers)
    pin = Pin(
        source="hub",
        identity={"model": [SHA]},
        where={"repo": "o/r", "revision": commit, "model": ["m.gguf"]},
        about={"model": ["m.gguf"], "size": len(BODY)},
    )
    into = tmp_path / "into"
    into.mkdir()
    hub.fetch(
        pin,
        into,
        downloads=tmp_path / "downloads",
        environment={"HF_ENDPOINT": front.url},
        progress=unwatched,
    )
    assert (into / "m.gguf").read_bytes() == BODY
    assert {r.headers.get("range") for r in back.requests} - {None} == RANGES
    assert sent(back) == len(BODY)
