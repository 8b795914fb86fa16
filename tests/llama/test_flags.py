"""Options of llama-server: what each build knows, refuses, renamed, takes."""

import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployer.diagnostics import UNCERTAIN, Severity
from deployer.llama import catalogue as shipped
from deployer.llama.catalogue import (
    Known,
    Takes,
    catalogue,
    every_name,
    life_of,
    problems_of,
)
from deployer.llama.explain import Renamed, diff, explain
from deployer.llama.known.tables import renames
from deployer.planning.argv import words_of
from deployer.stack.fields.examples import SERVER
from deployer.stack.fields.marks import fields_of, leaves
from deployer.stack.fields.server import Server
from deployer.stack.fields.values import JsonValue

BUILDS = shipped._read().builds
READ = Path(__file__).parent.parent / "data" / "server_flags.json"
FLAG = "server.flags.x"


def problem(words: str, build: int | None, path: str = FLAG) -> str:
    """The one problem of these words, as two lines; empty where there is none."""
    found = list(problems_of([(path, words.split())], build))
    assert len(found) <= 1
    return "\n".join(line for f in found for line in (f.what, f.hint) if line)


def words(field: str, value: JsonValue, build: int) -> tuple[str, ...]:
    section = Server.model_validate_json(json.dumps({field: value}))
    return words_of(leaves(section, "server."), build=build)


@pytest.mark.parametrize("build", ["8672", "9763", "10435", "11434"])
def test_the_catalogue_agrees_with_another_reading_of_the_source(build: str) -> None:
    read = json.loads(READ.read_text())["builds"][build]
    found = catalogue(int(build)).by_name
    long = {name: option for name, option in found.items() if name.startswith("--")}
    switches = {n for n, o in long.items() if o.takes is Takes.NOTHING}
    assert switches == set(read["switches"])
    assert set(long) - switches == set(read["with_value"])


def test_no_option_left_and_came_back() -> None:
    """What lies between two builds that know an option is then certain."""
    for name in every_name():
        here = [name in catalogue(build).by_name for build in BUILDS]
        assert sum(one != other for one, other in pairwise(here)) <= 2
        if here[0] and here[-1]:
            assert all(here)


def test_no_help_text_of_upstream_is_shipped() -> None:
    for build in BUILDS:
        hints = [option.hint for option in catalogue(build).options]
        assert max(len(hint.split()) for hint in hints) <= 4


@pytest.mark.parametrize("build", [*BUILDS, 9000, 9200, 10104, 10105, 10877, 10900])
def test_every_typed_field_becomes_words_that_every_build_takes(build: int) -> None:
    """The ranges of builds that the fields of `Server` state are right."""
    groups = [
        (f"server.{field}", words(field, value, build))
        for field, marks in fields_of(Server).items()
        if marks.section is None
        for value in SERVER[f"server.{field}"]
    ]
    assert [it for group in groups for it in problems_of([group], build)] == []


@pytest.mark.parametrize(
    ("field", "build", "rendered"),
    [
        ("mmap", 10104, "--no-mmap"),
        ("mmap", 10105, "--load-mode none"),
        ("mmap", 10878, "--load-mode none"),
        ("ui", 9093, "--no-webui"),
        ("ui", 9246, "--no-ui"),
    ],
)
def test_a_renamed_option_is_written_as_the_build_wants_it(
    field: str, build: int, rendered: str
) -> None:
    assert " ".join(words(field, value=False, build=build)) == rendered


