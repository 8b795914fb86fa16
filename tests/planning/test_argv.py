"""The command line of llama-server: what each option becomes, on which build."""

import json
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path

import pytest

from deployer.llama.catalogue import problems_of
from deployer.planning.argv import command_line, words_by_field, words_of
from deployer.planning.graph import build_number
from deployer.stack.fields.examples import SERVER
from deployer.stack.fields.marks import fields_of, leaves
from deployer.stack.fields.model import Stack
from deployer.stack.fields.server import Drafting
from deployer.stack.fields.values import JsonValue
from deployer.testing import facts, stack
from tests.planning.checking import LOCAL

CATALOGUE = Path(__file__).parent.parent / "data" / "server_flags.json"
CATALOGUED: Mapping[int, str] = {
    8672: "8672",
    9763: "9763",
    10434: "10435",
    11434: "11434",
}
"""A build, and the nearest one whose options were read."""

OPTIONS = {path.removeprefix("server."): values for path, values in SERVER.items()}


def stack_with(options: Mapping[str, JsonValue]) -> Stack:
    return stack(
        {
            "version": 1,
            "name": "demo",
            "engine": "local",
            "llama_cpp": {"tag": "b9763"},
            "model": {"path": "m.gguf"},
            "server": dict(options),
        }
    )


def argv(options: Mapping[str, JsonValue], build: int | None) -> list[str]:
    return list(words_of(leaves(stack_with(options)), build=build))


def check(options: Mapping[str, JsonValue], build: int, expected: str) -> None:
    assert argv(options, build) == expected.split()


def stated_by(option: str, build: int) -> Iterator[dict[str, JsonValue]]:
    """The options with each value of one, of speculative decoding for each type."""
    section, _, name = option.rpartition(".")
    for value in OPTIONS[option]:
        if not section:
            yield {option: value}
            continue
        flags = fields_of(Drafting)[name].flags
        for kind in (it for flag in flags for it in flag.types):
            # `sampling` is refused on older builds, not left out.
            if name != "sampling" or build >= 11434:
                yield {section: {"type": kind, name: value}}


@pytest.mark.parametrize("build", CATALOGUED)
@pytest.mark.parametrize("option", OPTIONS)
def test_every_word_of_an_option_is_one_that_the_build_knows(
    option: str, build: int
) -> None:
    """An unknown option ends llama-server before it starts."""
    known = json.loads(CATALOGUE.read_text())["builds"][CATALOGUED[build]]
    switches, with_value = set(known["switches"]), set(known["with_value"])
    for stated in stated_by(option, build):
        words = [*argv(stated, build), "--end"]
        for word, following in pairwise(words):
            if not word.startswith("--"):
                continue
            takes_value = not following.startswith("--")
            assert word in (with_value if takes_value else switches)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("ctx_size", "--ctx-size 1024"),
        ("n_gpu_layers", "--n-gpu-layers 0"),
        ("tensor_split", "--tensor-split 3,1"),
        ("device", "--device none"),
        ("flash_attn", "--flash-attn on"),
        ("mmap", "--mmap"),
        ("mlock", ""),
        ("kv_offload", "--kv-offload"),
        ("swa_full", ""),
        ("cache_ram", "--cache-ram -1"),
        ("chat_template_kwargs", '--chat-template-kwargs {"a":true}'),
        ("override_tensor", "--override-tensor a=CPU"),
        ("timeout", "--timeout 60"),
        ("temperature", "--temp 0"),
        ("top_p", "--top-p 0.95"),
        ("flags", "--keep 1"),
    ],
)
def test_an_option_by_its_type(option: str, words: str) -> None:
    check({option: OPTIONS[option][0]}, 9763, words)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (8672, "--no-mmap"),
        (10104, "--no-mmap"),
        (10105, "--load-mode none"),
        (11434, "--load-mode none"),
    ],
)
def test_no_mmap_is_spelled_as_the_build_knows_it(build: int, words: str) -> None:
    check({"mmap": False}, build, words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mmap": False, "mlock": True}, "--load-mode mlock"),
        ({"mmap": True, "mlock": True}, "--load-mode mmap+mlock"),
        ({"mmap": False, "direct_io": True}, "--load-mode dio"),
        ({"mmap": False, "mlock": False}, "--load-mode none"),
    ],
)
def test_options_that_became_one_are_written_as_one(
    options: Mapping[str, JsonValue], words: str
) -> None:
    """Repeated, the last would win, and one of the two intents be lost."""
    check(options, 11434, words)


@pytest.mark.parametrize(("build", "words"), [(9093, "--no-webui"), (9246, "--no-ui")])
def test_no_ui_is_spelled_as_the_build_knows_it(build: int, words: str) -> None:
    check({"ui": False}, build, words)


def test_a_build_that_is_known_by_commit_alone_is_taken_for_a_new_one() -> None:
    assert argv({"mmap": False}, None) == ["--load-mode", "none"]


@pytest.mark.parametrize(
    ("tag", "number"),
    [("b9763", 9763), ("b9763abc", None), ("v1.2.3", None), ("0123abc", None)],
)
def test_the_number_of_a_build_is_in_its_tag(tag: str, number: int | None) -> None:
    """A commit may begin with a `b` as well."""
    named = stack(LOCAL.replace("b9763", f'"{tag}"'))
    assert build_number(named, facts()) == number


def test_unset_options_write_nothing() -> None:
    assert argv({}, 9763) == []


def test_a_fraction_of_a_second_is_rounded_up() -> None:
    """llama-server takes whole seconds, and 0 would mean none."""
    check({"timeout": "200ms"}, 9763, "--timeout 1")


