"""From a stack to its resources: what each holds, and where one is captured."""

from dataclasses import replace

import pytest

from deployer.engines.place import narrowed
from deployer.engines.registry import Abilities
from deployer.planning.graph import (
    PLACE,
    architectures_of,
    expand,
    snapshot_notes,
    takes_snapshot,
)
from deployer.planning.resources import Graph
from deployer.stack.fields.model import architecture_of
from deployer.testing import facts, stack
from tests.planning.checking import KEEPS, LOCAL, MODAL, SNAPSHOT, but

TEMPLATE_DIGEST = "server.chat_template.sha256"
COPIES = Abilities(snapshots=True, snapshot_keeps_maps=False)
ONE_GPU = Abilities(snapshots=True, gpus_in_snapshot=1)
COLD = Abilities(snapshots=False, snapshot_keeps_maps=False)
AUTO = MODAL + "snapshot: {}\n"


def graph(text: str, abilities: Abilities = KEEPS) -> Graph:
    return expand(stack(text), facts(), abilities)


def argv(text: str, abilities: Abilities) -> list[object]:
    words = graph(text, abilities)["demo/server"].spec["argv"]
    assert isinstance(words, list)
    return [*words]


def stated(value: str) -> str:
    return but(SNAPSHOT, "ctx_size: 4096", f"ctx_size: 4096, mmap: {value}")


def test_a_captured_model_is_read_where_the_engine_keeps_no_maps() -> None:
    assert "--no-mmap" in argv(SNAPSHOT, COPIES)
    assert "--no-mmap" not in argv(SNAPSHOT, KEEPS)
    assert "--no-mmap" not in argv(MODAL, COPIES)
    assert "--no-mmap" not in argv(SNAPSHOT, COLD)
    assert argv(stated("false"), COPIES).count("--no-mmap") == 1
    assert "--no-mmap" not in argv(stated("true"), COPIES)


