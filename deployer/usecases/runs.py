"""Everything done to a stack, by whom, from what and why: a line of its log each.

The log lies beside the state, and is only ever added to.  It is kept longer than the
releases that a rollback needs, and is no more than a memory: nothing is decided by it.
The pages with what gates saw lie with this user.
"""

import hmac
import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from html import escape
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from deployer.artefacts.json_files import FormError, decoded, parse
from deployer.errors import DeployerError, error_of
from deployer.planning.events import (
    Say,
    Talk,
    Verdict,
    all_let_pass,
    left_unproven,
    summary,
)
from deployer.planning.plan import Cause, Plan
from deployer.planning.state import State
from deployer.show.text import because
from deployer.spelling import secrets_of, without_secrets
from deployer.stack.addresses import is_loopback
from deployer.stack.fields.values import JsonValue
from deployer.state import StateStore
from deployer.system.files import contained, open_regular
from deployer.usecases.context.git import head_of
from deployer.usecases.context.settings import Settings, utc_now


@dataclass(frozen=True, slots=True)
class Origin:
    """Who ran a command, and from what; empty where it is not known."""

    user: str = ""
    """Login name on the host."""
    host: str = ""
    actor: str = ""
    """Account whose event started the run of CI."""
    commit: str = ""
    """The checkout's, or the pull request's; with `-dirty` where files differ."""
    branch: str = ""
    pull_request: str = ""
    run: str = ""
    """Address of the run of CI, with its attempt."""


PULL_REQUEST: Final = "DEPLOYER_PULL_REQUEST"
"""Variable that names the pull requests that were merged."""
_ADDRESS: Final = re.compile(r"https?://[\w.:/%~-]+")
_LARGEST_EVENT: Final = 16 * 2**20


def origin_of(folder: Path, environment: Mapping[str, str]) -> Origin:
    """Return who runs this, from what CI says of itself, else from git and the host.

    GitHub: docs.github.com, "Variables reference"; GitLab: "Predefined CI/CD
    variables".
    """
    given = environment.get
    host = given("DEPLOYER_HOST") or os.uname().nodename
    asked = given(PULL_REQUEST, "")
    if given("GITHUB_ACTIONS") == "true":
        number, head = _github_event(given("GITHUB_EVENT_PATH", ""))
        page = f"{given('GITHUB_SERVER_URL', '')}/{given('GITHUB_REPOSITORY', '')}"
        run = f"actions/runs/{given('GITHUB_RUN_ID', '')}"
        return Origin(
            host=host,
            actor=given("GITHUB_ACTOR", ""),
            commit=head or given("GITHUB_SHA", ""),
            branch=given("GITHUB_HEAD_REF") or given("GITHUB_REF_NAME", ""),
            pull_request=asked or number,
            run=_address(f"{page}/{run}/attempts/{given('GITHUB_RUN_ATTEMPT', '1')}"),
        )
    if given("GITLAB_CI") == "true":
        return Origin(
            host=host,
            actor=given("GITLAB_USER_LOGIN", ""),
            commit=given("CI_COMMIT_SHA", ""),
            branch=given("CI_COMMIT_REF_NAME", ""),
            pull_request=asked or given("CI_MERGE_REQUEST_IID", ""),
            run=_address(given("CI_JOB_URL", "")),
        )
    import pwd  # noqa: PLC0415 - only where something is recorded

    user = f"uid {os.getuid()}"
    with suppress(KeyError):  # a user of a container
        user = pwd.getpwuid(os.getuid()).pw_name
    commit, branch = head_of(folder)
    return Origin(user, host, "", commit, branch, asked)


def _github_event(file: str) -> tuple[str, str]:
    """Return the number and the last commit of the pull request of an event."""
    try:
        with open_regular(Path(file)) as stream:
            event = json.loads(stream.read(_LARGEST_EVENT))
        found = event["pull_request"]
        return str(int(found["number"])), str(found["head"]["sha"])
    except (OSError, ValueError, TypeError, KeyError):
        return "", ""


def _address(text: str) -> str:
    return text if _ADDRESS.fullmatch(text) else ""


MESSAGE: Final = "DEPLOYER_MESSAGE"
"""Variable with the words of the user, why something is done."""
_LONGEST_WHY: Final = 2000
PAGE: Final = "report.html"
KEPT_RUNS: Final = 10
"""Reports kept of runs that led to no release: not promoted, or judged again."""
_RELEASE: Final = "release-"


