"""Runs of `apply`: which stacks, for a person or for a program."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from deployer.cli.for_each_stack import report
from deployer.cli.output import is_terminal, width
from deployer.cli.progress_display import Show
from deployer.cli.stream import Stream
from deployer.engines.contract import Endpoint
from deployer.engines.place import costs_of
from deployer.errors import CancelledError, DeployerError, GateError, UsageError
from deployer.planning.events import Verdict
from deployer.show.text import plan_text
from deployer.spelling import harmless
from deployer.usecases.apply import Applied, Confirm, apply_stack, destroy
from deployer.usecases.context.settings import Options, Settings
from deployer.usecases.context.stack_files import Subject
from deployer.usecases.plan import Planned
from deployer.usecases.plan_file import SavedPlan


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
            f"no file asks for {', '.join(f'`{name}`' for name in gone)} any more,"
            " and nothing was allowed to be destroyed",
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
                finish(done)
            except CancelledError:
                raise
            except DeployerError as error:
                if len(subjects) == 1:
                    raise
                worst = max(worst, error.exit_code)
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
                    self._streamed(subject, stream)
                except DeployerError as error:
                    stream.failed(error, subject.file)
                    if len(subjects) == 1 or isinstance(error, CancelledError):
                        raise
                    worst = max(worst, error.exit_code)
                    report(subject.file, error, as_json=False)
            if worst:
                raise click.exceptions.Exit(worst)

    def _streamed(self, subject: Subject, stream: Stream) -> None:
        def confirm(planned: Planned) -> bool:
            stream.planned(planned, subject.file)
            if not self.yes:
                raise UsageError(
                    "nobody can be asked while `--json` is printed",
                    hint="add `--yes` once `deployer plan` shows what you want",
                )
            return True

        stream.stacks += 1
        with stream:
            done = self._carry_out(subject, stream, confirm)
        if done is None:
            raise CancelledError("nothing was applied")
        if done.planned.plan.is_empty:
            stream.planned(done.planned, subject.file)
        stream.applied(done, subject.file)

    def _carry_out(
        self, subject: Subject, show: Show, confirm: Confirm
    ) -> Applied | None:
        file, gone = subject.file, subject.gone
        if gone is not None:
            return destroy(
                file, self.settings, show, confirm, artefacts=False, name=gone
            )
        return apply_stack(
            file, self.settings, self.options, show, confirm, saved=self.saved
        )


def asker(show: Show, *, yes: bool) -> Confirm:
    """Shows the plan with its steps, and asks."""

    def confirm(planned: Planned) -> bool:
        show.pause()
        text = plan_text(
            planned.plan,
            planned.places,
            steps=True,
            fit=planned.fit,
            costs=costs_of(planned.plan),
        )
        click.echo(text)
        for note in planned.notes:
            click.echo(f"note: {note}")
        if yes:
            return True
        refuse_without_terminal()
        return click.confirm("Apply these steps?", default=False)

    return confirm


@contextmanager
def evidence(show: Show) -> Iterator[None]:
    """Print what the gates saw where they held a candidate back."""
    try:
        yield
    except GateError:
        _table(show.verdicts)
        raise


def _table(verdicts: Sequence[Verdict]) -> None:
    from deployer.gates.harness.report import table  # noqa: PLC0415 - only with gates

    click.echo(harmless(f"\n{table(verdicts, width=width())}"))


def refuse_without_terminal() -> None:
    """Raise UsageError where nobody can be asked."""
    if not is_terminal():
        raise UsageError(
            "nobody can be asked here: this is not a terminal",
            hint="add `--yes` once the plan above is what you want",
        )


def finish(done: Applied | None) -> None:
    """Say what a run ended in; raises CancelledError where it was declined."""
    if done is None:
        raise CancelledError("nothing was applied")
    if done.planned.plan.is_empty:
        click.echo(plan_text(done.planned.plan, done.planned.places), nl=False)
        if done.endpoint is not None:
            click.echo(f"Live at {done.endpoint.url}")
        return
    if done.verdicts:
        _table(done.verdicts)
    if done.report is not None:
        click.echo(f"Report: {done.report}")
    if done.endpoint is not None:
        click.echo(f"\nRelease {done.state.released} is live at {done.endpoint.url}")
        click.echo(f"\n  {curl_line(done.endpoint)}\n")


def curl_line(endpoint: Endpoint) -> str:
    """A request to try, with the key by its variable's name."""
    key = (
        f' -H "Authorization: Bearer ${endpoint.api_key_env}"'
        if endpoint.api_key_env
        else ""
    )
    body = '{"messages":[{"role":"user","content":"Hello"}],"max_tokens":32}'
    return (
        f"curl {endpoint.url}/v1/chat/completions{key}"
        f" -H 'Content-Type: application/json' -d '{body}'"
    )
