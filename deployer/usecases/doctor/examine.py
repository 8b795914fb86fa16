"""Looking at everything there is to look at."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deployer.errors import error_of
from deployer.usecases.context.settings import Settings
from deployer.usecases.doctor import live, machine, stacks
from deployer.usecases.doctor.finding import Finding, wrong


@dataclass(frozen=True, slots=True)
class Log:
    """A log to read instead of the engine's."""

    name: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """What doctor is to look at beside this machine."""

    files: tuple[Path, ...] = ()
    """Stacks."""
    url: str | None = None
    """A server, instead of the one that the stack has live."""
    log: Log | None = None


def examine(asked: Asked, settings: Settings, *, now: float) -> Iterator[Finding]:
    """Every finding, area by area; what is not there is not looked at."""
    for file in asked.files:
        try:
            yield from _stack(file, asked, settings)
        except Exception as error:  # noqa: BLE001 - one stack does not hide others
            yield wrong("stack", error_of(error, file))
    if asked == Asked():
        yield from machine.programs(None, settings)
        yield from machine.freezing(None, settings)
        yield from machine.surroundings(None, None, settings)
    if asked.log is None and (asked.url is None or asked.files):
        yield from machine.store(settings, now=now)
    if not asked.files and asked.url is not None:
        yield from live.asked(asked.url, None, "", None, None)
    if asked.log is not None:
        yield from live.read(asked.log.lines, asked.log.name)


def _stack(file: Path, asked: Asked, settings: Settings) -> Iterator[Finding]:
    patient = stacks.patient(file, settings)
    yield from patient.problems
    stack, folder = patient.stack, file.parent
    running = live.deployment(file, settings) if stack is not None else None
    if stack is None or running is None:
        return
    yield from stacks.keys(stack, folder, settings)
    yield from stacks.state(stack, file, settings)
    yield from machine.programs(stack, settings)
    yield from machine.extras(stack, settings)
    yield from machine.freezing(stack, settings)
    yield from machine.server_program(stack, file)
    yield from machine.surroundings(stack, patient.build, settings)
    if asked.url is None:
        yield from machine.port(stack, running.pid)
        yield from running.findings
    if (url := asked.url or running.url) is not None:
        name = (stack.api_key.env if stack.api_key is not None else None) or ""
        key = settings.keys(folder).get(name) if name else None
        yield from live.asked(url, key, name, stack, patient.build)
    if asked.log is None and asked.url is None and running.log:
        yield from live.read(running.log, running.log_name)
