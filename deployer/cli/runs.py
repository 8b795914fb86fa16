"""Runs of `apply`: which stacks, for a person or for a program."""

import os
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import click

from deployer import __version__
from deployer.cli.for_each_stack import report, subjects_of
from deployer.cli.output import (
    error_data,
    exit_code_of,
    is_asked,
    json_line,
    refuse_without_terminal,
    width,
)
from deployer.cli.progress_display import Show
from deployer.engines.contract import Endpoint
from deployer.engines.place import costs_of
from deployer.errors import (
    CancelledError,
    DeployerError,
    GateError,
    StalePlanError,
    UsageError,
    worst_of,
)
from deployer.planning.events import Event, Judged, left_unproven
from deployer.planning.progress import Progress
from deployer.show.data import Applied as AppliedLine
from deployer.show.data import Summary, Version, data_of, line_of, plan_data
from deployer.show.text import plan_text, took_line
from deployer.spelling import harmless
from deployer.stack.fields.values import JsonValue
from deployer.usecases.apply import Applied, Confirm, apply_stack, destroy
from deployer.usecases.context.settings import Options, Settings, settings_of
from deployer.usecases.context.stack_files import Subject, stack_files
from deployer.usecases.plan import Planned, prospects
from deployer.usecases.plan_file import SavedPlan
from deployer.usecases.states import undeclared


class Stream(Show):
    """Says every event as one JSON line; a context manager that ends in a summary."""

    def __init__(self, command: str) -> None:
        super().__init__(command)
        self._counts: Counter[str] = Counter()
        self._tenths: dict[str, int] = {}
        self.stacks = 0

    @contextmanager
    def whole(self) -> Iterator[None]:
        """The version before, and the summary after, whatever happens between."""
        json_line(data_of(Version(__version__)))
        code = 0
        try:
            yield
        except BaseException as error:
            code = exit_code_of(error)
            raise
        finally:
            last = Summary(dict(self._counts), self.stacks, code)
            json_line(data_of(last))

    def planned(self, planned: Planned, file: Path) -> None:
        """A plan that is about to be carried out, or that changes nothing."""
        data = plan_data(
            planned.plan,
            planned.places,
            fit=planned.fit,
            costs=costs_of(planned.plan),
        )
        self._say({**data, "file": str(file)})

    def carry_out(
        self, file: Path, do: Callable[[Confirm], Applied | None], *, yes: bool
    ) -> None:
        """Do it, with a line for the plan, and one for the end.

        Raises UsageError where it was not confirmed by ``yes``: nobody is asked.
        """

        def confirm(planned: Planned) -> bool:
            self.planned(planned, file)
            if not yes:
                raise UsageError(
                    "`--json` asks no questions",
                    hint="add `--yes` once `deployer plan` shows what you want",
                )
            return True

        self.stacks += 1
        with self:
            done = do(confirm)
        if done is None:
            raise CancelledError("nothing was changed")
        if done.planned.plan.is_empty:
            self.planned(done.planned, file)
        self.applied(done, file)

    def carry_out_alone(
        self, file: Path, do: Callable[[Confirm], Applied | None], *, yes: bool
    ) -> None:
        """Do it as the whole of a command."""
        with self.whole():
            self.carry_out(file, do, yes=yes)

    def applied(self, done: Applied, file: Path) -> None:
        """The end of one stack."""
        end = done.endpoint
        line = AppliedLine(
            stack=done.state.stack,
            file=str(file),
            changed=not done.planned.plan.is_empty,
            release=done.state.released,
            url=None if end is None else end.url,
            api_key_env=None if end is None else end.api_key_env,
        )
        self._say(data_of(line))

    def failed(self, error: DeployerError, file: Path) -> None:
        """Why a stack was not applied."""
        self._say({"type": "error", "file": str(file), **error_data(error)})

    def result(self, kind: str, text: str, **data: JsonValue) -> None:
        """Print the result of a command as a line of its kind."""
        del text
        self._say({"type": kind, **data})

    def _show(self, event: Event) -> None:
        if isinstance(event, Progress) and not self._is_news(event):
            return
        if isinstance(event, Judged):
            self.verdicts.append(event.verdict)
        if (line := line_of(event)) is not None:
            self._say(data_of(line))

    def _is_news(self, progress: Progress) -> bool:
        """Return whether another tenth was reached; without an end, nothing is told."""
        if not progress.total:
            return False
        tenth = progress.done * 10 // progress.total
        if self._tenths.get(progress.name) == tenth:
            return False
        self._tenths[progress.name] = tenth
        return True

    def _say(self, line: dict[str, Any]) -> None:
        self._counts[line["type"]] += 1
        json_line(line)