def keep_report(
    home: Path,
    before: State,
    after: State,
    verdicts: Sequence[Verdict],
    plan: str,
    unproven: Sequence[str] = (),
) -> Path | None:
    """Write what the gates saw, and remove what is not kept any more; the page to read.

    ``before`` and ``after`` are the states around the run: a new release has its report
    under its number.
    """
    if not verdicts:
        return None
    from deployer.gates.harness.report import write_report  # noqa: PLC0415 - only with gates

    now = utc_now()
    name, title = f"{now.replace(':', '')}-{plan}", f"{after.stack}: gates"
    if after.released > before.released:
        name = f"{_RELEASE}{after.released}"
        title = f"{after.stack}: gates of release {after.released}"
    about = f"plan {plan} on {after.engine}, {now[:16].replace('T', ' ')} UTC"
    if left := (*unproven, *left_unproven(verdicts)):
        about += f"; not proven: {', '.join(left)}"
    folder = folder_of(home, after)
    page = write_report(verdicts, folder / name, title=title, about=about)
    _prune(folder, after)
    return page


def report_of(home: Path, state: State, number: int) -> Path | None:
    """The page of a kept release, if there is one."""
    page = folder_of(home, state) / f"{_RELEASE}{number}" / PAGE
    return page if page.is_file() else None


def folder_of(home: Path, state: State) -> Path:
    """Names of stacks are unique in a folder only, lineages everywhere."""
    reports = home / "reports"
    return contained(reports, reports / f"{state.stack}-{state.lineage[:6]}")


