"""A server that runs, and what logs tell of it."""

import asyncio
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from deployer.errors import DeployerError, UsageError
from deployer.gates.harness.answers import Answer
from deployer.gates.harness.client import Client, Unanswered, connected
from deployer.gates.harness.target import Target
from deployer.llama.known.symptoms import symptoms_in
from deployer.stack.fields.model import Stack
from deployer.usecases.context.deployed import deployed
from deployer.usecases.context.settings import Settings
from deployer.usecases.doctor.finding import GRADES, Finding, Grade, fine, wrong

_SECONDS = 10.0
_LINES = 20_000


@dataclass(frozen=True, slots=True)
class Deployment:
    """What the engine tells of the live server of a stack."""

    findings: tuple[Finding, ...]
    url: str | None = None
    pid: int | None = None
    log: tuple[str, ...] = ()
    log_name: str = "log"


def deployment(file: Path, settings: Settings) -> Deployment:
    """The live server of a stack, by its engine; nothing live is a note."""
    try:
        found = deployed(file, settings)
        server = found.server
    except UsageError as error:
        note = Finding("server", Grade.NOTE, error.message, error.hint)
        return Deployment((note,))
    except DeployerError as error:
        return Deployment((wrong("server", error),))
    seen = found.engine.observe(server)
    url = found.engine.endpoint(server, candidate=False).url
    pid = seen.facts.get("pid")
    try:
        log = tuple(found.engine.logs(server, lines=_LINES, follow=False))
    except DeployerError:
        log = ()
    name = str(seen.facts.get("log") or f"log of {server.address}")
    if not seen.running:
        grade = Grade.NOTE if "deployer stop" in seen.detail else Grade.ERROR
        what = f"{server.address}: {seen.detail}"
        finding = Finding("server", grade, what, f"deployer start {file}")
        return Deployment((finding,), log=log, log_name=name)
    return Deployment((), url, pid if isinstance(pid, int) else None, log, name)


def asked(
    url: str, key: str | None, key_name: str, stack: Stack | None, build: int | None
) -> tuple[Finding, ...]:
    """Return what a server says when it is asked: healthy, which build, which key."""
    try:
        target = Target(url, api_key=key or None, api_key_name=key_name)
        health, props, unkeyed = asyncio.run(_answers(target))
    except UsageError as error:
        return (wrong("server", error),)
    except Unanswered as error:
        hint = "`deployer start STACK`; look at its log with `deployer logs STACK`"
        return (Finding("server", Grade.ERROR, str(error), hint),)
    except TimeoutError:
        what = f"{url} is not ready within {_SECONDS:.0f} s (503 while it loads)"
        hint = "wait until /health is 200; a large model loads for minutes"
        return (Finding("server", Grade.WARNING, what, hint, "loading"),)
    found = tuple(_judged(url, health, props, stack, build, key_name))
    return (*found, *_open(url, unkeyed, stack))


async def _answers(target: Target) -> tuple[Answer, Answer, Answer]:
    """What `/health` and `/props` answer, and `/props` to those without the key."""
    async with asyncio.timeout(_SECONDS), connected(target) as http:
        client, other = (
            Client(http, target),
            Client(http, replace(target, api_key=None)),
        )
        return (
            await client.get("/health"),
            await client.get("/props"),
            await other.get("/props"),
        )


def _open(url: str, unkeyed: Answer, stack: Stack | None) -> Iterator[Finding]:
    """A server that asks nobody for a key; a note where the stack says so."""
    if unkeyed.status != 200:
        return
    what = f"everybody may use {url}: it answers without an API key"
    if stack is not None and stack.api_key is not None:
        hint = "the stack has a key: `deployer apply`, or something else has the port"
        yield Finding("server", Grade.ERROR, what, hint, "open-server")
    elif stack is not None:
        reason = "" if stack.auth is None else stack.auth.open
        said = f"`auth.open`: {reason}" if reason else "only this machine reaches it"
        yield Finding("server", Grade.NOTE, what, said, "open-server")
    else:
        hint = "give it a key (`auth.api_key`), or see that nobody else reaches it"
        yield Finding("server", Grade.WARNING, what, hint, "open-server")


def _judged(
    url: str,
    health: Answer,
    props: Answer,
    stack: Stack | None,
    build: int | None,
    key_name: str,
) -> Iterator[Finding]:
    if health.status != 200:
        what = f"{url}/health answers {health.status}"
        yield Finding("server", Grade.ERROR, what, "is this a llama-server?")
        return
    yield fine("server", f"{url} is healthy")
    if props.status == 401:
        what = f"{url} refuses the key (401)"
        hint = (
            f"check `{key_name}`: the server was started with another key"
            if key_name
            else "name the variable that holds it: `auth.api_key.env`"
        )
        yield Finding("server", Grade.ERROR, what, hint, "no-key-sent")
        return
    yield from _build(props, stack, build)


def _build(props: Answer, stack: Stack | None, build: int | None) -> Iterator[Finding]:
    try:
        said = json.loads(props.body).get("build_info")
    except (ValueError, AttributeError):
        said = None
    if not isinstance(said, str):
        what = f"/props answers {props.status} and names no build"
        yield Finding("server", Grade.WARNING, what, "is this a llama-server?")
        return
    number = said.removeprefix("b").partition("-")[0]
    if number in ("0", "1"):
        what = f"the server is `{said}`: it was built without history"
        hint = "`llama_cpp.commit` proves it; deployer's own builds know their number"
        yield Finding("server", Grade.NOTE, what, hint, "no-build-number")
    elif build is not None and number != str(build):
        tag = stack.llama_cpp.tag if stack is not None else f"b{build}"
        what = f"the server is `{said}`, the stack pins `{tag}`"
        hint = "`deployer apply`; or something else has the port"
        yield Finding("server", Grade.ERROR, what, hint, "stale-build")
    else:
        yield fine("server", f"it is `{said}`")


def read(lines: Iterable[str], name: str) -> tuple[Finding, ...]:
    """Every known symptom of a log."""
    found = tuple(
        Finding(
            "log",
            GRADES[seen.symptom.severity],
            f"{name}:{seen.line}: {seen.symptom.meaning}{_times(seen.times)}",
            seen.symptom.hint,
            seen.symptom.id,
        )
        for seen in symptoms_in(lines)
    )
    return found or (fine("log", f"{name} shows nothing known to be wrong"),)


def _times(count: int) -> str:
    return f", {count} times" if count > 1 else ""
