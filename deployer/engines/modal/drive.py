"""Modal through its own client: the only module that imports it.

The client is imported when an account is first used, as it takes half a second.
Everything that it raises leaves here as an error of `deployer.errors`, with what to
type about it; it never holds the value of a secret.
"""

import importlib.util
import io
import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, Protocol

from deployer import install_command
from deployer.engines.modal.apps import (
    CLASS,
    DEFAULT_WINDOW,
    METHOD,
    Scaling,
    limits_of_server,
    usage_of,
)
from deployer.engines.modal.section import OURS
from deployer.errors import (
    AuthError,
    DeployerError,
    EngineError,
    TimedOutError,
    UsageError,
)
from deployer.planning.state import WORKSPACE
from deployer.system.children import MODAL, python_command, variables

if TYPE_CHECKING:
    import modal
    from modal.types import LogEntry

    from deployer.planning.state import Record


SYSTEM: Final = "system"
"""Source of the lines that Modal says itself."""


@dataclass(frozen=True, slots=True)
class Deployed:
    """An app that is deployed."""

    id: str
    version: int
    deployed_at: datetime | None
    """UTC, by the clock of Modal, as all times in its logs."""
    deployed_by: str
    tags: Mapping[str, str]

    @property
    def since(self) -> str:
        """When it was deployed, for people."""
        at = self.deployed_at
        return "an unknown time" if at is None else at.isoformat(timespec="seconds")


@dataclass(frozen=True, slots=True)
class Version:
    """One deployment of an app."""

    number: int
    at: str
    by: str
    tag: str


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the log of an app."""

    at: datetime
    text: str
    source: str
    """``stdout`` or ``stderr`` of a container, or ``system`` for what Modal says."""
    where: tuple[str, ...]
    """Ids of the call, the input and the container it came from."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or folder of the Volume."""

    path: str
    folder: bool
    size: int


INSTALL: Final = install_command("modal")
_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Program:
    """`modal app …`, `modal container …` and `modal billing …` of one environment."""

    variables: Mapping[str, str]
    environment: str | None

    def history(self, name: str) -> tuple[Version, ...]:
        """The deployments of an app, newest first; none of one that is not there."""
        return tuple(_version(entry) for entry in self._listed("app", "history", name))

    def deployed(self) -> tuple[str, ...]:
        """The names of all apps that are deployed."""
        listed = self._listed("app", "list")
        found = (it for it in listed if it.get("state") == "deployed")
        return tuple(str(it.get("name") or it.get("description")) for it in found)

    def containers(self, app_id: str) -> tuple[str, ...]:
        """The ids of the containers of an app."""
        listed = self._listed("container", "list", "--app-id", app_id)
        return tuple(str(it["container_id"]) for it in listed)

    def rollback(self, name: str, version: int) -> None:
        """Make an earlier version of an app the one that serves.

        Raises EngineError with what the client says.
        """
        failed = f"was not rolled back to version {version}"
        self._ordered("app", "rollback", name, f"v{version}", failed=failed)

    def rollover(self, name: str) -> None:
        """Give an app fresh containers; raises EngineError with what is said."""
        self._ordered("app", "rollover", name, failed="got no fresh containers")

    def rates(self) -> Mapping[str, str]:
        """Dollars for an hour of each thing that is billed; none if it does not say."""
        found = self._asked("billing", "rates")
        return found if isinstance(found, dict) else {}

    def _ordered(self, *words: str, failed: str) -> None:
        place = () if self.environment is None else ("--env", self.environment)
        done = self._run(*words, *place)
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines() or ["no answer"]
            raise EngineError(
                f"app `{words[2]}` {failed}: {said[-1]}",
                hint=f"run `modal {' '.join((*words, *place))}`",
            )

    def _listed(self, *words: str) -> list[Mapping[str, Any]]:
        place = () if self.environment is None else ("--env", self.environment)
        found = self._asked(*words, *place)
        return found if isinstance(found, list) else []

    def _asked(self, *words: str) -> object:
        try:
            return json.loads(self._run(*words, "--json").stdout)
        except ValueError:
            return None

    def _run(self, *words: str) -> "subprocess.CompletedProcess[str]":
        refuse_missing_client()
        return subprocess.run(  # noqa: S603 - the client's own program
            python_command("-m", "modal", *words),
            env=variables(self.variables, *MODAL),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
            start_new_session=True,  # Ctrl-C is ours to act on
        )


