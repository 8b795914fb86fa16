"""state: what was deployed, as it is recorded, carried elsewhere and mended."""

import json
from pathlib import Path

import click

from deployer.artefacts.json_files import encoded
from deployer.cli.options import json_option, named_stack_argument, stack_argument
from deployer.cli.output import end, json_result
from deployer.errors import UsageError
from deployer.planning.events import Event
from deployer.spelling import harmless
from deployer.stack.fields.values import JsonValue
from deployer.state.files import to_json
from deployer.usecases import states
from deployer.usecases.context.settings import settings_of
from deployer.usecases.releases import hold


@click.group("state")
def state_command() -> None:
    """Show, move and repair recorded states.

    It lies beside the stacks, or where `deployer.yaml` or DEPLOYER_STATE_URL say.

    \b
    Example:
      deployer state list stacks
    """


@state_command.command("list")
@click.argument(
    "folder",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=Path("stacks"),
)
@json_option
def state_list(folder: Path, *, as_json: bool) -> None:
    """List the stacks of a folder that have a state.

    \b
    Example:
      deployer state list stacks
    """
    names = states.states_in(folder, settings_of())
    for name in names:
        if as_json:
            json_result({"type": "state", "stack": name})
        else:
            click.echo(name)
    if not names and not as_json:
        click.echo(f"no stack of `{folder}` has a state", err=True)


@state_command.command("show")
@stack_argument
def state_show(stack: Path) -> None:
    """Print the state of a stack as JSON.

    \b
    Example:
      deployer state show stacks/demo.yaml
    """
    click.echo(to_json(states.pull(stack, settings_of(), None)), nl=False)


@state_command.command("versions", short_help="List the retained versions of a state.")
@stack_argument
@json_option
def state_versions(stack: Path, *, as_json: bool) -> None:
    """List the retained versions of a state; the last one is the stored one.

    \b
    Example:
      deployer state versions stacks/demo.yaml
    """
    found = states.versions(stack, settings_of())
    for version in found:
        if as_json:
            json_result(
                {
                    "type": "version_of_state",
                    "serial": version.serial,
                    "release": version.release,
                    "whole": version.whole,
                }
            )
            continue
        what = f"release {version.release}" if version.whole else "damaged"
        click.echo(f"{version.serial:>6}  {what}")


@state_command.command("pull")
@stack_argument
@click.option("--serial", type=int, metavar="N", help="A retained version of it.")
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="Write to a file."
)
@json_option
def state_pull(
    stack: Path, serial: int | None, out: Path | None, *, as_json: bool
) -> None:
    """Copy the state of a stack, or a retained version of it, to a file.

    \b
    Example:
      deployer state pull stacks/demo.yaml --out demo.state.json
    """
    found = states.pull(stack, settings_of(), serial)
    about: dict[str, JsonValue] = {"stack": found.stack, "serial": found.serial}
    if out is None:
        about["state"] = json.loads(text := to_json(found))
        end(text.rstrip("\n"), as_json=as_json, kind="pulled", **about)
        return
    states.write_copy(out, found)
    text = f"serial {found.serial} of `{found.stack}` is in {out}"
    end(text, as_json=as_json, kind="pulled", **about, file=str(out))


@state_command.command("push", short_help="Store the state in a file.")
@named_stack_argument
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--force",
    is_flag=True,
    help="Store it as the next version all the same.",
)
@json_option
def state_push(stack: Path, file: Path, *, force: bool, as_json: bool) -> None:
    """Store the state in FILE; another lineage or an older serial is refused.

    \b
    Example:
      deployer state push stacks/demo.yaml errored.demo.state.json
    """
    stored = states.push(stack, settings_of(), file, force=force)
    text = f"`{stored.stack}` is at serial {stored.serial}"
    name, serial = stored.stack, stored.serial
    end(text, as_json=as_json, kind="pushed", stack=name, serial=serial)


