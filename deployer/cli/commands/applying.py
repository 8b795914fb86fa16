"""apply, rollback, destroy: the commands that change something."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypedDict, Unpack

import click

from deployer.cli.options import (
    all_stacks,
    engine_option,
    lock_timeout_option,
    locked_option,
    message_option,
    no_cache_option,
    releases,
    since_option,
    stack_argument,
    stream_option,
    the_stack,
    yes_option,
)
from deployer.cli.output import refuse_without_terminal
from deployer.cli.progress_display import Show
from deployer.cli.runs import (
    Run,
    Stream,
    asked_for,
    asker,
    everything,
    evidence,
    finish,
)
from deployer.errors import CancelledError, UsageError
from deployer.show.text import plan_text
from deployer.usecases.apply import destroy, rollback
from deployer.usecases.context.settings import Options, Pending, settings_of
from deployer.usecases.plan import Planned
from deployer.usecases.plan_file import (
    SavedPlan,
    in_folder,
    is_plan_file,
    read,
    stack_of,
)


class _Asked(TypedDict):
    """The options that say how a stack is read, and what of it is done."""

    engine: str | None
    locked: bool
    refresh: bool
    cached: bool
    again: bool
    workspace: str
    pending: str
    lock_timeout: float


@click.command("apply")
@click.argument(
    "stack", type=click.Path(path_type=Path), metavar="[STACK]", required=False
)
@click.argument("plan_file", type=click.Path(path_type=Path), required=False)
@engine_option
@locked_option
@no_cache_option
@click.option(
    "--refresh",
    is_flag=True,
    help="Observe what runs first, also where that takes requests.",
)
@click.option(
    "--pending",
    type=click.Choice([it.value for it in Pending]),
    default=Pending.ADOPT.value,
    show_default=True,
    help="Handle a run that did not end: settle it and go on, settle it"
    " alone, or refuse.",
)
@click.option(
    "--again", is_flag=True, help="Apply a release again that was rolled back."
)
@click.option(
    "--workspace",
    default="",
    metavar="NAME",
    help="Move a stack to this Modal workspace; what runs in the other is left there.",
)
@since_option
@click.option(
    "--allow-destroy",
    is_flag=True,
    help="With --changed-since: also destroy stacks that no file declares any more.",
)
@click.option(
    "--approved",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Look at every stack, and do what one of these saved plans contains.",
)
@message_option
@lock_timeout_option
@yes_option
@stream_option
def apply_command(
    stack: Path | None,
    plan_file: Path | None,
    since: str | None,
    approved: Path | None,
    *,
    allow_destroy: bool,
    yes: bool,
    as_json: bool,
    **asked: Unpack[_Asked],
) -> None:
    """Carry out the plan: make, prove with gates, promote.

    You are asked first.  Ctrl-C ends the run cleanly; running `apply` again carries on.

    A saved plan (`plan --out`) may follow the stack, or stand alone: then that plan or
    less is carried out without a question; exit 7 if anything changed since.

    With `--approved`, every stack is compared with what is deployed, and changed where
    the saved plans contain each change; exit 7 where there is more, nothing done there.

    \b
    Example:
      deployer apply stacks/demo.yaml --yes
      deployer apply demo.plan
      deployer apply stacks --approved plans/
      deployer apply stacks --changed-since HEAD~1 --yes --json
    """
    waits = asked["lock_timeout"]
    settings = replace(settings_of(), lock_timeout=waits, base=since or "")
    run = Run(_options(asked), settings, saved=None, yes=yes)
    if approved is not None:
        _refuse_beside_approved(plan_file, since)
        subjects = everything((stack,) if stack else all_stacks(), settings)
        run = replace(run, yes=True, approved=in_folder(approved))
    else:
        stack, saved = _named(stack, plan_file, since)
        subjects = asked_for(stack, since, allow_destroy=allow_destroy)
        run = run if saved is None else run.held_to(saved)
    run.carry_out(subjects, f"deployer apply {stack or ''}", as_json=as_json)


def _named(
    stack: Path | None, plan_file: Path | None, since: str | None
) -> tuple[Path, SavedPlan | None]:
    """Return the stack of a command line, and the plan that is to be carried out."""
    if stack is None or (since is None and stack.is_dir()):
        stack = the_stack(named=stack)
    if plan_file is None and is_plan_file(stack):
        stack, plan_file = Path(), stack
    saved = None if plan_file is None else read(plan_file)
    if saved is not None and stack == Path():
        stack = stack_of(saved)
    return stack, saved


def _refuse_beside_approved(plan_file: Path | None, since: str | None) -> None:
    if plan_file is not None or since is not None:
        raise UsageError(
            "`--approved` looks at every stack of a path",
            hint="leave out the plan file and `--changed-since`",
        )


def _options(asked: _Asked) -> Options:
    return Options(
        asked["engine"],
        locked=asked["locked"],
        refresh=asked["refresh"],
        observe=True,
        pending=Pending(asked["pending"]),
        cached=asked["cached"],
        again=asked["again"],
        workspace=asked["workspace"],
    )


@click.command("rollback")
@stack_argument
@click.argument("release", type=int, required=False, shell_complete=releases)
@click.option(
    "--now",
    is_flag=True,
    help="Emergency: run only the gates that generate nothing (health, auth, …).",
)
@message_option
@lock_timeout_option
@yes_option
@stream_option
def rollback_command(
    stack: Path,
    release: int | None,
    lock_timeout: float,
    *,
    now: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Promote an earlier release again, after its gates pass.

    Without a number: the one before the live release.  Nothing is rebuilt.  The
    rollback stays: `apply` does not repeat what was rolled back until the stack
    changes, or with `--again`.

    \b
    Example:
      deployer rollback stacks/prod.yaml 3
      deployer rollback stacks/prod.yaml --now --yes
    """
    if release is None and str(stack).isdigit() and not stack.exists():
        stack, release = the_stack(), int(str(stack))
    settings = replace(settings_of(), lock_timeout=lock_timeout)
    command = f"deployer rollback {stack} {release or ''}".rstrip()
    if as_json:
        stream = Stream(command)
        do = partial(rollback, stack, settings, release, stream, now=now)
        stream.carry_out_alone(stack, do, yes=yes)
        return
    show = Show(command)
    with evidence(show), show:
        confirm = asker(show, yes=yes)
        done = rollback(stack, settings, release, show, confirm, now=now)
    finish(done, stack, show)
    if now:
        click.echo(f"Only fast gates ran: `deployer check {stack}` runs all of them.")


