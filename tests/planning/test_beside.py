"""Weights beside the model: each by its role, from the stack to the command line."""

import re
from dataclasses import replace

import pytest

from deployer.engines.registry import Abilities
from deployer.planning.argv import command_line, scales_of, words_of
from deployer.planning.graph import expand
from deployer.planning.plan import Action
from deployer.planning.resources import Graph
from deployer.stack.fields.marks import leaves
from deployer.testing import resolved, stack
from tests.planning.checking import LOCAL, PLAIN, but, check, planned

SWAPS = Abilities(snapshots=False, swaps_adapters=True)
CAPTURES = Abilities(snapshots=True, swaps_adapters=True)
FULL = but(
    LOCAL,
    "alias: tiny}",
    "alias: tiny, draft: {path: d.gguf}, mmproj: {url: 'https://one.test/p.gguf'},"
    " lora: [{path: a.gguf, scale: 0.5}, {path: b.gguf}],"
    " control_vectors: [{path: v.gguf, scale: 2}]}",
).replace("ctx_size", "speculative: {type: draft-simple}\n  ctx_size")


def graph(text: str, abilities: Abilities = SWAPS) -> Graph:
    found = stack(text)
    return expand(found, resolved(found), abilities)


def test_each_role_is_a_resource_that_the_server_is_made_from() -> None:
    found = graph(FULL)
    roles = [node.role for node in found.values()]
    beside = ["mmproj", "draft", "lora-0", "lora-1", "control-vectors-0"]
    assert roles == ["build", "weights", *beside, "server"]
    server = found["demo/server"]
    assert [*server.needs] == ["build", "weights", *beside]
    assert found["demo/lora-0"].fields == {"model.lora.0.path": "a.gguf"} | {
        k: v for k, v in found["demo/lora-0"].fields.items() if k.startswith("lock.")
    }


@pytest.mark.parametrize(
    ("old", "new", "role"),
    [
        ("d.gguf", "other.gguf", "draft"),
        ("p.gguf", "other.gguf", "mmproj"),
        ("b.gguf", "other.gguf", "lora-1"),
        ("v.gguf", "other.gguf", "control-vectors-0"),
    ],
)
def test_another_file_of_a_role_replaces_it_and_the_server_alone(
    old: str, new: str, role: str
) -> None:
    plan = planned(FULL, but(FULL, old, new), abilities=SWAPS)
    moved = [it.role for it in plan.changes if it.action is Action.REPLACE]
    assert moved == [role, "server"]


def test_a_replaced_draft_is_shown_by_its_role() -> None:
    check(
        FULL,
        but(FULL, "d.gguf", "other.gguf"),
        """\
  ± draft             draft.gguf · 5.0 MB                             re-fetch
      model.draft.path   d.gguf → other.gguf
  ± server            http://127.0.0.1:8080 · tiny                    redeploy
      because draft is replaced
  ◌ gates    1 runs on the candidate before promotion: health
Plan: 1 to fetch, 1 to deploy.
""",
        abilities=SWAPS,
    )


def test_the_strength_of_an_adapter_changes_in_place_where_the_engine_can() -> None:
    other = but(FULL, "scale: 0.5", "scale: 0.8")
    plan = planned(FULL, other, abilities=SWAPS)
    (change,) = (it for it in plan.changes if it.action is not Action.KEEP)
    assert (change.role, change.action) == ("server", Action.UPDATE)
    assert graph(FULL)["demo/server"].key == graph(other)["demo/server"].key


@pytest.mark.parametrize("abilities", [PLAIN, CAPTURES])
def test_elsewhere_it_restarts_the_server_and_is_the_reason(
    abilities: Abilities,
) -> None:
    text = FULL + "snapshot: {enabled: true}\n" * abilities.snapshots
    other = but(text, "scale: 0.5", "scale: 0.8")
    plan = planned(text, other, abilities=abilities)
    moved = {it.role for it in plan.changes if it.action is Action.REPLACE}
    assert "server" in moved
    paths = {r.path for it in plan.changes for r in it.reasons}
    assert "model.lora.0.scale" in paths