def refuse_missing_client() -> None:
    """Raise EngineError where the client is not installed."""
    if importlib.util.find_spec("modal") is None:
        raise EngineError(
            "the client of Modal is not installed", hint=f"run `{INSTALL}`"
        )


def _version(entry: Mapping[str, Any]) -> Version:
    return Version(
        int(str(entry["version"]).removeprefix("v")),
        str(entry.get("time_deployed") or ""),
        str(entry.get("deployed_by") or ""),
        str(entry.get("tag") or ""),
    )


def load(file: Path) -> ModuleType:
    """Import a rendered file, by the name that containers import it by."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise EngineError(f"`{file}` is no Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    with _beside(file.parent):
        spec.loader.exec_module(module)
    return module


@contextmanager
def _beside(folder: Path) -> Iterator[None]:
    """Import what lies in a folder, and forget it: each release has its own."""
    before = sys.path[:]
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = before
        for name in [it for it in sys.modules if it.partition(".")[0] == "runtime"]:
            del sys.modules[name]


NEW_TOKEN: Final = "modal token new"  # noqa: S105 - a command
TOKEN: Final = ("MODAL_TOKEN_ID", "MODAL_TOKEN_SECRET")
_TAKEN: Final = f"`MODAL_PROFILE`, or {' and '.join(TOKEN)}"
"""How a token is chosen."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """How one kind of error is told."""

    names: tuple[str, ...]
    """Classes of `modal.exception`."""
    becomes: type[DeployerError]
    what: str
    """With `{about}` and `{said}`."""
    hint: str


REFUSALS: Final = (
    Refusal(
        ("AuthError",),
        AuthError,
        "Modal refuses the token: {said}",
        f"run `{NEW_TOKEN}`, or set {' and '.join(TOKEN)}",
    ),
    Refusal(
        ("PermissionDeniedError",),
        AuthError,
        "Modal does not allow it, {about}: {said}",
        "ask an owner of the workspace for the right",
    ),
    Refusal(
        ("ImageBuildError",),
        EngineError,
        "an image was not built, {about}: {said}",
        "correct what its last line names, and run `deployer apply` again",
    ),
    Refusal(
        ("ConnectionError", "ServiceError", "ClientClosed"),
        EngineError,
        "Modal could not be reached, {about}: {said}",
        "look at https://status.modal.com and your network; running `deployer apply`"
        " again carries on",
    ),
    Refusal(("TimeoutError",), TimedOutError, "Modal gave up, {about}: {said}", ""),
    Refusal(
        ("ResourceExhaustedError",),
        EngineError,
        "a limit of the workspace is reached, {about}: {said}",
        "`modal app list` shows what runs; stop what is not needed",
    ),
    Refusal(("Error",), EngineError, "Modal refuses {about}: {said}", ""),
)
"""The first that fits tells; the last one fits all."""


def in_our_words(
    raised: Exception, about: str, said: str, its: ModuleType
) -> DeployerError:
    """The error of ours for one of ``its``, the client's module of exceptions."""
    for refusal in REFUSALS:
        kinds = tuple(getattr(its, name) for name in refusal.names)
        if isinstance(raised, kinds):
            what = refusal.what.format(about=about, said=said)
            return refusal.becomes(what, hint=refusal.hint)
    return EngineError(f"{about}: {said}")


_ENVIRONMENT: Final = "MODAL_ENVIRONMENT"
_CLOCKS_DIFFER: Final = timedelta(hours=1)
"""Longer than the clocks of a client and of Modal differ."""
_IMAGE_LINES: Final = 12
"""Lines of the log of an image that failed to build: its last layer."""


