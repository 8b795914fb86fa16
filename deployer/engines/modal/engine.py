"""The Modal engine: a stack becomes apps, and they are driven from outside.

Three apps a stack: ``<stack>-builder`` puts builds and weights on Volumes,
``<stack>-candidate`` is what the gates look at, ``<stack>`` serves.  A snapshot is of
one app alone, so what is promoted is not the candidate itself but the same files under
the name that clients know: with the same key, on the same image, from the same folders
of the Volumes.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import PurePosixPath
from typing import Final

from deployer.engines.contract import CONTAINERS, Endpoint, Left, Observation, Restored
from deployer.engines.modal import apps
from deployer.engines.modal.billing import Meter, plain_rate
from deployer.engines.modal.drive import (
    SYSTEM,
    Account,
    Deployed,
    refuse_missing_client,
)
from deployer.engines.modal.lower import (
    env_secrets_of,
    hub_secret_of,
    lower_builder,
    mounts_of,
    outputs_of,
    registry_secret_of,
    scaling_of,
    secrets_in,
    secrets_of,
    tags_of,
    token_of,
)
from deployer.engines.modal.render import (
    BUILDER_FILE,
    RELEASES,
    on_disk,
    patches_of,
    render_builder,
    runtime_files,
)
from deployer.engines.modal.rollout import TRIED, Rollout, app_of, is_of, moved
from deployer.engines.modal.wait import (
    RESTORED,
    Log,
    Started,
    Wait,
    any_line,
    result_of,
)
from deployer.engines.place import Place
from deployer.errors import AuthError, DeployerError, EngineError
from deployer.planning.events import Say, Talk
from deployer.planning.graph import PLACE
from deployer.planning.plan import RunningServer
from deployer.planning.resources import Kind, Node, digest
from deployer.planning.state import PLAIN, WORKSPACE, Record
from deployer.stack.fields.values import Flat, JsonValue, show_seconds
from deployer.system.children import growing

_QUEUE_SECONDS: Final = 600
"""How long a container may be waited for, beside what the function may take."""


class Artefacts:
    """Makes artefacts, and finds them again."""

    def __init__(self, place: Place, meter: Meter) -> None:
        self._place = place
        self._meter = meter
        self._deploying = threading.Lock()
        self._deployed = ""
        """The builder that this run deployed."""
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
        volume, folder = place_of(node.kind, node.key)
        names: Collection[str] = ()
        if node.kind is Kind.WEIGHTS:
            (fetch,) = lower_builder(None, [node], ()).fetches
            names = [file.name for file in fetch.files]
        if is_there(account, volume, folder, names):
            say(Talk(node.address, f"is on Volume `{volume}` already"))
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


def place_of(kind: Kind, key: str) -> tuple[str, str]:
    """Return the Volume of a build or of weights, and the folder on it."""
    match kind:
        case Kind.BUILD:
            return apps.BUILDS, apps.build_folder(key)
        case Kind.WEIGHTS:
            return apps.VOLUME, apps.weights_folder(key)
        case _:
            raise EngineError(f"`{kind}` is no artefact")


def is_there(
    account: Account, volume: str, folder: str, names: Collection[str] = ()
) -> bool:
    """Return whether a Volume holds all of it: the file that says so comes last.

    A folder is named by content: weights may be there under other ``names``.
    """
    listed = account.listed(volume, folder) or ()
    return {apps.COMPLETE, *names} <= {PurePosixPath(it.path).name for it in listed}


FOLDERS: Final = (
    (apps.BUILDS, "/build"),
    *((apps.VOLUME, it) for it in ("/weights", RELEASES, TRIED, "/arriving")),
    (apps.VOLUME, "/build"),  # where an older deployer put them
)
"""Each holds folders that are named by a key."""


class VolumeStore:
    """The Volumes of an environment, as `store gc` sees them."""

    def __init__(self, environment: Mapping[str, str], place: str | None) -> None:
        self._account = Account(environment, place)

    def unused(self, needed: Collection[str]) -> tuple[Left, ...]:
        """Return what no known state needs, and no app that is deployed was made from.

        States on other machines are not known here: what they serve is seen by the tags
        of their apps, what they retain for a rollback is made again when it is needed.
        """
        served = tuple(_served(self._account))
        found = []
        for volume, folder in FOLDERS:
            for entry in self._account.listed(volume, folder) or ():
                key = PurePosixPath(entry.path).name
                live = any(key.startswith(prefix) for prefix in served)
                if key not in needed and not live:
                    size = _size(self._account, volume, entry.path)
                    found.append(Left(f"{volume}/{entry.path}", size))
        return tuple(found)

    def remove(self, left: Sequence[Left]) -> None:
        """Remove folders from their Volumes."""
        for it in left:
            volume, _, path = it.path.partition("/")
            self._account.remove(volume, f"/{path}")


def _served(account: Account) -> Iterator[str]:
    """The beginnings of the keys that deployed apps carry as tags."""
    for name in account.program.deployed():
        found = account.app(name)
        tags = {} if found is None else found.tags
        for tag, value in tags.items():
            if tag.startswith("deployer-") and tag != "deployer-stack":
                yield value


def _size(account: Account, volume: str, path: str) -> int:
    entries = account.listed(volume, path, deep=True) or ()
    return sum(entry.size for entry in entries if not entry.folder)


_SEARCHED_LINES: Final = 200
_PAUSES: Final = (0.1, 1.0)
"""The first and the longest between two looks at a log."""


class Seeing:
    """Looks; changes nothing."""

    def __init__(self, account: Account) -> None:
        self._account = account

    def observe(self, record: Record) -> Observation:
        """Return whether the app of a record is there, with all that it needs."""
        app = app_of(record)
        found = self._account.app(app)
        if found is None:
            detail = f"app `{app}` is stopped, or was never deployed"
            return Observation(running=False, healthy=False, detail=detail, facts={})
        if not is_of(found, record) or moved(self._account, app, record):
            by = f" by {found.deployed_by}" if found.deployed_by else ""
            detail = (
                f"app `{app}` was deployed by hand: version {found.version}{by}"
                f" at {found.since}"
            )
            return Observation(running=False, healthy=False, detail=detail, facts={})
        missing = (*self._missing_folders(record), *self._missing_secret(record))
        return self._seen(record, app, found, missing)

    def logs(self, record: Record, *, lines: int, follow: bool) -> Iterator[str]:
        """The last lines of the app that serves, and those that follow."""
        app = app_of(record)
        if self._account.app(app) is None:
            raise EngineError(
                f"app `{app}` does not run, so Modal shows no log of it",
                hint="`modal app list` has its id; `modal app logs ID` its last words",
            )
        return self._lines(app, lines, follow=follow)

    def _lines(self, app: str, lines: int, *, follow: bool) -> Iterator[str]:
        if not follow:
            last = self._account.log(app).last(lines) if lines else ()
            yield from (line.text for line in last)
            return
        log = Log(self._account, app)
        yield from (line.text for line in log.before(lines))
        pauses, heard = growing(*_PAUSES), time.monotonic()
        while True:
            if arrived := log.arrived(any_line):
                yield from (line.text for line in arrived)
                pauses = growing(*_PAUSES)
            if log.failure is None:
                heard = time.monotonic()
            elif time.monotonic() - heard > self._account.log_seconds:
                raise log.failure
            threading.Event().wait(next(pauses))

    def _seen(
        self, record: Record, app: str, found: Deployed, missing: tuple[str, ...]
    ) -> Observation:
        containers = self._account.containers(app)
        what = "scaled to zero" if not containers else _plural(containers, "container")
        facts: dict[str, JsonValue] = {
            "app": app,
            "version": found.version,
            "containers": containers,
            "deployed_at": found.since,
        }
        words = [f"app `{app}` version {found.version}", what]
        match record.outputs.get("gpu"):
            case [*gpus] if gpus:
                facts["gpu"] = gpus
                words.append(f"on {' or '.join(str(gpu) for gpu in gpus)}")
        if (restored := self._last_restore(app)) is not None:
            facts["last_restore"] = restored
            words.append(f"last restored {restored}")
        words += missing
        return Observation(
            running=True, healthy=not missing, detail=", ".join(words), facts=facts
        )

    def _last_restore(self, app: str) -> str | None:
        """When the last container came from a snapshot, as far as the log reaches."""
        with suppress(DeployerError):  # a log that ends leaves it unknown
            for line in reversed(self._account.log(app).last(_SEARCHED_LINES)):
                if line.source == SYSTEM and line.text == RESTORED:
                    return line.at.isoformat(timespec="seconds")
        return None

    def _missing_folders(self, record: Record) -> Iterator[str]:
        for role, key in record.needs.items():
            if role == Kind.SNAPSHOT:
                continue
            kind = Kind.BUILD if role == Kind.BUILD else Kind.WEIGHTS
            volume, path = place_of(kind, key)
            if not is_there(self._account, volume, path):
                yield f"`{path}` is gone from Volume `{volume}`"

    def _missing_secret(self, record: Record) -> Iterator[str]:
        given = env_secrets_of(record.spec).values()
        for secret in (*secrets_in(record.outputs), *given):
            try:
                self._account.require_secret(secret.name, secret.variable)
            except AuthError as error:
                yield error.message


def _plural(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


class ModalEngine:
    """Builds and weights on Volumes, servers as deployed apps."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._meter = Meter()
        self._artefacts = Artefacts(place, self._meter)
        self._accounts: dict[str | None, Account] = {}

    def preflight(
        self, nodes: Sequence[Node], live: Collection[Record] = (), workspace: str = ""
    ) -> None:
        """See `Engine.preflight`: nothing is billed before this has passed."""
        refuse_missing_client()
        self._artefacts.expect(nodes)
        for record in live:
            self._there(record)
        checked: set[Account] = set()
        for node in nodes:
            account = self._account(node)
            if account not in checked:
                account.check()
                account.refuse_other(workspace, "--workspace")
                checked.add(account)
            stated = str(node.fields.get("modal.workspace") or "")
            account.refuse_other(stated, "modal.workspace")
            self._place.keys.halves(token_of(node))
            secrets = secrets_of(node.fields)
            for secret in secrets:
                account.require_secret(secret.name, secret.variable)
            names = [it.variable for it in secrets]
            if names and not any(map(self._place.keys.get, names)):
                self._place.keys.need(names[0], "API key, which gates send")
            for secret in env_secrets_of(node.spec).values():
                account.require_secret(secret.name, secret.variable)
            if (hub := hub_secret_of(node.fields)) is not None:
                account.require_secret(hub, apps.HUB_TOKEN)
            if (registry := registry_secret_of(node.fields)) is not None:
                account.require_secret(registry, apps.REGISTRY_KEY)
            for mount in mounts_of(node.fields):
                if mount.volume is not None:
                    account.require_volume(mount.volume)
                if mount.secret is not None:
                    account.require_secret(mount.secret, apps.BUCKET_KEY)

    def stage(self, node: Node, needs: Mapping[str, Flat], say: Say) -> Flat:
        """See `Engine.stage`.

        A snapshot is proven by one start of its command line outside of any class: it
        is captured when the first container of the server starts.
        """
        account = self._account(node)
        match node.kind:
            case Kind.BUILD | Kind.WEIGHTS:
                return self._artefacts.make(node, account, say)
            case Kind.SNAPSHOT:
                plain = self._rollout(node, say).try_out(node, needs)
                return {**outputs_of(node), PLAIN: plain}
            case Kind.SERVER:
                rollout = self._rollout(node, say, needs)
                if Kind.SNAPSHOT not in node.needs:
                    rollout.try_out(node, needs)
                made = {**outputs_of(node), **rollout.stage(node, needs)}
                return {**made, WORKSPACE: account.workspace}

    def update(self, node: Node, record: Record, say: Say) -> None:
        """See `Engine.update`: how many containers there are, and the tags."""
        del say
        stack = record.address.partition("/")[0]
        account, app = self._account(record), apps.server_app(stack)
        if (tags := tags_of(node.fields)) != tags_of(record.fields):
            account.tag(app, tags)
        if (scaling := scaling_of(node.fields)) != scaling_of(record.fields):
            account.scale(app, scaling)

    def promote(self, record: Record, before: Record | None, say: Say) -> Flat:
        """See `Engine.promote`: the proven files under the name that clients know."""
        return self._rollout(record, say).promote(record, before)

    def retire(self, record: Record, say: Say) -> None:
        """See `Engine.retire`: every app that serves this very record."""
        self._rollout(record, say).retire(record)

    def start(self, record: Record, needs: Mapping[str, Flat], say: Say) -> None:
        """See `Engine.start`."""
        del needs
        self._rollout(record, say).start(record)

    def stop(self, record: Record, say: Say) -> None:
        """See `Engine.stop`."""
        self._rollout(record, say).stop(record)

    def failure(self, record: Record, seconds: float, *, ask: bool) -> str:
        """See `Engine.failure`: Modal starts containers again by itself."""
        del record, seconds, ask
        return ""

    def renew(self, record: Record, say: Say) -> bool:
        """See `Engine.renew`: a version of the same, whose containers take over."""
        account = self._there(record)
        given = env_secrets_of(record.spec).values()
        for secret in (*secrets_in(record.outputs), *given):
            account.require_secret(secret.name, secret.variable)
        return self._rollout(record, say).renew(record)

    def idle(self, record: Record, seconds: float, say: Say) -> None:
        """See `Engine.idle`."""
        self._rollout(record, say).idle(record, seconds)

    def restore(
        self, record: Record, needs: Mapping[str, Flat], say: Say, *, beside: bool
    ) -> Restored:
        """See `Engine.restore`: a snapshot is of one app, so a copy makes its own."""
        del needs
        rollout = self._rollout(record, say)
        if beside:
            record = rollout.copy(record)
            rollout.idle(record, 0)
        return _restored(rollout.restore(record), record)

    def woken(
        self, record: Record, ask: Callable[[], object], say: Say
    ) -> Restored | None:
        """See `Engine.woken`."""
        if Kind.SNAPSHOT not in record.needs:
            ask()
            return None
        started = self._rollout(record, say).woken(record, ask)
        return None if started is None else _restored(started, record)

    def flaw(self, record: Record, server: Record | Node) -> str:
        """See `Engine.flaw`: Modal itself makes snapshots anew when they expire."""
        del record, server
        return ""

    def observe(self, record: Record) -> Observation:
        """See `Engine.observe`."""
        return Seeing(self._there(record)).observe(record)

    def servers(
        self, stack: str, known: Collection[str], *, thoroughly: bool
    ) -> tuple[RunningServer, ...]:
        """See `Engine.servers`: none of them is a process of this machine."""
        del stack, known, thoroughly
        return ()

    def endpoint(self, record: Record, *, candidate: bool) -> Endpoint:
        """See `Engine.endpoint`: known from the deployment, so nothing is asked."""
        url = record.outputs.get("candidate_url" if candidate else "url")
        if url is None:
            stack = record.address.partition("/")[0]
            app = apps.candidate_app(stack) if candidate else apps.server_app(stack)
            url = self._account(record).url(app)
        keys = (it.variable for it in secrets_in(record.outputs))
        return Endpoint(str(url), tuple(keys), token_env=token_of(record) or None)

    def discard(self, record: Record, say: Say) -> None:
        """See `Engine.discard`."""
        volume, path = place_of(record.kind, record.key)
        say(Talk(record.address, f"removes `{path}` from Volume `{volume}`"))
        self._there(record).remove(volume, path)

    def versions(self, record: Record) -> Mapping[str, str]:
        """See `Engine.versions`."""
        stack = record.address.partition("/")[0]
        history = self._account(record).program.history(apps.server_app(stack))
        return {it.tag: f"v{it.number}" for it in reversed(history) if it.tag}

    def usage(self, record: Record) -> Mapping[str, float] | None:
        """See `Engine.usage`."""
        account, app = self._there(record), app_of(record)
        counted = {CONTAINERS: float(account.containers(app))}
        with suppress(DeployerError):  # a platform that measures nothing says nothing
            counted.update(account.usage(app))
        return counted

    def logs(self, record: Record, *, lines: int, follow: bool) -> Iterator[str]:
        """See `Engine.logs`."""
        return Seeing(self._there(record)).logs(record, lines=lines, follow=follow)

    def _rollout(
        self, thing: Node | Record, say: Say, needs: Mapping[str, Flat] | None = None
    ) -> Rollout:
        there = self._there(thing) if isinstance(thing, Record) else None
        account = there or self._account(thing)
        headers = partial(self._place.keys.halves, token_of(thing, needs))
        return Rollout(account, self._place.folder, self._meter, say, headers)

    def _there(self, record: Record) -> Account:
        """The account of a record; raises AuthError where it is of another one."""
        account = self._account(record)
        account.refuse_elsewhere(record)
        return account

    def _account(self, thing: Node | Record) -> Account:
        """The account, in the environment that the thing was made for."""
        found = thing.spec.get(PLACE)
        environment = None if found is None else str(found)
        if environment not in self._accounts:
            variables = self._place.environment
            self._accounts[environment] = Account(variables, environment)
        return self._accounts[environment]


def _restored(started: Started, record: Record) -> Restored:
    return Restored(
        started.really,
        started.seconds,
        f"{started.how} in {show_seconds(started.seconds)}",
        record,
        captured=started.captured,
        failed=started.failed,
    )
