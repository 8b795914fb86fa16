"""Where snapshots are taken, and what a plan says of them."""

from deployer.engines.place import narrowed
from deployer.engines.registry import ENGINES
from deployer.planning.graph import snapshot_notes
from deployer.testing import stack
from tests.planning.checking import DROPS, KEEPS, LOCAL, MODAL

ASKED = LOCAL + "snapshot: {}\n"
CANNOT = KEEPS._replace(snapshots=False, why_not="CRIU is not installed", hint="get it")


def notes(text: str, abilities: object = KEEPS) -> list[str]:
    asked = stack(text)
    return list(snapshot_notes(asked, abilities))  # type: ignore[arg-type] # by name


def why_not(text: str) -> str:
    return narrowed(stack(text), KEEPS).why_not


def test_a_machine_that_cannot_says_why_and_what_to_do() -> None:
    cold = "`snapshot`: starts cold, since CRIU is not installed: get it"
    assert notes(ASKED, CANNOT) == [cold]
    assert notes(LOCAL, CANNOT) == []
    assert notes(LOCAL + "snapshot: {enabled: false}\n", CANNOT) == []


def test_mapped_weights_are_told_where_they_are_not_in_the_snapshot() -> None:
    (told,) = notes(ASKED)
    assert told.startswith("`server.mmap`: the snapshot contains no weights")
    assert notes(ASKED.replace("ctx_size: 4096", "mmap: false")) == []
    assert notes(MODAL + "snapshot: {}\n", ENGINES["modal"].abilities) == []


def test_the_local_engine_captures_no_gpu() -> None:
    assert "the memory of a GPU" in why_not(ASKED + "gpu: L4\n")
    assert why_not(ASKED) == ""
    assert narrowed(stack(MODAL), DROPS) == DROPS


def test_the_local_engine_restores_to_ipv4() -> None:
    assert "IPv4" in why_not(ASKED + "local: {host: localhost}\n")
    assert "IPv4" in why_not(ASKED + 'local: {host: "::1"}\n')
    assert why_not(ASKED + "local: {host: 0.0.0.0}\n") == ""
