"""The digest of an image, asked of a registry by its own protocol (OCI, API v2)."""

import hashlib
import json
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

from deployer.planning.facts import UPSTREAM, Pin, flaw_of, pinned_images
from deployer.planning.graph import expand
from deployer.planning.resources import LOCK, Graph
from deployer.stack.fields.values import JsonValue
from deployer.testing import facts as facts_of
from deployer.testing import stack as stack_of
from deployer.usecases.reading.pins import image_notes, with_images
from deployer.usecases.reading.resolve import pinned_image
from tests.planning.checking import DROPS, MODAL, but

CUDA = "nvidia/cuda:12.8.1-runtime-ubuntu24.04"
DEVEL = "nvidia/cuda:12.8.1-devel-ubuntu24.04"
MANIFEST = json.dumps({"schemaVersion": 2, "manifests": []}).encode()
DIGEST = f"sha256:{hashlib.sha256(MANIFEST).hexdigest()}"
TOKEN = "given-to-anybody"


@dataclass
class Registry:
    """A registry on this machine, which wants a token as Docker Hub does."""

    url: str
    asked: list[str] = field(default_factory=list)
    logins: list[str] = field(default_factory=list)
    """With which tokens were asked for."""
    known: tuple[str, ...] = ("nvidia/cuda", "library/ubuntu")
    digest: str = DIGEST
    anonymous: bool = False
    realm: str = ""
    login: str = ""
    """What it wants beside the token, or with `way` instead of it."""
    way: str = "Bearer"
    given: bytes = json.dumps({"token": TOKEN}).encode()

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc


@contextmanager
def registry() -> Iterator[Registry]:
    made = Registry("")

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            made.asked.append(f"HEAD {self.path}")
            _, _, rest = self.path.partition("/v2/")
            name, _, _tag = rest.partition("/manifests/")
            wanted = made.login if made.way == "Basic" else f"Bearer {TOKEN}"
            granted = self.headers.get("Authorization") == wanted
            if not (granted or made.anonymous):
                realm = made.realm or f"{made.url}/token"
                scope = f'scope="repository:{name}:pull"'
                what = f'{made.way} realm="{realm}",service="registry",{scope}'
                self._answer(401, {"WWW-Authenticate": what})
            elif (
                name not in made.known or "index.v1+json" not in self.headers["Accept"]
            ):
                self._answer(404, {})
            else:
                self._answer(200, {"Docker-Content-Digest": made.digest})

        def do_GET(self) -> None:
            made.asked.append(f"GET {self.path}")
            query = parse_qs(urlsplit(self.path).query)
            assert query["service"] == ["registry"]
            assert query["scope"][0].endswith(":pull")
            made.logins.append(self.headers.get("Authorization", ""))
            if made.login not in ("", made.logins[-1]):
                self._answer(401, {}, b"{}")
                return
            self._answer(200, {}, made.given)

        def _answer(
            self, status: int, headers: dict[str, str], body: bytes = b""
        ) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        made.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield made
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def hub() -> Iterator[Registry]:
    with registry() as made:
        yield made


@pytest.mark.parametrize(
    ("image", "path"),
    [
        (CUDA, "nvidia/cuda/manifests/12.8.1-runtime-ubuntu24.04"),
        ("ubuntu:24.04", "library/ubuntu/manifests/24.04"),
        ("ubuntu", "library/ubuntu/manifests/latest"),
    ],
)
def test_an_image_of_the_hub_is_pinned(hub: Registry, image: str, path: str) -> None:
    found = pinned_image(image, {"DEPLOYER_REGISTRY": hub.url})
    assert found == f"{image}@{DIGEST}"
    assert [it.partition("?")[0] for it in hub.asked] == [
        f"HEAD /v2/{path}",
        "GET /token",
        f"HEAD /v2/{path}",
    ]


def test_an_image_names_its_own_registry(hub: Registry) -> None:
    hub.anonymous = True
    image = f"{hub.host}/nvidia/cuda:12"
    assert pinned_image(image, {"DEPLOYER_REGISTRY": "off"}) == f"{image}@{DIGEST}"


@pytest.mark.parametrize("way", ["Bearer", "Basic"])
def test_a_private_image_is_pinned_with_the_login_of_its_registry(
    hub: Registry, way: str
) -> None:
    hub.login, hub.way = f"Basic {b64encode(b'me:secret').decode()}", way
    image = f"{hub.host}/nvidia/cuda:12"
    login = {"REGISTRY_USERNAME": "me", "REGISTRY_PASSWORD": "secret"}
    assert pinned_image(image, login) is None, "no host is named that gets it"
    elsewhere = {**login, "REGISTRY_HOST": "ghcr.io"}
    assert pinned_image(image, elsewhere) is None, "a stack may name any host"
    assert not any(hub.logins)
    login["REGISTRY_HOST"] = hub.host
    assert pinned_image(image, {}) is None
    assert pinned_image(image, {**login, "REGISTRY_PASSWORD": "other"}) is None
    assert pinned_image(image, login) == f"{image}@{DIGEST}"