class Account:
    """One environment of one account."""

    log_seconds = 90.0
    """How long a line of a log may take to arrive."""

    def __init__(self, variables: Mapping[str, str], environment: str | None) -> None:
        self._variables = variables
        self._environment = environment or variables.get(_ENVIRONMENT) or None
        self.program = Program(variables, self._environment)
        """Commands of the client that have no Python call."""
        self._connecting = threading.Lock()
        self._client: modal.Client | None = None

    def check(self) -> None:
        """Raise AuthError without a token that works, UsageError without a place."""
        modal = _modal()

        with self.translated("the token"):
            if self._environment is None:
                self.client.hello()
                return
            try:
                place = modal.Environment.from_name(
                    self._environment, client=self.client
                )
                place.hydrate()
            except modal.exception.NotFoundError:
                raise UsageError(
                    f"there is no environment `{self._environment}` on Modal",
                    hint=f"run `modal environment create {self._environment}`, or"
                    " change `modal.environment` of the stack",
                ) from None

    @property
    def client(self) -> "modal.Client":
        """The client; raises EngineError where it is not installed."""
        modal = _modal()

        with self._connecting, self.translated("the token"):
            if self._client is None:
                given = [self._variables.get(name, "") for name in TOKEN]
                if all(given):
                    self._client = modal.Client.from_credentials(*given)
                else:
                    self._client = modal.Client.from_env()
            return self._client

    @cached_property
    def workspace(self) -> str:
        """The workspace that the token belongs to; empty where Modal gives no name."""
        modal = _modal()

        with self.translated("the workspace"):
            found = modal.Workspace.from_context(client=self.client)
            return str(found.hydrate().name or "")

    def refuse_elsewhere(self, record: "Record") -> None:
        """Raise AuthError where a record is of another workspace than the token.

        What is in another workspace cannot be seen, so a stack would be deployed twice
        and the first one billed unseen.  A record of older deployers names none.
        """
        there = record.outputs.get(WORKSPACE)
        if there in (None, "", self.workspace):
            return
        stack = record.address.partition("/")[0]
        raise AuthError(
            f"the token is for the Modal workspace `{self.workspace}`, and stack"
            f" `{stack}` was deployed to `{there}`",
            hint=f"take a token of `{there}` ({_TAKEN}); to move the stack, run"
            f" `deployer apply --workspace {self.workspace}`, which leaves what runs in"
            f" `{there}` there",
        )

    def refuse_other(self, workspace: str, named_by: str) -> None:
        """Raise AuthError where a workspace is named that is not the token's."""
        if workspace and workspace != self.workspace:
            raise AuthError(
                f"the token is for the Modal workspace `{self.workspace}`, and"
                f" `{named_by}` names `{workspace}`",
                hint=f"take a token of `{workspace}` ({_TAKEN})",
            )

    def require_secret(self, name: str, key: str) -> None:
        """Raise AuthError where a secret, or a key in it, is not there."""
        modal = _modal()

        place = "" if self._environment is None else f" --env {self._environment}"
        create = f"modal secret create {name}{place} {key}=…"
        with self.translated(f"secret `{name}`"):
            try:
                modal.Secret.from_name(
                    name,
                    environment_name=self._environment,
                    required_keys=[key],
                    client=self.client,
                ).hydrate()
            except modal.exception.NotFoundError:
                raise AuthError(
                    f"there is no secret `{name}` on Modal", hint=f"run `{create}`"
                ) from None
            except modal.exception.InvalidError as error:
                if key not in str(error):
                    raise
                raise AuthError(
                    f"the Modal secret `{name}` has no key `{key}`",
                    hint=f"run `{create} --force`, with all other keys of it as well",
                ) from None

    def require_volume(self, name: str) -> None:
        """Raise UsageError where a Volume is not there."""
        if self.listed(name, "/") is None:
            place = "" if self._environment is None else f" --env {self._environment}"
            raise UsageError(
                f"there is no Volume `{name}` on Modal",
                hint=f"run `modal volume create {name}{place}`, or change"
                " `modal.mounts` of the stack",
            )

    def app(self, name: str) -> Deployed | None:
        """The deployed app of a name."""
        modal = _modal()

        with self.translated(f"app `{name}`"):
            try:
                found = self._lookup(name)
            except modal.exception.NotFoundError:
                return None
            return self._described(found)

    def deploy(self, file: Path, tag: str, strategy: str = "rolling") -> Deployed:
        """Deploy the app of a rendered file; the same again changes nothing."""
        with self.translated(f"the deployment of `{file.stem}`"):
            app = load(file).app
            app.deploy(
                client=self.client,
                environment_name=self._environment,
                tag=tag,
                strategy=strategy,
            )
            return self._described(app)

    def call(self, app: str, function: str) -> "Call":
        """Begin a call of a deployed function."""
        modal = _modal()

        with self.translated(f"`{function}` of `{app}`"):
            found = modal.Function.from_name(
                app, function, environment_name=self._environment, client=self.client
            )
            return Call(self, found.spawn())

    @contextmanager
    def running(self, file: Path, function: str) -> "Iterator[tuple[Call, str]]":
        """Run the app of a rendered file without deploying it, and begin a call.

        Yields the call and the id of the app, which is gone when the block ends.
        """
        with self.translated(f"the run of `{file.stem}`"):
            module = load(file)
            with module.app.run(client=self.client, environment_name=self._environment):
                spawned = getattr(module, function).spawn()
                yield Call(self, spawned), module.app.app_id

    def url(self, app: str) -> str:
        """The address of a deployed server."""
        modal = _modal()
        with self.translated(f"app `{app}`"):
            try:
                return str(self._server(app).get_web_url())
            except modal.exception.NotFoundError:
                return str(self._direct(app).get_url())

    def containers(self, app: str) -> int:
        """How many containers of a deployed server there are."""
        modal = _modal()
        with self.translated(f"app `{app}`"):
            try:
                service = self._service(app)
            except modal.exception.NotFoundError:
                return len(self.tasks(app))
            return int(service.get_current_stats().num_total_runners)

    def usage(self, app: str) -> Mapping[str, float]:
        """Return what Modal measured of a deployed server in the last hour."""
        modal = _modal()
        with self.translated(f"what Modal measured of `{app}`"):
            try:
                return usage_of(self._service(app).stats())
            except modal.exception.NotFoundError:
                return usage_of(self._direct(app).stats())

    def tasks(self, app: str) -> tuple[str, ...]:
        """The ids of the containers of a deployed app."""
        with self.translated(f"app `{app}`"):
            return self.program.containers(str(self._lookup(app).app_id))

    def scale(self, app: str, scaling: Scaling) -> None:
        """Change how many containers there are, without a deployment.

        What is unset is set to Modal's own default: a stack says all there is.
        """
        with self.translated(f"app `{app}`"):
            autoscaler, direct = self._autoscaler(app)
            _update(autoscaler, limits_of_server(scaling) if direct else scaling)

    def settle(self, app: str, scaling: Scaling, tags: Mapping[str, str]) -> None:
        """Change the number of containers and the tags where that is needed."""
        with self.translated(f"app `{app}`"):
            autoscaler, direct = self._autoscaler(app)
            wanted = limits_of_server(scaling) if direct else scaling
            now = autoscaler.settings()
            found = Scaling(
                now.min_containers,
                now.max_containers,
                now.buffer_containers,
                now.scaledown_window,
            )
            if found.effective() != wanted.effective():
                _update(autoscaler, wanted)
        self.tag(app, tags)

    def tag(self, app: str, tags: Mapping[str, str]) -> None:
        """Give an app these tags beside those that deployer reads itself."""
        with self.translated(f"app `{app}`"):
            there = self._lookup(app)
            before = dict(there.get_tags(client=self.client))
            ours = {name: it for name, it in before.items() if name.startswith(OURS)}
            if before != {**tags, **ours}:
                there.set_tags({**tags, **ours}, client=self.client)

    def _autoscaler(self, app: str) -> "tuple[_Autoscaler, bool]":
        """Return what changes the scaling, and whether it is `endpoint: server`."""
        modal = _modal()
        try:
            return self._service(app).autoscaler, False
        except modal.exception.NotFoundError:
            return self._direct(app).autoscaler, True

    def stop(self, name: str) -> bool:
        """Stop an app and all its containers; false where it is not deployed."""
        modal = _modal()

        with self.translated(f"app `{name}`"):
            try:
                self._lookup(name).stop()
            except modal.exception.NotFoundError:
                return False
            return True

    def log(self, name: str) -> "AppLog":
        """The log of an app, by its name or id."""
        with self.translated(f"the log of `{name}`"):
            return AppLog(self, name, self._lookup(name).logs)

    def listed(
        self, volume: str, path: str, *, deep: bool = False
    ) -> tuple[Entry, ...] | None:
        """Return the content of a folder of a Volume; None where there is none."""
        modal = _modal()

        with self.translated(f"Volume `{volume}`"):
            try:
                found = self._volume(volume).listdir(path, recursive=deep)
            except (modal.exception.NotFoundError, FileNotFoundError):
                return None
            kinds = modal.volume.FileEntryType
            return tuple(
                Entry(each.path, each.type is kinds.DIRECTORY, each.size)
                for each in found
            )

    def read(self, volume: str, path: str) -> bytes | None:
        """A file of a Volume; None where there is none."""
        modal = _modal()

        with self.translated(f"Volume `{volume}`"):
            try:
                return b"".join(self._volume(volume).read_file(path))
            except (modal.exception.NotFoundError, FileNotFoundError):
                return None

    def write(self, volume: str, files: Mapping[str, bytes]) -> None:
        """Put files on a Volume, made where it is not there; all of them, or none."""
        with self.translated(f"Volume `{volume}`"):
            made = self._volume(volume, create=True)
            with made.batch_upload(force=True) as batch:
                for path, content in files.items():
                    batch.put_file(io.BytesIO(content), PurePosixPath(path))

    def remove(self, volume: str, path: str) -> None:
        """Remove a folder of a Volume; gone already is fine."""
        modal = _modal()

        with self.translated(f"Volume `{volume}`"):
            try:
                self._volume(volume).remove_file(path, recursive=True)
            except (modal.exception.NotFoundError, FileNotFoundError):
                return

    def _lookup(self, name: str) -> "modal.App":
        found: modal.App = _modal().App.lookup(
            name, client=self.client, environment_name=self._environment
        )
        return found

    def _described(self, app: "modal.App") -> Deployed:
        lifecycle = app.info().lifecycle
        return Deployed(
            id=str(app.app_id),
            version=lifecycle.version or 0,
            deployed_at=lifecycle.deployed_at,
            deployed_by=lifecycle.deployed_by or "",
            tags=dict(app.get_tags(client=self.client)),
        )

    def _volume(self, name: str, *, create: bool = False) -> "modal.Volume":
        found: modal.Volume = _modal().Volume.from_name(
            name,
            environment_name=self._environment,
            create_if_missing=create,
            client=self.client,
        )
        return found

    def _server(self, app: str) -> "modal.Function[Any, Any, Any]":
        """The web function of a deployed server."""
        server = _modal().Cls.from_name(
            app, CLASS, environment_name=self._environment, client=self.client
        )
        found: modal.Function[Any, Any, Any] = getattr(server(), METHOD)
        return found

    def _direct(self, app: str) -> "modal.Server":
        """The same for `endpoint: server`, which is no class on Modal."""
        found: modal.Server = _modal().Server.from_name(
            app, CLASS, environment_name=self._environment, client=self.client
        )
        return found

    def _service(self, app: str) -> "modal.Function[Any, Any, Any]":
        """The function behind the class of a deployed server."""
        method = self._server(app)
        method.hydrate()
        found: modal.Function[Any, Any, Any] = _modal().Function.from_id(
            method.object_id, client=self.client
        )
        return found

    @contextmanager
    def translated(self, about: str) -> Iterator[None]:
        """Raise what the client raises as an error of ours."""
        its = _modal().exception

        try:
            yield
        except DeployerError:
            raise
        except its.ImageBuildError as error:
            log = self._image_log(error.image_id)
            raise in_our_words(error, about, log, its) from None
        except its.Error as error:
            raise in_our_words(error, about, _said(error), its) from None
        except _disconnections() as error:
            cut = its.ConnectionError(_said(error))
            raise in_our_words(cut, about, _said(error), its) from None

    def _image_log(self, image_id: str) -> str:
        """The last lines of the log of an image that was not built."""
        modal = _modal()

        try:
            image = modal.Image.from_id(image_id, client=self.client)
            said = "".join(entry.message for entry in image.logs.tail(100))
        except modal.exception.Error:
            return f"`modal image logs {image_id}` says why"
        return "\n".join(["", *said.splitlines()[-_IMAGE_LINES:]])


