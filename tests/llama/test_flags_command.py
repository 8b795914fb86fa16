"""`deployer explain flag`: what a person asks about options, and reads."""

import json
from collections.abc import Sequence

import pytest
from click.testing import CliRunner

from deployer.cli.main import main
from deployer.errors import UsageError


def printed(*arguments: str) -> str:
    words = ("explain", "flag", *arguments)
    done = CliRunner().invoke(main, words, catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def shown(*arguments: str) -> Sequence[dict[str, object]]:
    results: Sequence[dict[str, object]]
    results = json.loads(printed(*arguments, "--json"))["results"]
    return results


def test_a_removed_option_is_explained_with_what_to_write() -> None:
    assert (
        printed("no-mmap", "--at", "b10878")
        == """\
--no-mmap on b10878: removed
  write         --load-mode none
  in a stack    server.mmap, written as the build wants it
  names         --mmap, --no-mmap
  takes         no value
  environment   LLAMA_ARG_MMAP
  deprecated    in b10105
  removed       in b10878
"""
    )


def test_a_known_option_is_explained_with_the_values_it_takes() -> None:
    assert (
        printed("n-gpu-layers", "--at", "b10434")
        == """\
--n-gpu-layers on b10434: known
  in a stack    server.n_gpu_layers, written as the build wants it
  names         -ngl, --gpu-layers, --n-gpu-layers
  takes         an integer or `auto` or `all`
  default       auto
  environment   LLAMA_ARG_N_GPU_LAYERS
"""
    )


@pytest.mark.parametrize(
    ("build", "name", "answer"),
    [
        ("b9763", "load-mode", "not there yet"),
        ("b10240", "mlock", "deprecated"),
        ("b10434", "draft", "removed"),
        ("b10434", "nommap", "no build that was read has it"),
        ("b9000", "draft", "uncertain: the builds around it that were read differ"),
    ],
)
def test_the_answer_stands_in_the_first_line(
    build: str, name: str, answer: str
) -> None:
    first = printed(name, "--at", build).splitlines()[0]
    assert first == f"--{name} on {build}: {answer}"


def test_the_list_says_what_it_rests_on_and_marks_what_is_uncertain() -> None:
    lines = printed("--at", "b11370").splitlines()
    assert lines[0].endswith("inferred from its neighbours; `?` where they differ")
    marked = [line.split()[0] for line in lines if "?" in line.split()]
    assert marked == ["--spec-draft-sampling"]


def test_beyond_what_was_read_every_option_is_uncertain() -> None:
    newer = "b12000 is newer than what is known (b11549, 2026-10)"
    assert (
        printed("--at", "b12000").splitlines()[0].endswith(f"as far as known: {newer}")
    )
    options = shown("--at", "b12000")
    assert {option["uncertain"] for option in options} == {True}
    first = printed("ctx-size", "--at", "b12000").splitlines()[0]
    assert first == f"--ctx-size on b12000: uncertain: {newer}"


def test_every_option_is_a_result() -> None:
    options = shown("--at", "b10434")
    assert {option["type"] for option in options} == {"option"}
    assert len(options) == 248


def test_two_builds_are_compared_as_one_result() -> None:
    (found,) = shown("--diff", "b10867", "b10878")
    assert found["renamed"] == [
        {"old": "--direct-io", "new": "--load-mode dio"},
        {"old": "--mlock", "new": "--load-mode mmap+mlock"},
        {"old": "--mmap", "new": "--load-mode mmap"},
    ]
    assert (found["added"], found["removed"]) == ([], [])


def test_two_builds_are_compared_in_lines_that_say_what_to_write() -> None:
    assert (
        printed("--diff", "b9305", "b9310")
        == """\
options of llama-server, b9305 → b9310
  ± --checkpoint-every-n-tokens   write --checkpoint-min-step
"""
    )


@pytest.mark.parametrize("tag", ["v0.3.0", "7e4c0a9", "latest"])
def test_a_tag_without_a_number_is_refused_with_what_to_write(tag: str) -> None:
    with pytest.raises(UsageError, match="not the number of a build") as caught:
        printed("--at", tag)
    assert "write it as `b10434`" in caught.value.hint


@pytest.mark.parametrize(
    "words", [("--at", "b10434", "--diff", "b1", "b2"), ("fa", "--diff", "b1", "b2")]
)
def test_a_comparison_takes_no_other_build_and_no_name(words: tuple[str, ...]) -> None:
    with pytest.raises(UsageError):
        printed(*words)


def test_without_a_build_the_newest_known_is_explained() -> None:
    assert printed("ctx-size").startswith("--ctx-size on b")
