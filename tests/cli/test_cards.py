"""Stacks that are planned together, and the GPU of this machine that they share."""

from pathlib import Path

import pytest

from deployer.cli.for_each_stack import refuse_crowded
from deployer.errors import UsageError
from deployer.planning.graph import expand, needing
from deployer.planning.plan import Fit
from deployer.testing import resolved, stack
from deployer.usecases.reading.prepared import Prepared
from tests.planning.checking import LOCAL, PLAIN, but

CARD = LOCAL + "gpu: L4\n"
FIRST = but(CARD, "server:\n", "server:\n  device: [CUDA0]\n")
SECOND = but(CARD, "server:\n", "server:\n  device: [CUDA1]\n")
VISIBLE = but(CARD, "server:\n", "server:\n  env: {CUDA_VISIBLE_DEVICES: 0}\n")
BOTH = but(CARD, "server:\n", "server:\n  device: [CUDA0, CUDA1]\n")


def prepared(text: str, need: int | None, *unsure: str) -> Prepared:
    """A stack that needs so many GB of a GPU of 24; None: not known."""
    read = stack(text)
    graph = expand(read, resolved(read), PLAIN)
    parts = (("weights", int((need or 0) * 1e9)),)
    fit = None if need is None else Fit("L4", int(24e9), parts, unsure=unsure)
    return Prepared(read.name, read.engine, needing(graph, fit), {}, (), fit)


def refuse(*stacks: Prepared) -> None:
    refuse_crowded({Path(f"{n}.yaml"): it for n, it in enumerate(stacks)})


@pytest.mark.parametrize("other", [FIRST, VISIBLE])
def test_a_gpu_that_two_stacks_do_not_fit_in_is_refused(other: str) -> None:
    with pytest.raises(UsageError) as raised:
        refuse(prepared(FIRST, 16), prepared(other, 9))
    said = "`0.yaml` and `1.yaml` use CUDA0, and need 25.0 GB of its 24.0 GB"
    assert raised.value.message == said


@pytest.mark.parametrize(
    ("one", "other"),
    [(FIRST, SECOND), (FIRST, LOCAL), (LOCAL, LOCAL), (SECOND, VISIBLE)],
)
def test_stacks_on_other_gpus_do_not_meet(
    one: str, other: str, capsys: pytest.CaptureFixture[str]
) -> None:
    refuse(prepared(one, 16), prepared(other, 16))
    assert capsys.readouterr().err == ""


def test_what_fits_together_is_fine(capsys: pytest.CaptureFixture[str]) -> None:
    refuse(prepared(FIRST, 16), prepared(FIRST, 8))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("other", "where"),
    [
        (prepared(FIRST, None), "CUDA0"),
        (prepared(FIRST, 9, "the draft"), "CUDA0"),
        (prepared(BOTH, 30), "CUDA0"),
        (prepared(CARD, 9), "CUDA0"),
    ],
)
def test_what_is_unknown_is_a_note(
    other: Prepared, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    refuse(prepared(FIRST, 16), other)
    said = f"use {where}; whether all of them fit is unknown\n"
    assert capsys.readouterr().err == f"note: `0.yaml` and `1.yaml` {said}"


def test_stacks_that_name_no_gpu_share_those_that_there_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    refuse(prepared(CARD, 16), prepared(CARD, 16))
    said = "use every GPU; whether all of them fit is unknown\n"
    assert capsys.readouterr().err == f"note: `0.yaml` and `1.yaml` {said}"