def _prune(folder: Path, state: State) -> None:
    kept = {f"{_RELEASE}{release.number}" for release in state.releases}
    names = sorted(path.name for path in folder.iterdir())
    runs = [name for name in names if not name.startswith(_RELEASE)]
    for name in names:
        if name not in kept and name not in runs[-KEPT_RUNS:]:
            shutil.rmtree(contained(folder, folder / name), ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Ran:
    """One thing that was done, or that gates or an error prevented."""

    at: str
    """UTC, ISO 8601."""
    plan: str
    """Short name of the plan; empty where there was none."""
    cause: str
    """The command: ``apply``, ``rollback to 3``, ``stop``, ``drift``."""
    release: int | None
    """None where it led to none."""
    held_back: bool
    """Gates blocked it."""
    error: str
    """Why it failed; empty where it did not."""
    why: str
    """The words of the user (``--message``)."""
    origin: Origin
    changes: tuple[str, ...]
    """Planned changes with reasons, old and new value, a sentence each."""
    used: tuple[str, ...]
    """The bill, as it was reported."""
    gates: tuple[Mapping[str, JsonValue], ...]
    """Summaries of the verdicts."""

    @property
    def outcome(self) -> str:
        """How it ended, in a word."""
        if self.error:
            return "blocked" if self.held_back else "failed"
        return "done" if self.release is None else "released"


def ran_now(
    settings: Settings,
    folder: Path,
    cause: str,
    *,
    plan: Plan | None = None,
    verdicts: Sequence[Verdict] = (),
    used: Sequence[str] = (),
    changes: Sequence[str] = (),
) -> Ran:
    """A thing that was just done, and led to no release as far as is known here."""
    secrets = secrets_of(settings.environment)
    why = without_secrets(settings.environment.get(MESSAGE, ""), secrets)
    return Ran(
        at=utc_now(),
        plan="" if plan is None else plan.id,
        cause=cause,
        release=None,
        held_back=not all_let_pass(verdicts),
        error="",
        why=why[:_LONGEST_WHY],
        origin=origin_of(folder, settings.environment),
        changes=tuple(changes if plan is None else changes_in(plan)),
        used=tuple(used),
        gates=tuple(summary(verdict) for verdict in verdicts),
    )


def failed(ran: Ran, error: BaseException, settings: Settings) -> Ran:
    """The same as something that failed, without the secrets an error may quote."""
    known = error_of(error) if isinstance(error, Exception) else None
    said = "it was interrupted" if known is None else known.message
    told = without_secrets(said, secrets_of(settings.environment))
    return replace(ran, error=told or "it failed", release=None)


def remember(store: StateStore, ran: Ran) -> None:
    """Add a line to the log of a stack; raises StateError."""
    store.log(json.dumps(asdict(ran), ensure_ascii=False))


def remember_or_say(
    store: StateStore, stack: str, ran: Ran, settings: Settings, say: Say
) -> None:
    """Add a line, and notify; where that fails, say so: what was done is done."""
    try:
        remember(store, ran)
    except DeployerError as error:
        say(Talk(stack, f"the history lacks this: {error.message}"))
    if trouble := notify(stack, ran, settings.environment):
        say(Talk(stack, f"the webhook was not told: {trouble}"))


WEBHOOK: Final = "DEPLOYER_WEBHOOK"
"""Variable with the address that is told what was done."""
_PAUSES: Final = (0.5, 2.0, None)
"""Seconds after each attempt that failed; None: it was the last."""
_WEBHOOK_SECONDS: Final = 5


def notify(stack: str, ran: Ran, environment: Mapping[str, str]) -> str:
    """Tell the webhook of this environment; return why it was not told, or nothing.

    ``DEPLOYER_WEBHOOK_SECRET`` signs time and body (HMAC of SHA-256);
    ``DEPLOYER_WEBHOOK_FORM`` is ``json``, or ``slack`` for its incoming webhooks.  No
    redirect is followed, and the address, which may be a secret, is in no message.
    """
    if not (url := environment.get(WEBHOOK)):
        return ""
    parts = urlsplit(url)
    if parts.scheme != "https" and not is_loopback(parts.hostname or ""):
        return f"`{WEBHOOK}` does not begin with https://"
    about = {"type": "run", "stack": stack, "outcome": ran.outcome, **asdict(ran)}
    if environment.get(f"{WEBHOOK}_FORM") == "slack":
        text = escape(_sentence(stack, ran), quote=False)
        about = {"text": text}
    told = json.dumps(about, ensure_ascii=False)
    body = without_secrets(told, (url, *secrets_of(environment))).encode()
    at = str(int(time.time()))
    head = {"Content-Type": "application/json", "X-Deployer-Timestamp": at}
    if key := environment.get(f"{WEBHOOK}_SECRET"):
        signed = hmac.new(key.encode(), f"{at}.".encode() + body, "sha256").hexdigest()
        head["X-Deployer-Signature"] = f"sha256={signed}"
    return _posted(url, body, head)


def _posted(url: str, body: bytes, head: dict[str, str]) -> str:
    """Post, again where that may help; return why it failed, or nothing."""
    from http.client import HTTPException  # noqa: PLC0415 - slow, and only here
    from urllib.error import HTTPError  # noqa: PLC0415 - as above
    from urllib.request import HTTPRedirectHandler, Request, build_opener  # noqa: PLC0415 - as above

    class NoRedirect(HTTPRedirectHandler):
        """Follows none: it would send what was signed to somebody else."""

        def redirect_request(self, *_asked: object, **_named: object) -> None:
            """Return no request."""

    request = Request(url, body, head, method="POST")  # noqa: S310 - checked before
    opener = build_opener(NoRedirect())
    trouble = ""
    for pause in _PAUSES:
        try:
            with opener.open(request, timeout=_WEBHOOK_SECONDS):
                return ""
        except HTTPError as error:
            trouble = f"HTTP {error.code}"
            error.close()
            if error.code < 500 and error.code != 429:
                return trouble
        except (OSError, HTTPException) as error:
            trouble = type(error).__name__
        if pause is not None:
            time.sleep(pause)
    return trouble


def _sentence(stack: str, ran: Ran) -> str:
    """One line that says what was done."""
    who = ran.origin.actor or f"{ran.origin.user}@{ran.origin.host}"
    number = "" if ran.release is None else f" {ran.release}"
    parts = (
        f"{stack}: {ran.cause} {ran.outcome}{number}, by {who}",
        ran.why,
        ran.error,
        *ran.changes[:_IN_SENTENCE],
        ran.origin.run,
    )
    return " · ".join(" ".join(part.split()) for part in parts if part)


_IN_SENTENCE: Final = 3
"""Changes that a message of a chat names."""


def remembered(store: StateStore, newest: int | None = None) -> tuple[Ran, ...]:
    """Return what was done to a stack, oldest first; damaged lines are left out."""
    lines = store.logged(newest)
    return tuple(_runs(lines if newest is None else lines[-newest:]))


def changes_in(plan: Plan) -> Iterator[str]:
    """Yield what changes and why, a sentence each."""
    for change in plan.changes:
        for reason in change.reasons:
            words = " ".join(because(reason).split())
            own = reason.cause in {Cause.FIELD, Cause.LOCK}
            yield words if own else f"{change.role} {words}"


def _runs(lines: Iterable[str]) -> Iterator[Ran]:
    for line in lines:
        with suppress(FormError):
            yield decoded(Ran, parse(line))
