"""Downloads: whole, verified, resumed, or not there at all."""

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from deployer.artefacts.sources import transfer
from deployer.artefacts.sources.files import DigestCache
from deployer.artefacts.sources.transfer import refuse_way, shown
from deployer.errors import AuthError, SourceError, StoreError
from deployer.planning.progress import Progress, unwatched

MIB = 1024 * 1024
BODY = b"GGUF" + os.urandom(3 * MIB)
SHA = hashlib.sha256(BODY).hexdigest()
ETAG = {"ETag": '"v1"'}


@pytest.fixture
def page(site: Any) -> Any:
    return site.serve("/m.gguf", BODY, headers=dict(ETAG))


def load(
    site: Any,
    into: Path,
    *,
    sha256: str | None = SHA,
    size: int | None = None,
    path: str = "/m.gguf",
) -> str:
    return transfer.download(
        site.url + path, into / "m.gguf", sha256=sha256, size=size, progress=unwatched
    )


def known(folder: Path) -> DigestCache:
    return DigestCache(folder / "digests.json")


@pytest.mark.usefixtures("page")
def test_a_download_is_the_file_and_its_digest(site: Any, tmp_path: Path) -> None:
    assert load(site, tmp_path) == SHA
    assert (tmp_path / "m.gguf").read_bytes() == BODY
    assert [p.name for p in tmp_path.iterdir()] == ["m.gguf"]


@pytest.mark.usefixtures("page")
def test_progress_ends_at_the_total(site: Any, tmp_path: Path) -> None:
    seen: list[Progress] = []
    transfer.download(
        f"{site.url}/m.gguf",
        tmp_path / "m.gguf",
        sha256=SHA,
        size=None,
        progress=seen.append,
    )
    assert seen[-1] == Progress("m.gguf", len(BODY), len(BODY))
    assert [p.done for p in seen] == sorted(p.done for p in seen)


def test_a_dying_server_is_resumed_where_it_died(
    site: Any, page: Any, tmp_path: Path
) -> None:
    page.cuts = [MIB + 5, MIB + 7]
    assert load(site, tmp_path) == SHA
    ranges = [r.headers.get("range") for r in site.asked("GET", "/m.gguf")]
    assert ranges == [None, f"bytes={MIB + 5}-", f"bytes={2 * MIB + 12}-"]


def test_what_an_earlier_run_left_is_not_asked_for_again(
    site: Any, page: Any, tmp_path: Path
) -> None:
    page.cuts = [MIB] + [0] * 9
    with pytest.raises(SourceError, match="closed the connection"):
        load(site, tmp_path)
    page.cuts = []
    site.requests.clear()
    assert load(site, tmp_path) == SHA
    assert [r.headers["range"] for r in site.requests] == [f"bytes={MIB}-"]


def test_leftovers_of_another_file_cost_a_second_download(
    site: Any, page: Any, tmp_path: Path
) -> None:
    (tmp_path / "m.gguf.part").write_bytes(b"GGUF of yesterday")
    assert load(site, tmp_path) == SHA
    assert len(site.asked("GET", "/m.gguf")) == 2
    assert page.body == (tmp_path / "m.gguf").read_bytes()


@pytest.mark.usefixtures("page")
def test_a_complete_leftover_needs_no_bytes(site: Any, tmp_path: Path) -> None:
    (tmp_path / "m.gguf.part").write_bytes(BODY)
    assert load(site, tmp_path) == SHA
    assert [r.headers["range"] for r in site.requests] == [f"bytes={len(BODY)}-"]


@pytest.mark.usefixtures("page")
def test_leftovers_of_an_unknown_file_are_not_trusted(
    site: Any, tmp_path: Path
) -> None:
    (tmp_path / "m.gguf.part").write_bytes(BODY[:MIB])
    assert load(site, tmp_path, sha256=None) == SHA
    assert [r.headers.get("range") for r in site.requests] == [None]


def test_a_file_that_changes_in_between_is_begun_anew(
    site: Any, page: Any, tmp_path: Path
) -> None:
    """Without a digest only the validator of the server can tell."""
    newer = b"GGUF" + bytes(2 * MIB)

    def change(progress: Progress) -> None:
        if page.body is BODY and progress.done >= MIB:
            site.serve("/m.gguf", newer, headers={"ETag": '"v2"'})

    page.cuts = [2 * MIB]
    found = transfer.download(
        f"{site.url}/m.gguf",
        tmp_path / "m.gguf",
        sha256=None,
        size=None,
        progress=change,
    )
    assert found == hashlib.sha256(newer).hexdigest()


def test_a_server_without_ranges_starts_over(
    site: Any, page: Any, tmp_path: Path
) -> None:
    page.ranges = False
    page.cuts = [MIB + 1]
    assert load(site, tmp_path) == SHA