REFUSED: Mapping[tuple[str, int], str] = {
    ("--no-mmap", 10878): (
        "b10878 has no `--no-mmap`: it was removed in b10878\nwrite `load-mode: none`"
    ),
    ("--mlock", 11434): (
        "b11434 has no `--mlock`: it was removed in b10878\n"
        "write `load-mode: mmap+mlock`"
    ),
    ("--direct-io", 10900): (
        "b10900 has no `--direct-io`: it was removed in b10878\nwrite `load-mode: dio`"
    ),
    ("--load-mode none", 9763): (
        "b9763 has no `--load-mode`: it came in b10105\nwrite `mmap: false`"
    ),
    ("--draft 4", 10435): (
        "b10435 refuses `--draft`: it was removed between b8929 and b9093\n"
        "write `spec-draft-n-max: 4`"
    ),
    ("--clear-idle", 8929): (
        "b8929 has no `--clear-idle`: it was removed between b8746 and b8929\n"
        "write `cache-idle-slots: true`"
    ),
    ("--no-clear-idle", 11434): (
        "b11434 has no `--no-clear-idle`: it was removed between b8746 and b8929\n"
        "write `cache-idle-slots: false`"
    ),
    ("--checkpoint-every-n-tokens 9", 9310): (
        "b9310 has no `--checkpoint-every-n-tokens`: it was removed in b9310\n"
        "write `checkpoint-min-step: 9`"
    ),
    ("--ui-config {}", 8672): (
        "b8672 has no `--ui-config`: it came between b9105 and b9246\n"
        "write `webui-config: {}`"
    ),
    ("--reasoning-effort high", 9763): (
        "b9763 has no `--reasoning-effort`: it came between b10240 and b10434\n"
        "use `llama_cpp.tag: b10434` or newer"
    ),
    ("--license", 11434): (
        "b11434 has no `--license`: it was removed between b9310 and b9496\n"
        "leave it out"
    ),
    ("--ctx-sice 4", 10435): (
        "b10435 has no option `--ctx-sice`\ndid you mean `ctx-size`?"
    ),
    ("--frobnicate 4", 10435): "b10435 has no option `--frobnicate`",
    ("--no-metrics", 10435): (
        "`--metrics` has no form that turns it off\nleave it out"
    ),
    ("--no-flash-attn", 10435): (
        "`--flash-attn` has no form that turns it off\nwrite `flash-attn: off`"
    ),
    ("-fa", 10435): (
        "`-fa` takes a value, got none\ngive it one of `on`, `off`, `auto`"
    ),
    ("--keep", 10435): "`--keep` takes a value, got none\ngive it `N`",
    ("--metrics yes", 10435): (
        "`--metrics` takes no value, got `yes`\nwrite `metrics: true`"
    ),
    ("--control-vector-layer-range 1", 10435): (
        "`--control-vector-layer-range` takes 2 values, got 1\ngive it `START END`"
    ),
    ("--ctx-size 4k", 10435): (
        "`--ctx-size` takes an integer, got `4k`\nllama-server would read `4`"
    ),
    ("--n-gpu-layers most", 10435): (
        "`--n-gpu-layers` takes an integer or `auto` or `all`, got `most`"
    ),
    ("--temp warm", 10435): "`--temp` takes a number, got `warm`",
    ("--flash-attn maybe", 10435): (
        "`--flash-attn` takes one of `on`, `off`, `auto`, got `maybe`"
    ),
    ("--cache-type-k q8", 10435): (
        "`--cache-type-k` takes one of `f32`, `f16`, `bf16`, `q8_0`, `q4_0`, `q4_1`, "
        "`iq4_nl`, `q5_0`, `q5_1`, got `q8`\ndid you mean `q8_0`?"
    ),
    ("--split-mode tensor", 8672): (
        "`--split-mode` takes one of `none`, `layer`, `row`, got `tensor`\n"
        "`tensor` came between b8722 and b8746"
    ),
}


@pytest.mark.parametrize(("asked", "build"), REFUSED)
def test_what_llama_server_would_end_on_is_said_with_what_to_write(
    asked: str, build: int
) -> None:
    assert problem(asked, build) == REFUSED[asked, build]


@pytest.mark.parametrize(
    "taken",
    [
        "--ctx-size -1",
        "--ctx_size 4096",
        "--flash-attn 1",
        "--flash-attn -1",
        "--n-gpu-layers all",
        "--temp 1e-3",
        "--top-p .5",
        "--cpu-mask f --metrics",
        "--lora a.gguf --lora b.gguf",
        "--control-vector-layer-range 1 2",
        "--webui",
    ],
)
def test_what_llama_server_takes_is_not_refused(taken: str) -> None:
    assert problem(taken, 10435) == ""


def test_outside_of_the_flags_section_the_hint_is_words_of_the_command_line() -> None:
    assert problem("--no-mmap", 11434, "server.mmap").endswith(
        "write `--load-mode none`"
    )


def doubt(words: str, build: int | None) -> str:
    """The one warning about these words: they are not refused, nor good."""
    (found,) = problems_of([(FLAG, words.split())], build)
    assert (found.severity, found.code) == (Severity.WARNING, UNCERTAIN)
    return found.what