class _Autoscaler(Protocol):
    """Calls that the client offers for functions and for servers alike."""

    def settings(self) -> Any: ...  # noqa: ANN401 - two kinds with the same fields

    def update(
        self,
        *,
        min_containers: int | None,
        max_containers: int | None,
        buffer_containers: int | None,
        scaledown_window: int,
    ) -> object: ...


class AppLog:
    """The log of an app; every time in it is by the clock of Modal.

    The client asks for nothing after its own now where it is not told otherwise, so
    what is newest would be missing where its clock is slow.
    """

    def __init__(self, account: Account, name: str, manager: object) -> None:
        self._account = account
        self._about = f"the log of `{name}`"
        self._manager: Any = manager
        """A type of the client, which gives it no public name."""

    def last(self, count: int) -> list[Line]:
        """The last lines."""
        now = datetime.now(tz=UTC)
        with self._account.translated(self._about):
            found = [_line(entry) for entry in self._manager.tail(count)]
            newer = self._manager.fetch(since=now, until=now + _CLOCKS_DIFFER)
            found += [it for it in map(_line, newer) if it not in found]
        return found[-count:]

    def since(self, at: datetime, *, text: str = "") -> list[Line]:
        """All lines since a time, or those of them that contain a text."""
        until = max(datetime.now(tz=UTC), at) + _CLOCKS_DIFFER
        with self._account.translated(self._about):
            found = self._manager.fetch(since=at, until=until, search_text=text)
            return [_line(entry) for entry in found]