def test_a_busy_server_is_asked_again(site: Any, page: Any, tmp_path: Path) -> None:
    page.failures = [503, 429, 500]
    assert load(site, tmp_path) == SHA


def test_patience_ends(site: Any, page: Any, tmp_path: Path) -> None:
    page.failures = [503] * 20
    with pytest.raises(SourceError, match="the server answered 503") as caught:
        load(site, tmp_path)
    assert caught.value.hint == (
        "run the same command again: it carries on where it stopped"
    )
    assert len(site.requests) == 5


def test_an_ending_without_a_length_is_noticed(
    site: Any, page: Any, tmp_path: Path
) -> None:
    """A connection that just closes looks like the end of a file without length."""
    page.headers |= {"Content-Length": "", "Connection": "close"}
    page.body = BODY[: 2 * MIB]
    with pytest.raises(SourceError):
        load(site, tmp_path, size=len(BODY))
    assert not (tmp_path / "m.gguf").exists()


@pytest.mark.usefixtures("page")
def test_another_digest_is_refused_and_nothing_stays(site: Any, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=f"sha256 is {SHA}, expected {'0' * 64}"):
        load(site, tmp_path, sha256="0" * 64)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("page")
def test_another_size_than_pinned_is_refused(site: Any, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"has \d+ bytes, pinned were 7") as caught:
        load(site, tmp_path, size=7)
    assert "lock again" in caught.value.hint


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"<!DOCTYPE html><p>log in", {}),
        (b"  <html>", {}),
        (b"anything", {"Content-Type": "text/html; charset=utf-8"}),
    ],
)
def test_a_web_page_is_refused(
    site: Any, tmp_path: Path, body: bytes, headers: dict[str, str]
) -> None:
    site.serve("/m.gguf", body, headers=headers)
    with pytest.raises(SourceError, match="is a web page, not a model file"):
        load(site, tmp_path, sha256=None)
    assert not (tmp_path / "m.gguf").exists()


def test_what_calls_itself_gguf_must_be_one(site: Any, tmp_path: Path) -> None:
    site.serve("/m.gguf", b"PK\x03\x04 a zip archive")
    with pytest.raises(SourceError, match="is not a GGUF file"):
        load(site, tmp_path, sha256=None)


def test_a_compressed_answer_is_refused(site: Any, page: Any, tmp_path: Path) -> None:
    page.headers["Content-Encoding"] = "gzip"
    with pytest.raises(SourceError, match="is sent compressed"):
        load(site, tmp_path, sha256=None)


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [
        (404, SourceError, r"cannot be downloaded \(HTTP 404\)"),
        (401, AuthError, r"needs a login \(HTTP 401\)"),
        (403, AuthError, r"needs a login \(HTTP 403\)"),
    ],
)
def test_a_refusal_is_final(
    site: Any, tmp_path: Path, status: int, error: type[Exception], words: str
) -> None:
    site.serve("/m.gguf", b"", status=status)
    with pytest.raises(error, match=words):
        load(site, tmp_path)
    assert len(site.requests) == 1


def test_nobody_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="could not be downloaded") as caught:
        transfer.download(
            "http://127.0.0.1:9/m.gguf",
            tmp_path / "m.gguf",
            sha256=None,
            size=None,
            progress=unwatched,
        )
    assert caught.value.hint


