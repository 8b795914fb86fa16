"""The page about Modal's options is about those of the client that is installed."""

import inspect
from collections.abc import Iterable
from operator import attrgetter

import click
import modal
import pytest
from modal.cli.entry_point import entrypoint_cli

from deployer.stack.fields.model import Stack
from deployer.stack.fields.reference import entries
from scripts.docs.modal_options import OPTIONS

COMMAND = "modal server deploy"


def options_of(command: str) -> Iterable[str]:
    """The options of a command of the client, as they are typed."""
    found: click.Command = entrypoint_cli
    for word in command.split()[1:]:
        assert isinstance(found, click.Group)
        found = found.commands[word]
    return {name.lstrip("-") for it in found.params for name in it.opts if "--" in name}


@pytest.mark.parametrize("call", OPTIONS)
def test_every_option_of_the_client_is_a_field_or_has_a_reason(call: str) -> None:
    if call == COMMAND:
        there = {*options_of(call)}
    else:
        there = {*inspect.signature(attrgetter(call)(modal)).parameters} - {"self"}
    assert {*OPTIONS[call]} == there, "enter it in `scripts/docs/modal_options.py`"


def test_each_says_something_and_names_fields_that_there_are() -> None:
    known = {entry.path for entry in entries()} | {*Stack.model_fields}
    for options in OPTIONS.values():
        for name, said in options.items():
            assert said.fields or said.why, name
            assert {*said.fields} <= known, name


def test_every_field_about_modal_is_the_matter_of_an_option_or_of_a_place() -> None:
    """What no call takes is where the app is, or how long it may wait."""
    named = {it for options in OPTIONS.values() for s in options.values() for it in s}
    stated = {field for it in named if isinstance(it, tuple) for field in it}
    ours = {
        entry.path
        for entry in entries()
        if entry.path.startswith(("modal.", "scaling.")) and entry.path.count(".") == 1
    }
    assert ours - stated == {"modal.endpoint", "modal.workspace"}