class Call:
    """One call of a function on Modal."""

    def __init__(self, account: Account, spawned: "modal.FunctionCall[Any]") -> None:
        self._account = account
        self._spawned = spawned

    @property
    def id(self) -> str:
        """Its id, which the lines of its log carry."""
        return str(self._spawned.object_id)

    def result(self, within: float) -> object:
        """Return what it returned; raises TimeoutError while it is not done.

        What it raised itself comes as EngineError with its last line.
        """
        its = _modal().exception

        with self._account.translated("a call"):
            try:
                return self._spawned.get(timeout=within)
            except (its.FunctionTimeoutError, its.OutputExpiredError):
                raise
            except TimeoutError:
                raise
            except its.Error:
                raise
            except Exception as error:  # noqa: BLE001 - whatever the function raised
                raise EngineError(_said(error)) from None

    def cancel(self) -> None:
        """End it and its container; over already is fine."""
        with self._account.translated("a call"):
            self._spawned.cancel(terminate_containers=True)


def _modal() -> ModuleType:
    """The client; raises EngineError where it is not installed."""
    refuse_missing_client()
    import modal  # noqa: PLC0415 - half a second

    return modal


def _disconnections() -> tuple[type[Exception], ...]:
    """Ends of a connection as the client lets them through, of streams and of files."""
    import aiohttp  # noqa: PLC0415 - the client has it loaded
    from grpclib.exceptions import StreamTerminatedError  # noqa: PLC0415

    return ConnectionError, StreamTerminatedError, aiohttp.ClientError


def _update(autoscaler: _Autoscaler, scaling: Scaling) -> None:
    autoscaler.update(
        min_containers=scaling.min_containers,
        max_containers=scaling.max_containers,
        buffer_containers=scaling.buffer_containers,
        scaledown_window=scaling.scaledown_window or DEFAULT_WINDOW,
    )


def _line(entry: "LogEntry") -> Line:
    return Line(
        entry.timestamp.astimezone(UTC),
        entry.message.rstrip("\n"),
        str(entry.source),
        tuple(entry.context_ids),
    )


def _said(error: BaseException) -> str:
    """Return what an error says, as the rest of a sentence."""
    text = str(error).strip() or type(error).__name__
    return text.rstrip(".")