@contextmanager
def showing(command: str, *, as_json: bool) -> Iterator[Show]:
    """Show what a command does, to a person or as JSON lines to a program."""
    if not as_json:
        with Show(command) as show:
            yield show
        return
    stream = Stream(command)
    with stream.whole(), stream:
        yield stream


def asked_for(
    stack: Path, since: str | None, *, allow_destroy: bool
) -> tuple[Subject, ...]:
    """The stacks to apply, those that go first.

    Raises UsageError, before anything is done, for a stack that is gone and that
    nobody allowed to be destroyed.
    """
    if since is None:
        return (Subject(stack),)
    from deployer.usecases.changed import changed_since  # noqa: PLC0415 - asks git

    subjects = changed_since((stack,), since).subjects
    gone = [subject.gone for subject in subjects if subject.gone is not None]
    if gone and not allow_destroy:
        raise UsageError(
            f"no stack file declares {', '.join(f'`{name}`' for name in gone)} any"
            " more, and `--allow-destroy` was not given",
            hint="add `--allow-destroy` once that is what you want",
        )
    return subjects


@dataclass(frozen=True, slots=True)
class Run:
    """One call of `apply`."""

    options: Options
    settings: Settings
    saved: SavedPlan | None
    yes: bool
    approved: tuple[SavedPlan, ...] | None = None
    """No more than these; None: no limit but ``saved``."""

    def held_to(self, saved: SavedPlan) -> "Run":
        """Return the run that carries out a saved plan, without a question."""
        engine = self.options.engine or saved.bound.engine or None
        options = self.options._replace(engine=engine)
        return replace(self, options=options, saved=saved, yes=True)

    def carry_out(
        self, subjects: Sequence[Subject], command: str, *, as_json: bool
    ) -> None:
        """Carry out for a program, or for a person."""
        do = self.stream if as_json else self.show
        do(subjects, command.rstrip())

    def show(self, subjects: Sequence[Subject], command: str) -> None:
        """Carry out and show it to a person."""
        if not subjects:
            click.echo("No stack changed: nothing to do.")
        confirm = asker(show := Show(command), yes=self.yes)
        worst = 0
        for subject in subjects:
            try:
                with evidence(show), show:
                    done = self._carry_out(subject, show, confirm)
                finish(done, subject.file, show)
            except CancelledError:
                raise
            except DeployerError as error:
                if len(subjects) == 1:
                    raise
                worst = worst_of(worst, error.exit_code)
                report(subject.file, error, as_json=False)
        if worst:
            raise click.exceptions.Exit(worst)

    def stream(self, subjects: Sequence[Subject], command: str) -> None:
        """Carry out and tell it to a program."""
        stream = Stream(command)
        worst = 0
        with stream.whole():
            for subject in subjects:
                try:
                    do = partial(self._carry_out, subject, stream)
                    stream.carry_out(subject.file, do, yes=self.yes)
                except DeployerError as error:
                    stream.failed(error, subject.file)
                    if len(subjects) == 1 or isinstance(error, CancelledError):
                        raise
                    worst = worst_of(worst, error.exit_code)
                    report(subject.file, error, as_json=False)
            if worst:
                raise click.exceptions.Exit(worst)

    def _carry_out(
        self, subject: Subject, show: Show, confirm: Confirm
    ) -> Applied | None:
        file, gone = subject.file, subject.gone
        if gone is not None and self.approved is not None:
            raise StalePlanError(
                f"not approved: `{gone}` is live, and no stack file asks for it",
                hint="no saved plan destroys a stack: bring its file back, and run"
                f" `deployer destroy {file}`",
            )
        if gone is not None:
            return destroy(
                file, self.settings, show, confirm, artefacts=False, name=gone
            )
        return apply_stack(
            file,
            self.settings,
            self.options,
            show,
            confirm,
            saved=self.saved,
            approved=self.approved,
        )


