"""Builds and weights on the Volume: made by functions of the builder app."""

import threading
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Final

from deployer.engines.contract import Left
from deployer.engines.modal import apps
from deployer.engines.modal.billing import Meter, plain_rate
from deployer.engines.modal.drive import Account
from deployer.engines.modal.lower import lower_builder, outputs_of
from deployer.engines.modal.release_files import FOLDER as RELEASES
from deployer.engines.modal.release_files import on_disk
from deployer.engines.modal.render import BUILDER_FILE, render_builder, runtime_files
from deployer.engines.modal.rendering import patches_of
from deployer.engines.modal.rollout import TRIED
from deployer.engines.modal.wait import Log, Wait, result_of
from deployer.engines.place import Place
from deployer.errors import EngineError
from deployer.planning.events import Say, Talk
from deployer.planning.resources import Kind, Node, digest
from deployer.stack.fields.values import Flat

_QUEUE_SECONDS: Final = 600
"""How long a container may be waited for, beside what the function may take."""


class Artefacts:
    """Makes artefacts, and finds them again."""

    def __init__(self, place: Place, meter: Meter) -> None:
        self._place = place
        self._meter = meter
        self._deploying = threading.Lock()
        self._deployed = ""
        """What of the builder was deployed by this run."""
        self._wanted: dict[str, Node] = {}
        """By role."""
        self._making: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        """By key: two roles may have the same weights."""

    def expect(self, nodes: Sequence[Node]) -> None:
        """Take notice of all that is going to be made: it is one app on Modal."""
        for node in nodes:
            if node.kind in (Kind.BUILD, Kind.WEIGHTS):
                self._wanted[node.role] = node

    def make(self, node: Node, account: Account, say: Say) -> Flat:
        """The outputs of a build or of weights, made where they are not there yet."""
        with self._making[node.key]:
            return self._made(node, account, say)

    def _made(self, node: Node, account: Account, say: Say) -> Flat:
        if is_there(node, account):
            say(Talk(node.address, f"is on Volume `{apps.VOLUME}` already"))
            return outputs_of(node)
        builder = self._deploy(node, account, say)
        parts = [it for it in (builder.build, *builder.fetches) if it is not None]
        what = next(it for it in parts if it.key == node.key)
        name = what.function
        say(Talk(node.address, _what(what)))
        log = Log(account, builder.app)
        limit = what.timeout + _QUEUE_SECONDS
        wait = Wait(node.address, f"{name} on Modal", limit)
        with self._meter.running(name, plain_rate(what.cores, what.memory)):
            about = result_of(account.call(builder.app, name), log, say, wait)
        version = about.get("version") if isinstance(about, Mapping) else None
        return {
            **outputs_of(node),
            "version": None if version is None else str(version),
        }

    def _deploy(self, node: Node, account: Account, say: Say) -> apps.Builder:
        """Deploy the builder where it is another one than before."""
        with self._deploying:
            self._wanted[node.role] = node
            build = self._wanted.get(Kind.BUILD)
            weights = [it for it in self._wanted.values() if it.kind is Kind.WEIGHTS]
            patches = () if build is None else patches_of(build, self._place.patches)
            builder = lower_builder(build, weights, patches)
            text = render_builder(builder)
            files = {BUILDER_FILE: text.encode(), **runtime_files()}
            tag = digest({name: content.decode() for name, content in files.items()})[
                :32
            ]
            if tag == self._deployed:
                return builder
            known = account.program.history(builder.app)
            if not known or known[0].tag != tag:
                say(Talk(node.address, f"deploys app `{builder.app}`"))
                with on_disk(files, BUILDER_FILE) as file:
                    account.deploy(file, tag)
            self._deployed = tag
            return builder


def _what(part: apps.Build | apps.Fetch) -> str:
    """Return what a function of the builder is about to do."""
    match part:
        case apps.Build():
            return f"builds {part.title}"
        case apps.Fetch():
            return f"fetches {part.repo or part.files[0].path}"


def folder_of(node_kind: Kind, key: str) -> str:
    """Where a build or weights lie on the Volume."""
    match node_kind:
        case Kind.BUILD:
            return apps.build_folder(key)
        case Kind.WEIGHTS:
            return apps.weights_folder(key)
        case _:
            raise EngineError(f"`{node_kind}` is no artefact")


def is_there(node: Node, account: Account) -> bool:
    """Return whether the Volume holds all of it: the file that says so comes last."""
    found = account.listed(apps.VOLUME, folder_of(node.kind, node.key)) or ()
    return any(Path(entry.path).name == apps.COMPLETE for entry in found)


FOLDERS: Final = ("/build", "/weights", RELEASES, TRIED, "/arriving")
"""Each holds folders that are named by a key."""


class VolumeStore:
    """The Volume of an environment, as `store gc` sees it."""

    def __init__(self, environment: Mapping[str, str], place: str | None) -> None:
        self._account = Account(environment, place)

    def unused(self, needed: Collection[str]) -> tuple[Left, ...]:
        """Return what no known state needs, and no app that is deployed was made from.

        States on other machines are not known here: what they serve is seen by the tags
        of their apps, what they retain for a rollback is made again when it is needed.
        """
        served = tuple(_served(self._account))
        found = []
        for folder in FOLDERS:
            for entry in self._account.listed(apps.VOLUME, folder) or ():
                key = PurePosixPath(entry.path).name
                live = any(key.startswith(prefix) for prefix in served)
                if key not in needed and not live:
                    size = _size(self._account, entry.path)
                    found.append(Left(f"/{entry.path}", size))
        return tuple(found)

    def remove(self, left: Sequence[Left]) -> None:
        """Remove folders from the Volume."""
        for it in left:
            self._account.remove(apps.VOLUME, it.path)


def _served(account: Account) -> Iterator[str]:
    """The beginnings of the keys that deployed apps carry as tags."""
    for name in account.program.deployed():
        found = account.app(name)
        tags = {} if found is None else found.tags
        for tag, value in tags.items():
            if tag.startswith("deployer-") and tag != "deployer-stack":
                yield value


def _size(account: Account, path: str) -> int:
    entries = account.listed(apps.VOLUME, path, deep=True) or ()
    return sum(entry.size for entry in entries if not entry.folder)