def test_a_float_keeps_its_digits() -> None:
    check({"top_p": 0.12345678}, 9763, "--top-p 0.12345678")


def test_free_flags_come_last_so_that_they_win() -> None:
    check({"flags": {"ctx-size": 1}, "ctx_size": 2}, 9763, "--ctx-size 2 --ctx-size 1")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (True, "--x"),
        (False, "--no-x"),
        (3, "--x 3"),
        (0.5, "--x 0.5"),
        (-1, "--x -1"),
        ("text", "--x text"),
        (["a", 1], "--x a --x 1"),
        ([], ""),
    ],
)
def test_a_free_flag_by_its_value(value: JsonValue, words: str) -> None:
    check({"flags": {"x": value}}, 9763, words)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("samplers", ["top_k", "temperature"], "--samplers top_k;temperature"),
        ("spec-type", ["ngram-mod", "draft-mtp"], "--spec-type ngram-mod,draft-mtp"),
        ("lora", ["a.gguf", "b.gguf"], "--lora a.gguf,b.gguf"),
        ("override-kv", ["a=int:1", "b=int:2"], "--override-kv a=int:1,b=int:2"),
        ("logit-bias", ["1+1", "2-1"], "--logit-bias 1+1 --logit-bias 2-1"),
        ("control-vector-layer-range", [1, 5], "--control-vector-layer-range 1 5"),
    ],
)
def test_a_list_is_written_as_the_option_takes_it(
    name: str, value: JsonValue, words: str
) -> None:
    """Repeated, the last value alone counts for most options."""
    check({"flags": {name: value}}, 11434, words)
    leaves_ = words_by_field(leaves(stack_with({"flags": {name: value}})), build=11434)
    assert list(problems_of(leaves_, 11434)) == []


def test_a_list_for_one_value_is_refused() -> None:
    groups = words_by_field(
        leaves(stack_with({"flags": {"rope-scaling": ["yarn", "none"]}})), build=11434
    )
    (found,) = problems_of(groups, 11434)
    assert found.path == "server.flags.rope-scaling"
    assert found.what == "`--rope-scaling` takes one value, got a list"


def test_what_one_option_cannot_say_is_refused() -> None:
    """Three options of old became one, which has no word for mlock and direct I/O."""
    options = {"mmap": False, "mlock": True, "direct_io": True}
    for build, count in ((9763, 0), (11434, 1)):
        groups = words_by_field(leaves(stack_with(options)), build=build)
        found = list(problems_of(groups, build))
        assert len(found) == count
    assert found[0].what == (
        "`server.mlock` and `server.direct_io` are both `--load-mode` on b11434:"
        " the last one alone would count"
    )


def test_a_word_is_never_split_at_spaces() -> None:
    """No shell is between us and llama-server."""
    words = argv({"reasoning_budget_message": "that will do; rm -rf *"}, 9763)
    assert words == ["--reasoning-budget-message", "that will do; rm -rf *"]


def test_what_the_engine_decides_comes_last_so_that_it_wins() -> None:
    least = command_line(
        "llama-server",
        ["--jinja"],
        model="m.gguf",
        beside={},
        scales={},
        files=str,
        host="127.0.0.1",
        port=8080,
        key_file=None,
    )
    assert least == (
        *("llama-server", "--jinja", "--model", "m.gguf"),
        *("--host", "127.0.0.1", "--port", "8080"),
    )
    most = command_line(
        "llama-server",
        ["--chat-template", "mine.jinja", "--jinja", "--mlock"],
        model="m.gguf",
        beside={
            "lora-1": "b.gguf",
            "lora-0": "a.gguf",
            "draft": "d.gguf",
            "mmproj": "p.gguf",
        },
        scales={"lora-1": 0.5},
        files="/store/{}".format,
        host="::1",
        port=1,
        reuse_port=True,
        key_file="/run/key",
    )
    assert most == (
        *("llama-server", "--chat-template-file", "/store/mine.jinja", "--jinja"),
        "--mlock",
        *("--model", "m.gguf", "--mmproj", "p.gguf", "--model-draft", "d.gguf"),
        *("--lora-scaled", "a.gguf:1,b.gguf:0.5", "--host", "::1", "--port", "1"),
        *("--reuse-port", "--api-key-file", "/run/key"),
    )


@pytest.mark.parametrize(
    ("words", "placed"),
    [
        ("--chat-template a.jinja --jinja", "--chat-template-file /s/a.jinja --jinja"),
        ("--chat-template chatml", "--chat-template chatml"),
        ("--jinja --alias a.jinja", "--jinja --alias a.jinja"),
        ("--grammar-file g.gbnf --keep 4", "--grammar-file /s/g.gbnf --keep 4"),
        ("--media-path pics", "--media-path /s/pics"),
        (
            "--lora-scaled a.gguf:0.5,b.gguf:2 --lora c.gguf,d.gguf",
            "--lora-scaled /s/a.gguf:0.5,/s/b.gguf:2 --lora /s/c.gguf,/s/d.gguf",
        ),
    ],
)
def test_a_file_of_the_stack_is_where_the_engine_puts_it(
    words: str, placed: str
) -> None:
    found = command_line(
        "p",
        words.split(),
        model="m",
        beside={},
        scales={},
        files="/s/{}".format,
        host="h",
        port=1,
        key_file=None,
    )
    assert found[1:-6] == tuple(placed.split())


def test_a_mapping_is_one_word_in_one_spelling() -> None:
    words = argv({"chat_template_kwargs": {"b": 1, "a": True}}, 9763)
    assert words == ["--chat-template-kwargs", '{"a":true,"b":1}']