def everything(paths: Sequence[Path], settings: Settings) -> tuple[Subject, ...]:
    """Return every stack of the paths, and every live one that no file asks for."""
    gone = [
        Subject(folder / f"{name}.yaml", gone=name)
        for folder in paths
        if folder.is_dir()
        for name in undeclared(folder, settings)
    ]
    return (*(subjects_of(tuple(paths)) if not gone else _there(paths)), *gone)


def _there(paths: Sequence[Path]) -> Iterator[Subject]:
    """Yield the stacks of the paths, where there may be none."""
    yield from map(Subject, stack_files(paths))


def asker(show: Show, *, yes: bool) -> Confirm:
    """Shows the plan with its steps, and asks."""

    def confirm(planned: Planned) -> bool:
        show.pause()
        if yes and is_asked("quiet"):
            return True
        text = plan_text(
            planned.plan,
            planned.places,
            steps=True,
            fit=planned.fit,
            costs=costs_of(planned.plan),
            prospects=prospects(planned, settings_of()),
            wide=is_asked("verbose"),
        )
        click.echo(text)
        for note in planned.notes:
            click.echo(f"note: {note}")
        if yes:
            return True
        refuse_without_terminal("add `--yes` once the plan above is what you want")
        return click.confirm("Apply these steps?", default=False)

    return confirm


@contextmanager
def evidence(show: Show) -> Iterator[None]:
    """Print what the gates saw where they held a candidate back."""
    try:
        yield
    except GateError:
        from deployer.gates.harness.report import table  # noqa: PLC0415 - only with gates

        failed = [verdict for verdict in show.verdicts if verdict.blocks]
        click.echo(harmless(f"\n{table(failed, width=width())}"))
        raise


def finish(done: Applied | None, file: Path, show: Show) -> None:
    """Say what a run ended in; raises CancelledError where it was declined."""
    if done is None:
        raise CancelledError("nothing was applied")
    if done.planned.plan.is_empty:
        click.echo(plan_text(done.planned.plan, done.planned.places), nl=False)
        if done.endpoint is not None:
            click.echo(f"Live at {done.endpoint.url}")
        return
    space = "" if is_asked("quiet") else "\n"
    if done.verdicts:
        from deployer.gates.harness.report import conclusion  # noqa: PLC0415 - only with gates

        click.echo(f"{space}{conclusion(done.verdicts)}")
        if left := (*done.planned.plan.unproven, *left_unproven(done.verdicts)):
            click.echo(harmless(f"not proven: {', '.join(left)}"))
    if took := took_line(show.took):
        click.echo(took)
    if done.report is not None:
        click.echo(f"Report: {done.report}")
    if done.endpoint is not None:
        click.echo(
            f"{space}Release {done.state.released} is live at {done.endpoint.url}"
        )
        if not is_asked("quiet"):
            name, beside = done.endpoint.api_key_env, file.with_name(".env")
            if name and name not in os.environ and beside.exists():
                click.echo(f"\n  . {shlex.quote(f'./{beside}')}", nl=False)
            click.echo(f"\n  {_curl_line(done.endpoint, done.planned.plan.gates)}\n")


def _curl_line(endpoint: Endpoint, gates: Sequence[str]) -> str:
    """A request to try, with the key by its variable's name."""
    key = (
        f' -H "Authorization: Bearer ${endpoint.api_key_env}"'
        if endpoint.api_key_env
        else ""
    )
    question = "What is the capital of France?"
    path = "chat/completions"
    body = f'{{"messages":[{{"role":"user","content":"{question}"}}],"max_tokens":64}}'
    if "embeddings" in gates:
        path, body = "embeddings", f'{{"input":"{question}"}}'
    elif "rerank" in gates:
        path, body = "rerank", f'{{"query":"{question}","documents":["Paris","Oslo"]}}'
    return (
        f"curl {endpoint.url}/v1/{path}{key}"
        f" -H 'Content-Type: application/json' -d '{body}'"
    )