def test_an_option_that_only_one_neighbour_knows_is_uncertain() -> None:
    assert doubt("--spec-draft-sampling greedy", 11370) == (
        "b11370 may not take `--spec-draft-sampling`: it changed between b11349 and"
        " b11393"
    )
    assert "may not take `--draft`" in doubt("--draft 4", 9000)


@settings(deadline=None)  # the first example reads the catalogue
@given(st.integers(8646, 11549), st.sampled_from(sorted(every_name())))
def test_between_two_builds_only_what_is_certain_is_refused(
    build: int, name: str
) -> None:
    """A name is unknown where both neighbours lack it, or its very build is known."""
    around = (
        max(b for b in BUILDS if b <= build),
        min(b for b in BUILDS if b >= build),
    )
    lacking = [name not in catalogue(near).by_name for near in around]
    missing = catalogue(build).find(name) is None
    life = life_of(name)
    assert life is not None
    exact = any(edge and edge.exact for edge in (life.came, life.gone))
    assert missing <= (all(lacking) or (exact and any(lacking)))
    assert all(lacking) <= missing


def test_a_name_never_seen_is_uncertain_on_a_build_newer_than_all_read() -> None:
    """It may have come since, and it may be a slip: neither refused nor good."""
    newer = "b12000 is newer than what is known (b11549, 2026-10)"
    assert doubt("--ctx-sice 4", 12000) == (
        f"no build that was read has `--ctx-sice`, and {newer}"
    )
    assert doubt("--split-mode sideways", 12000).endswith(f"as far as known: {newer}")


@pytest.mark.parametrize("build", [12000, None])
def test_what_was_removed_is_refused_by_newer_builds_and_by_commits(
    build: int | None,
) -> None:
    assert "it was removed in b10878" in problem("--no-mmap", build)


def test_every_rename_names_options_that_some_build_has() -> None:
    for rename in renames():
        new = rename.new.partition(" ")[0]
        assert {rename.old, new or rename.old} <= every_name()


def test_an_option_is_explained_by_any_of_its_names() -> None:
    names = ("fa", "-fa", "flash-attn", "flash_attn", "--flash_attn")
    options = {explain(10434, name).option for name in names}
    assert options == {catalogue(10434).find("--flash-attn")}


def test_a_removed_option_is_explained_with_its_dates_and_its_heir() -> None:
    found = explain(10878, "no-mmap")
    assert (found.known, found.instead) == (Known.NO, ("--load-mode none",))
    assert found.life is not None
    dates = (found.life.deprecated, found.life.gone)
    assert [str(edge) for edge in dates] == ["in b10105", "in b10878"]


def test_an_option_never_seen_is_explained_by_the_nearest() -> None:
    assert explain(10434, "nommap").near == "--no-mmap"


def test_two_builds_differ_in_options_added_removed_and_renamed() -> None:
    found = diff(9763, 11434)
    assert "--reasoning-effort" in [option.name for option in found.added]
    assert "--model-vocoder" in [option.name for option in found.removed]
    assert Renamed("--mmap", "--load-mode mmap") in found.renamed
    assert "--load-mode" not in [option.name for option in found.added]
    assert found.uncertain == ()


def test_a_deprecation_is_a_difference() -> None:
    deprecated = [option.name for option in diff(10001, 10240).deprecated]
    assert deprecated == ["--direct-io", "--mlock", "--mmap"]


def test_a_changed_value_list_and_variable_are_differences() -> None:
    changes = {(c.name, c.part): c.new for c in diff(8672, 9763).changed}
    assert changes["--split-mode", "values"] == "none|layer|row|tensor"
    assert changes["--offline", "env"] == "LLAMA_ARG_OFFLINE"
    assert changes["--webui", "names"] == "--ui, --no-ui"


def test_a_build_newer_than_the_table_may_differ_in_more() -> None:
    assert diff(11434, 12000).beyond.startswith("b12000 is newer than what is known")
    assert not diff(11434, 11549).beyond


def test_a_build_does_not_differ_from_itself() -> None:
    found = diff(10435, 10435)
    parts = (found.added, found.removed, found.renamed, found.changed, found.deprecated)
    assert parts == ((), (), (), (), ())