@state_command.command("migrate", short_help="Copy state and history to another place.")
@stack_argument
@click.option("--to", "url", required=True, metavar="URL", help="The other place.")
@json_option
def state_migrate(stack: Path, url: str, *, as_json: bool) -> None:
    """Copy state and history to another place; both are locked meanwhile.

    The old one stays, and is used until `deployer.yaml` or DEPLOYER_STATE_URL name
    the new one.

    \b
    Example:
      deployer state migrate stacks/demo.yaml --to s3://states/llama?region=eu-west-1
    """
    there = states.migrate(stack, settings_of(), url)
    text = (
        f"copied to {there.place}\n"
        "name it in `deployer.yaml` or DEPLOYER_STATE_URL to use it from now on"
    )
    end(text, as_json=as_json, kind="migrated", to=str(there.place))


@state_command.command("repair", short_help="Mend a state that cannot be read.")
@stack_argument
@json_option
def state_repair(stack: Path, *, as_json: bool) -> None:
    """Put the newest whole version in the place of a state that cannot be read.

    A state that can be read is not changed; the damaged one stays beside it.

    \b
    Example:
      deployer state repair stacks/demo.yaml
    """
    found = states.repair(stack, settings_of())
    if found is None:
        text = "nothing to repair: the state can be read"
        end(text, as_json=as_json, kind="repaired", serial=None)
        return
    text = (
        f"`{found.stack}` goes on from serial {found.serial}\n"
        "the next `apply` fills in what it does not know"
    )
    end(text, as_json=as_json, kind="repaired", serial=found.serial)


@state_command.command("unlock")
@named_stack_argument
@click.argument("lock_id")
@json_option
def state_unlock(stack: Path, lock_id: str, *, as_json: bool) -> None:
    """Break the lock LOCK_ID that a run on another machine left.

    \b
    Example:
      deployer state unlock stacks/demo.yaml 3f9a1c
    """
    holder = states.store_of(stack, settings_of()).unlock(lock_id)
    text = f"unlocked; it was held by {holder}"
    end(text, as_json=as_json, kind="unlocked", holder=str(holder))


@state_command.command("take-over", short_help="Forget the servers of another machine.")
@named_stack_argument
@click.argument("host")
@json_option
def state_take_over(stack: Path, host: str, *, as_json: bool) -> None:
    """Forget what HOST ran of a stack, so that this machine can deploy it.

    Nothing is stopped on HOST: do this once that machine is gone, or nothing of the
    stack runs there.  Releases stay for a rollback.

    \b
    Example:
      deployer state take-over stacks/demo.yaml gpu-1
    """
    states.take_over(stack, settings_of(), host)
    text = f"nothing is live; `deployer apply {stack}` deploys it here"
    end(text, as_json=as_json, kind="taken_over", host=host)


@state_command.command("hold", short_help="Block applies to a stack, with a reason.")
@stack_argument
@click.option("--why", default="", metavar="TEXT", help="State the reason; needed.")
@click.option("--end", is_flag=True, help="End the hold.")
@json_option
def state_hold(stack: Path, why: str, *, end: bool, as_json: bool) -> None:
    """Put a stack on hold: `plan` says so, and `apply` ends in exit 5 and does nothing.

    `rollback`, `destroy` and the server are not held.  Days on which a whole project
    is frozen are in its `deployer.yaml`: `freeze`.

    \b
    Example:
      deployer state hold stacks/prod.yaml --why "black friday"
      deployer state hold stacks/prod.yaml --end
    """
    if end == bool(why.strip()):
        raise UsageError("write either `--why TEXT` or `--end`")
    state = hold(stack, settings_of(), why.strip(), _complain)
    if as_json:
        json_result({"type": "hold", "stack": state.stack, "hold": encoded(state.hold)})
    elif state.hold is None:
        click.echo(f"`{state.stack}` is on hold no more")
    else:
        click.echo(f"`{state.stack}` is on hold: `deployer hold {stack} --end` ends it")


def _complain(event: Event) -> None:
    click.echo(harmless(f"note: {getattr(event, 'text', '')}"), err=True)