def test_a_full_disk_says_what_is_free(site: Any, page: Any, tmp_path: Path) -> None:
    """``/dev/full`` answers every write as a full disk does."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    (tmp_path / "m.gguf.part").symlink_to("/dev/full")
    with pytest.raises(StoreError, match=r"no room for m\.gguf .* needs 3\.1 MB, and"):
        load(site, tmp_path, size=len(page.body))


def test_a_file_larger_than_the_disk_is_not_begun(
    site: Any, page: Any, tmp_path: Path
) -> None:
    page.headers["Content-Length"] = str(10**18)
    with pytest.raises(StoreError, match=r"needs 1000000\.0 TB, and .* is free"):
        load(site, tmp_path)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://example.org/m.gguf", "is not an https address"),
        ("ftp://example.org/m.gguf", "is not an https address"),
        ("https:///m.gguf", "is not an https address"),
        ("https://me:secret@example.org/m.gguf", "carries a user name or password"),
    ],
)
def test_unsafe_addresses_are_refused(tmp_path: Path, url: str, words: str) -> None:
    with pytest.raises(SourceError, match=words) as caught:
        transfer.pin(
            url,
            sha256=None,
            downloads=tmp_path,
            cache=known(tmp_path),
            progress=unwatched,
        )
    assert "secret" not in str(caught.value)


def test_a_redirect_to_plain_http_is_refused(site: Any, tmp_path: Path) -> None:
    site.serve(
        "/m.gguf", b"", status=302, headers={"Location": "http://192.0.2.1/m.gguf"}
    )
    with pytest.raises(SourceError, match="is not an https address"):
        load(site, tmp_path)


@pytest.mark.parametrize(
    ("asked", "led_to"),
    [
        ("https://example.org/m", "http://127.0.0.1:8080/m"),
        ("https://example.org/m", "http://example.org/m"),
        ("https://example.org/m", "https://127.0.0.1/m"),
        ("https://example.org/m", "https://localhost./m"),
        ("https://example.org/m", "https://x.localhost/m"),
        ("https://example.org/m", "https://[::1]/m"),
        ("https://example.org/m", "https://[::ffff:127.0.0.1]/m"),
        ("https://example.org/m", "https://0.0.0.0/m"),
        ("https://example.org/m", "https://2130706433/m"),
        ("https://example.org/m", "https://0x7f.1/m"),
        ("https://example.org/m", "https://169.254.169.254/latest/meta-data"),
        ("https://example.org/m", "https://10.0.0.1/m"),
        ("https://10.0.0.1/m", "https://127.0.0.1/m"),
        ("https://example.org/m", "file:///etc/passwd"),
        ("https://example.org/m", "https://me:secret@example.org/m"),
        ("https://example.org/m", "https://[oops/m"),
    ],
)
def test_no_redirect_leads_nearer_or_off_https(asked: str, led_to: str) -> None:
    with pytest.raises(SourceError) as caught:
        refuse_way(asked, led_to)
    assert "secret" not in caught.value.message


@pytest.mark.parametrize(
    ("asked", "led_to"),
    [
        ("https://example.org/m", "https://cdn.example.net/m"),
        ("https://10.0.0.1/m", "https://10.0.0.2/m"),
        ("http://127.0.0.1:1/m", "http://127.0.0.1:2/m"),
        ("http://127.0.0.1:1/m", "https://example.org/m"),
    ],
)
def test_other_redirects_are_followed(asked: str, led_to: str) -> None:
    refuse_way(asked, led_to)


@pytest.mark.parametrize("url", ["https://[oops/m.gguf", "https://h:99999999/m.gguf"])
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(SourceError, match="is not an address"):
        transfer.size_of(url)


@pytest.mark.usefixtures("page")
def test_a_redirect_on_this_machine_is_followed(site: Any, tmp_path: Path) -> None:
    site.serve("/old.gguf", b"", status=302, headers={"Location": "/m.gguf"})
    assert load(site, tmp_path, path="/old.gguf") == SHA


def test_queries_are_not_shown() -> None:
    url = "https://example.org:8443/a/m.gguf?signature=secret"
    assert shown(url) == "https://example.org:8443/a/m.gguf"


@pytest.mark.usefixtures("page")
def test_a_pin_without_digest_downloads_once(site: Any, tmp_path: Path) -> None:
    downloads, into = tmp_path / "downloads", tmp_path / "into"
    into.mkdir()
    pin = transfer.pin(
        f"{site.url}/m.gguf",
        sha256=None,
        downloads=downloads,
        cache=known(tmp_path),
        progress=unwatched,
    )
    transfer.fetch(
        pin, into, downloads=downloads, cache=known(tmp_path), progress=unwatched
    )
    assert pin.identity == {"model": [SHA]}
    assert pin.about == {"model": ["m.gguf"], "size": len(BODY)}
    assert (into / "m.gguf").read_bytes() == BODY
    assert len(site.asked("GET", "/m.gguf")) == 1
    assert list(downloads.iterdir()) == []


@pytest.mark.usefixtures("page")
def test_a_pin_with_digest_downloads_nothing(site: Any, tmp_path: Path) -> None:
    pin = transfer.pin(
        f"{site.url}/m.gguf",
        sha256=SHA,
        downloads=tmp_path,
        cache=known(tmp_path),
        progress=unwatched,
    )
    assert pin.about["size"] == len(BODY)
    assert [r.method for r in site.requests] == ["HEAD"]


@pytest.mark.usefixtures("page")
def test_a_damaged_arrival_is_downloaded_again(site: Any, tmp_path: Path) -> None:
    url = f"{site.url}/m.gguf"
    pin = transfer.pin(
        url, sha256=SHA, downloads=tmp_path, cache=known(tmp_path), progress=unwatched
    )
    (tmp_path / SHA).write_bytes(b"GGUF, but not all of it")
    into = tmp_path / "into"
    into.mkdir()
    transfer.fetch(
        pin, into, downloads=tmp_path, cache=known(tmp_path), progress=unwatched
    )
    assert (into / "m.gguf").read_bytes() == BODY