@click.command("destroy", short_help="Stop and remove what runs.")
@stack_argument
@click.option(
    "--artefacts",
    is_flag=True,
    help="Also remove builds and weights that no other stack needs.",
)
@message_option
@lock_timeout_option
@yes_option
@stream_option
def destroy_command(
    stack: Path, lock_timeout: float, *, artefacts: bool, yes: bool, as_json: bool
) -> None:
    """Stop and remove what runs, and its snapshots; builds and weights stay.

    \b
    Example:
      deployer destroy stacks/demo.yaml
    """
    settings = replace(settings_of(), lock_timeout=lock_timeout)
    if as_json:
        stream = Stream(f"deployer destroy {stack}")
        do = partial(destroy, stack, settings, stream, artefacts=artefacts)
        stream.carry_out_alone(stack, do, yes=yes)
        return

    def confirm(planned: Planned) -> bool:
        name = planned.plan.stack
        show.pause()
        click.echo(plan_text(planned.plan, planned.places, steps=True))
        click.echo(
            "Snapshots are removed, and with --artefacts also what no other stack"
            " needs.\n"
            if artefacts
            else "Snapshots are removed; `deployer store gc` removes what stays.\n"
        )
        if yes:
            return True
        refuse_without_terminal("add `--yes` once the plan above is what you want")
        question = f"Type the stack's name ({name}) to destroy it"
        answer = click.prompt(question, default="", show_default=False)
        return bool(answer == name)

    with Show(f"deployer destroy {stack}") as show:
        done = destroy(stack, settings, show, confirm, artefacts=artefacts)
    if done is None:
        raise CancelledError("nothing was destroyed")
    click.echo(f"Destroyed: nothing of `{done.state.stack}` runs any more.")
