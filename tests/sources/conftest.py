"""A web site and a folder of wheels, both real, both of this test's making."""

import hashlib
import io
import os
import re
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import stamina


@dataclass
class Page:
    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    ranges: bool = True
    cuts: list[int] = field(default_factory=list)
    """Bytes after which the first, second … connection is dropped."""
    failures: list[int] = field(default_factory=list)
    """Statuses of the first answers."""


@dataclass
class Request:
    method: str
    path: str
    headers: Mapping[str, str]
    sent: int = 0
    """Bytes of the body of the answer."""


class Site(ThreadingHTTPServer):
    """Serves pages on the loopback interface, and remembers who asked what."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.pages: dict[str, Page] = {}
        self.requests: list[Request] = []
        self.connections = 0
        self.refusal: Callable[[Request], Page | None] = lambda _: None
        """What is answered in place of a page, and to whom."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is what some tests are about."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def serve(self, path: str, body: bytes, **options: Any) -> Page:
        """Serve ``body``, with the fields of `Page` as options."""
        page = Page(body, **options)
        self.pages[path] = page
        return page

    def asked(self, method: str, path: str) -> list[Request]:
        return [r for r in self.requests if (r.method, r.path) == (method, path)]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Site

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, *, body: bool) -> None:
        path = urlsplit(self.path).path
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, path, headers)
        self.server.requests.append(request)
        page = self.server.refusal(request) or self.server.pages.get(
            path, Page(b"nothing here", status=404)
        )
        status = page.failures.pop(0) if page.failures else page.status
        content, extra = page.body, dict(page.headers)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", headers.get("range", ""))
        if status == 200 and page.ranges and asked and self._same(page, headers):
            start = int(asked[1])
            if start >= len(content):
                status = 416
                extra["Content-Range"] = f"bytes */{len(content)}"
                content = b""
            else:
                status = 206
                last = min(int(asked[2] or len(content)), len(content) - 1)
                extra["Content-Range"] = f"bytes {start}-{last}/{len(content)}"
                content = content[start : last + 1]
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **extra}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            cut = page.cuts.pop(0) if page.cuts else None
            self.wfile.write(content[:cut])
            request.sent = len(content[:cut])
            if cut is not None:
                self.close_connection = True

    @staticmethod
    def _same(page: Page, headers: Mapping[str, str]) -> bool:
        return headers.get("if-range") in (None, page.headers.get("ETag"))


@contextmanager
def sites() -> Iterator[Callable[[], Site]]:
    """Start sites on demand; all end with the block."""
    started: list[tuple[Site, threading.Thread]] = []

    def make() -> Site:
        site = Site()
        thread = threading.Thread(target=site.serve_forever, args=(0.01,))
        thread.start()
        started.append((site, thread))
        return site

    try:
        yield make
    finally:
        for site, thread in started:
            site.shutdown()
            thread.join()
            site.server_close()


@pytest.fixture
def make_site() -> Iterator[Callable[[], Site]]:
    with sites() as make:
        yield make


@pytest.fixture
def site(make_site: Callable[[], Site]) -> Site:
    return make_site()


@pytest.fixture(autouse=True)
def _retries_do_not_wait() -> Iterator[None]:
    with stamina.set_testing(True, attempts=5):
        yield


@dataclass
class Wheels:
    """A folder of wheels that pip takes for its index."""

    folder: Path
    environment: dict[str, str]

    def add(
        self,
        name: str,
        version: str = "1.0",
        *,
        files: Mapping[str, bytes] | None = None,
        needs: tuple[str, ...] = (),
        tag: str = "py3-none-any",
        members: tuple[tuple[zipfile.ZipInfo, bytes], ...] = (),
    ) -> Path:
        module = name.replace("-", "_")
        info = f"{module}-{version}.dist-info"
        requires = "".join(f"Requires-Dist: {need}\n" for need in needs)
        contents = {
            **(files or {}),
            f"{info}/METADATA": (
                f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}"
            ).encode(),
            f"{info}/WHEEL": f"Wheel-Version: 1.0\nTag: {tag}\n".encode(),
        }
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for path, content in contents.items():
                member = zipfile.ZipInfo(path)
                mode = 0o755 if "/bin/" in path else 0o644
                member.external_attr = (0o100000 | mode) << 16
                archive.writestr(member, content)
            for member, content in members:
                archive.writestr(member, content)
            archive.writestr(f"{info}/RECORD", "")
        wheel = self.folder / f"{module}-{version}-{tag}.whl"
        wheel.write_bytes(buffer.getvalue())
        return wheel


def _without_pip_settings() -> dict[str, str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PIP_")}
    return {**clean, "PIP_CONFIG_FILE": os.devnull, "PIP_RETRIES": "0"}


@pytest.fixture
def wheels(tmp_path: Path) -> Wheels:
    folder = tmp_path / "wheels"
    folder.mkdir()
    environment = _without_pip_settings()
    environment |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder)}
    return Wheels(folder, environment)


@pytest.fixture
def index(site: Site, wheels: Wheels) -> Callable[..., dict[str, str]]:
    """Serve the folder of wheels as an index; returns the environment that uses it."""

    def serve(*names: str) -> dict[str, str]:
        for name in names:
            links = []
            for wheel in sorted(wheels.folder.glob(f"{name.replace('-', '_')}-*")):
                body = wheel.read_bytes()
                digest = hashlib.sha256(body).hexdigest()
                site.pages[f"/files/{wheel.name}"] = Page(body)
                links.append(f'<a href="/files/{wheel.name}#sha256={digest}">.</a>')
            page = f"<!doctype html><html><body>{''.join(links)}</body></html>"
            site.pages[f"/simple/{name}/"] = Page(
                page.encode(), headers={"Content-Type": "text/html"}
            )
        return {**_without_pip_settings(), "PIP_INDEX_URL": f"{site.url}/simple"}

    return serve