def test_the_strength_of_a_control_vector_restarts_the_server() -> None:
    plan = planned(FULL, but(FULL, "scale: 2", "scale: 3"), abilities=SWAPS)
    assert plan.changes[-1].action is Action.REPLACE


def test_a_server_that_starts_cold_has_the_strength_that_was_captured() -> None:
    found = graph(FULL + "snapshot: {enabled: true}\n", CAPTURES)["demo/server"]
    assert scales_of(found.fields, found.spec) == {
        "lora-0": 0.5,
        "control-vectors-0": 2.0,
    }


def test_adapters_keep_their_order_beyond_ten() -> None:
    files = {f"lora-{n}": f"{n}.gguf" for n in reversed(range(11))}
    words = command_line(
        "p",
        (),
        model="m",
        beside=files,
        scales={},
        files=str,
        host="h",
        port=1,
        key_file=None,
    )
    stated = words[words.index("--lora-scaled") + 1]
    assert re.findall(r"(\d+)\.gguf", stated) == [str(n) for n in range(11)]


SPEC = but(LOCAL, "  ctx_size: 4096", "  speculative: {TYPE}")


@pytest.mark.parametrize(
    ("stated", "build", "words"),
    [
        ("type: draft-simple, n_max: 8", 8672, "--draft-max 8"),
        (
            "type: draft-simple, n_max: 8, p_min: 0.5",
            9093,
            "--spec-draft-n-max 8 --spec-draft-p-min 0.5",
        ),
        (
            "type: draft-mtp, n_max: 3, n_gpu_layers: all",
            11434,
            "--spec-type draft-mtp --spec-draft-n-max 3 --spec-draft-ngl all",
        ),
        (
            "type: ngram-mod, n_max: 64, n_min: 48, n_match: 24",
            8672,
            (
                "--spec-type ngram-mod --draft-max 64 --draft-min 48"
                " --spec-ngram-size-n 24"
            ),
        ),
        (
            "type: ngram-mod, n_max: 64, n_min: 48, n_match: 24",
            11434,
            (
                "--spec-type ngram-mod --spec-ngram-mod-n-max 64"
                " --spec-ngram-mod-n-min 48 --spec-ngram-mod-n-match 24"
            ),
        ),
        (
            "type: ngram-map-k4v, size_n: 12, size_m: 48, min_hits: 2",
            11434,
            (
                "--spec-type ngram-map-k4v --spec-ngram-map-k4v-size-n 12"
                " --spec-ngram-map-k4v-size-m 48 --spec-ngram-map-k4v-min-hits 2"
            ),
        ),
        (
            "type: ngram-simple, size_n: 12",
            8672,
            "--spec-type ngram-simple --spec-ngram-size-n 12",
        ),
        ("type: ngram-cache", 11434, "--spec-type ngram-cache"),
    ],
)
def test_speculative_decoding_is_spelled_as_the_build_and_the_type_want(
    stated: str, build: int, words: str
) -> None:
    found = stack(SPEC.replace("TYPE", stated))
    typed = [it for it in leaves(found) if it.path.startswith("server.")]
    assert words_of(typed, build=build) == tuple(words.split())


def test_a_part_that_goes_is_no_longer_asked_for() -> None:
    without = FULL.replace(", {path: b.gguf}", "")
    plan = planned(FULL, without, abilities=SWAPS)
    fates = {it.role: it.action for it in plan.changes}
    assert fates["lora-1"] is Action.DELETE
    assert fates["server"] is Action.REPLACE


def test_an_update_of_fields_is_what_a_restart_reads() -> None:
    server = graph(FULL)["demo/server"]
    later = replace(server, fields={**server.fields, "model.lora.0.scale": 0.8})
    assert scales_of(later.fields, later.spec)["lora-0"] == 0.8