@pytest.mark.parametrize(
    ("text", "abilities", "captured"),
    [
        (AUTO, KEEPS, True),
        (AUTO, ONE_GPU, True),
        (AUTO, Abilities(snapshots=False), False),
        (MODAL, KEEPS, False),
        (but(AUTO, "gpu: L4", 'gpu: "L4:2"'), KEEPS, True),
        (but(AUTO, "gpu: L4", 'gpu: "L4:2"'), ONE_GPU, False),
        (but(AUTO, "gpu: L4", 'gpu: [L4, "L4:2"]'), ONE_GPU, False),
        (but(AUTO, "snapshot: {}", "snapshot: {gpu: false}"), ONE_GPU, False),
        (but(AUTO, "snapshot: {}", "snapshot: {gpu: false}"), KEEPS, True),
        (but(AUTO, "snapshot: {}", "snapshot: {gpu: true}"), ONE_GPU, True),
        (LOCAL + "snapshot: {}\n", ONE_GPU, True),
        (but(AUTO, "ctx_size: 4096", "mmap: true"), COPIES, False),
        (but(AUTO, "ctx_size: 4096", "mmap: true"), KEEPS, True),
        (but(AUTO, "ctx_size: 4096", "mmap: false"), COPIES, True),
        (but(AUTO, "server: {ctx_size: 4096}\n", ""), COPIES, True),
        # Asked for in so many words, it is taken whatever it costs.
        (stated("true"), COPIES, True),
    ],
)
def test_a_snapshot_is_taken_where_the_engine_can(
    text: str,
    abilities: Abilities,
    captured: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    assert takes_snapshot(stack(text), abilities) is captured
    assert ("demo/snapshot" in graph(text, abilities)) is captured


def test_a_commit_takes_its_number_from_the_lock_file() -> None:
    text = but(LOCAL, "tag: b9763, package: llama-bin==1.0", f"tag: {'a' * 40}")
    text = but(text, ", alias: tiny", "")
    known = facts()
    old, new = (
        expand(
            stack(but(text, "ctx_size: 4096", "mmap: false")),
            replace(known, build=replace(known.build, about={"number": number})),
            KEEPS,
        )["demo/server"].spec["argv"]
        for number in (9763, 11434)
    )
    assert old == ["--no-mmap"]
    # What keeps pages of other sites away is known to newer builds only.
    assert new == ["--cors-origins", "localhost", "--load-mode", "none"]


@pytest.mark.parametrize("text", [MODAL, SNAPSHOT])
def test_the_content_of_a_template_is_part_of_what_runs(text: str) -> None:
    kind = "snapshot" if text == SNAPSHOT else "server"
    own = but(text, "ctx_size: 4096", "chat_template: mine.jinja")
    one, other, none = (
        expand(stack(own), replace(facts(), inputs=inputs), KEEPS)[f"demo/{kind}"]
        for inputs in ({TEMPLATE_DIGEST: "1"}, {TEMPLATE_DIGEST: "2"}, {})
    )
    assert (one.fields[TEMPLATE_DIGEST], other.fields[TEMPLATE_DIGEST]) == ("1", "2")
    assert TEMPLATE_DIGEST not in none.fields
    assert len({one.key, other.key, none.key}) == 3


def test_pictures_of_a_warm_up_are_part_of_its_memory_and_nothing_else_is() -> None:
    shown = "enabled: true, warmup: [{prompt: See, image: a.png}]"
    inputs = {"snapshot.warmup.a.png": "d", "llama_cpp.tag": "b1"}
    text = but(SNAPSHOT, "enabled: true", shown)
    made = expand(stack(text), replace(facts(), inputs=inputs), KEEPS)
    fields = made["demo/snapshot"].fields
    assert fields["snapshot.warmup.a.png"] == "d"
    assert "llama_cpp.tag" not in fields


def test_a_snapshot_knows_how_its_server_is_started() -> None:
    text = LOCAL + (
        "snapshot: {enabled: true}\nlocal: {port: 8080}\nrollout: {keep: 5}\n"
        "auth: {api_key: {env: KEY}}\n"
    )
    served = graph(text)["demo/snapshot"].spec["served"]
    assert served == {
        "auth.api_key.env": "KEY",
        "local.drain": "30s",
        "local.host": "127.0.0.1",
        "local.port": 8080,
        "local.start_timeout": "5m",
    }


def test_an_engine_with_environments_names_its_own() -> None:
    placed = "modal: {environment: staging}\n"
    assert {it.spec[PLACE] for it in graph(MODAL + placed).values()} == {"staging"}
    for text in (MODAL, MODAL + "modal: {cpu: 4}\n", LOCAL + placed):
        assert all(PLACE not in it.spec for it in graph(text).values())
    assert all(it.spec["argv"] for it in [graph(MODAL + placed)["demo/server"]])


def test_an_artefact_holds_all_that_is_needed_to_make_it() -> None:
    known = facts()
    node = graph(but(MODAL, "quant: Q4_K_M", "quant: Q4_K_M, hub_secret: hub"))
    assert node["demo/weights"].spec == {
        "source": "path",
        "identity": known.weights.identity,
        "where": known.weights.where,
        "about": known.weights.about,
    }
    # A field of the model that is only noted stays with the model.
    assert node["demo/weights"].fields["model.hub_secret"] == "hub"
    assert "model.hub_secret" not in node["demo/server"].fields


def test_a_build_is_compiled_once_for_each_architecture() -> None:
    several = but(MODAL, "gpu: L4", "gpu: [L40S, H100, L4]")
    wanted = sorted({architecture_of(name) for name in ("L40S", "H100", "L4")})
    assert architectures_of(stack(several)) == tuple(wanted)
    assert architectures_of(stack(MODAL)) == (architecture_of("L4"),)
    assert architectures_of(stack(LOCAL)) == ()


def test_the_local_engine_says_why_it_takes_no_snapshot_of_a_stack() -> None:
    gpu = narrowed(stack(LOCAL + "gpu: L4\n"), KEEPS)
    assert gpu == Abilities(
        snapshots=False,
        why_not="the memory of a GPU is not captured by the local engine",
    )
    host = narrowed(stack(LOCAL + "local: {host: localhost}\n"), KEEPS)
    assert host == Abilities(
        snapshots=False,
        why_not="a server is restored to an IPv4 address only",
        hint="write the address of `local.host` in digits",
    )
    assert narrowed(stack(LOCAL), KEEPS) == KEEPS
    assert narrowed(stack(MODAL), KEEPS) == KEEPS
    assert narrowed(stack(LOCAL + "gpu: L4\n"), COLD) == COLD


def test_notes_end_where_there_is_nothing_to_do() -> None:
    asked = stack(LOCAL + "snapshot: {}\n")
    cannot = Abilities(snapshots=False, why_not="CRIU is not installed")
    assert [*snapshot_notes(asked, cannot)] == [
        "`snapshot`: starts cold, since CRIU is not installed"
    ]
    (mapped,) = snapshot_notes(asked, KEEPS)
    assert mapped == (
        "`server.mmap`: the snapshot contains no weights; the model file is pinned in"
        " it by its hash, and has to stay where it is"
    )