def test_no_login_is_sent_to_a_hub_that_the_image_does_not_name(hub: Registry) -> None:
    login = {"REGISTRY_USERNAME": "me", "REGISTRY_PASSWORD": "secret"}
    assert pinned_image(CUDA, {**login, "DEPLOYER_REGISTRY": hub.url})
    assert hub.logins == [""]


def test_what_cannot_be_asked_is_not_pinned(hub: Registry) -> None:
    asked = {"DEPLOYER_REGISTRY": hub.url}
    assert pinned_image("nvidia/other:1", asked) is None
    hub.digest = "sha256:short"
    assert pinned_image(CUDA, asked) is None
    hub.digest, hub.way = DIGEST, "Negotiate"
    assert pinned_image(CUDA, asked) is None
    hub.way = "Bearer"
    for given in (b"[]", b"{}", b'"x"', b"no JSON"):
        hub.given = given
        assert pinned_image(CUDA, asked) is None, given
    hub.realm = "http://registry.example/token"
    assert pinned_image(CUDA, asked) is None, "a token is asked for over https alone"
    hub.asked.clear()
    assert pinned_image(CUDA, {"DEPLOYER_REGISTRY": "off"}) is None
    assert pinned_image(f"{CUDA}@{DIGEST}", {}) == f"{CUDA}@{DIGEST}"
    assert hub.asked == []
    assert pinned_image(CUDA, {"DEPLOYER_REGISTRY": "http://127.0.0.1:9"}) is None


def test_a_lock_file_pins_images_and_asks_once(hub: Registry) -> None:
    environment = {"DEPLOYER_REGISTRY": hub.url}
    stack = stack_of(MODAL)
    bare = facts_of()
    assert with_images(stack, bare, environment, asks=False) is bare
    assert [*image_notes(stack, bare)] == [
        f"not pinned: image `{DEVEL}`, `{CUDA}`; `deployer lock` asks the registry"
    ]
    pinned = with_images(stack, bare, environment, asks=True)
    images = {"build": f"{DEVEL}@{DIGEST}", "server": f"{CUDA}@{DIGEST}"}
    assert pinned_images(pinned.build) == images
    assert [*image_notes(stack, pinned)] == []
    hub.asked.clear()
    assert with_images(stack, pinned, environment, asks=True) is pinned
    assert hub.asked == []
    other = stack_of(but(MODAL, '"12.8.1"', '"12.9.1"'))
    moved = with_images(other, pinned, environment, asks=False)
    assert "12.9.1" in pinned_images(moved.build)["server"]
    gone = with_images(other, pinned, {"DEPLOYER_REGISTRY": "off"}, asks=False)
    assert pinned_images(gone.build) == {}, "never the image of another toolkit"


def test_another_digest_is_another_server_and_says_so() -> None:
    plain, one, two = (_graph(images) for images in ({}, _images("a"), _images("b")))
    assert len({it["demo/server"].key for it in (plain, one, two)}) == 3
    assert one["demo/build"].key == plain["demo/build"].key
    server = one["demo/server"]
    assert server.fields[f"{LOCK}image"] == f"sha256:{'a' * 64}"
    assert server.spec["image"] == f"{CUDA}@sha256:{'a' * 64}"


def _images(letter: str) -> dict[str, JsonValue]:
    digest = f"sha256:{letter * 64}"
    return {"build": f"{DEVEL}@{digest}", "server": f"{CUDA}@{digest}"}


def _graph(images: dict[str, JsonValue]) -> Graph:
    bare = facts_of()
    about = {**bare.build.about, **({"images": images} if images else {})}
    pinned = replace(bare, build=replace(bare.build, about=about))
    return expand(stack_of(MODAL), pinned, DROPS)


@pytest.mark.parametrize(
    "images",
    [{}, {"server": CUDA}, {"server": f"{CUDA}@sha256:no"}, {"server": 1}, "x"],
)
def test_a_lock_file_with_an_image_of_no_form_is_damaged(images: JsonValue) -> None:
    identity, where = {"commit": "c" * 40}, {"repo": UPSTREAM, "tag": "b9763"}
    pin = Pin("source-git", identity, where, {"images": images})
    assert "`about.images`" in flaw_of("build", pin)
    sound = replace(pin, about={"images": _images("a")})
    assert flaw_of("build", sound) == ""
