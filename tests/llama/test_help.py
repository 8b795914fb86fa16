"""The options of a binary are read from its own help."""

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from deployer.errors import EngineError
from deployer.llama.catalogue import (
    Catalogue,
    Option,
    Standing,
    Takes,
    catalogue,
    problems_of,
)
from deployer.llama.explain import catalogue_of_binary

EXCERPT = """\
----- common params -----

-h,    --help, --usage                  says something about itself
-c,    --ctx-size N                     how much there is
                                        (env: LLAMA_ARG_CTX_SIZE)
-fa,   --flash-attn [on|off|auto]       three ways to go, of which the text goes on
                                        in the next line
                                        (env: LLAMA_ARG_FLASH_ATTN)
--temp N                                a number of its own kind
-kvo,  --kv-offload, -nkvo, --no-kv-offload
                                        a pair that needs a line for its names
                                        (env: LLAMA_ARG_KV_OFFLOAD)
-ctk,  --cache-type-k TYPE              what it is made of
                                        allowed values: f32, f16, q8_0
                                        (default: f16)
--no-host                               begins with no, and has no other side
--control-vector-layer-range START END
                                        two words
--mlock                                 DEPRECATED in favor of another

----- example-specific params -----

--draft, --draft-n, --draft-max N       the argument has been removed. use another
                                        (env: LLAMA_ARG_DRAFT_MAX)
--new-here {one,two}                    younger than every catalogue
"""


def option(name: str) -> Option:
    found = catalogue_of_binary(EXCERPT, 10434).find(name)
    assert found is not None
    return found


def test_every_block_of_the_help_is_one_option() -> None:
    assert len(catalogue_of_binary(EXCERPT, 10434).options) == 11


def test_a_pair_knows_the_names_that_turn_it_off() -> None:
    found = option("--kv-offload")
    assert found.names == ("-kvo", "--kv-offload")
    assert found.off == ("-nkvo", "--no-kv-offload")


def test_a_name_that_begins_with_no_may_be_a_switch_of_its_own() -> None:
    assert (option("--no-host").names, option("--no-host").off) == (("--no-host",), ())


def test_the_environment_variable_is_read() -> None:
    assert option("-c").env == "LLAMA_ARG_CTX_SIZE"


@pytest.mark.parametrize(
    ("name", "takes"),
    [
        ("--help", Takes.NOTHING),
        ("--flash-attn", Takes.SWITCH),
        ("--control-vector-layer-range", Takes.TWO),
        ("--new-here", Takes.TEXT),
    ],
)
def test_the_form_of_the_value_is_read(name: str, takes: Takes) -> None:
    assert option(name).takes is takes


@pytest.mark.parametrize(("name", "takes"), [("-c", Takes.INT), ("--temp", "number")])
def test_what_the_help_does_not_tell_comes_from_the_shipped_catalogue(
    name: str, takes: str
) -> None:
    assert option(name).takes == takes


@pytest.mark.parametrize(
    ("name", "values"),
    [("--cache-type-k", ("f32", "f16", "q8_0")), ("--new-here", ("one", "two"))],
)
def test_a_complete_list_of_values_is_read(name: str, values: Sequence[str]) -> None:
    assert option(name).values == values


def test_what_upstream_gave_up_is_marked() -> None:
    assert option("--mlock").standing is Standing.DEPRECATED
    assert option("--draft").standing is Standing.REMOVED


def test_what_the_binary_lacks_is_refused_whatever_its_neighbours_know() -> None:
    """Options come and go with the backends a binary is built with."""
    known = catalogue_of_binary(EXCERPT, 10434)
    (found,) = problems_of([("server.flags.rpc", ("--rpc", "a:1"))], 10434, known)
    assert found.what == "b10434 was built without `--rpc`"


@pytest.mark.parametrize("text", ["", "command not found\n", "---- heading ----\n"])
def test_a_text_without_options_is_an_error(text: str) -> None:
    with pytest.raises(EngineError, match="lists no options"):
        catalogue_of_binary(text, 10434)


def run(
    binary: Path, folder: Path, words: Sequence[str]
) -> subprocess.CompletedProcess[str]:
    """The binary as it behaves without a configuration of the user's."""
    scrubbed = {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    return subprocess.run(
        [binary, *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=scrubbed,
        timeout=60,
    )


@pytest.fixture(scope="module")
def of_binary(
    llama_server: Path, tmp_path_factory: pytest.TempPathFactory
) -> Catalogue:
    text = run(llama_server, tmp_path_factory.mktemp("help"), ["--help"]).stdout
    return catalogue_of_binary(text, 10434)


@pytest.mark.real
def test_the_help_of_b10434_says_what_is_shipped_for_b10435(
    of_binary: Catalogue,
) -> None:
    """All of it; of a few options the source prints a default that only runs tell."""
    shipped, found = catalogue(10435).by_name, of_binary.by_name
    assert {n: replace(o, default="") for n, o in found.items()} == {
        n: replace(o, default="") for n, o in shipped.items()
    }
    stated = {n: o.default for n, o in shipped.items() if o.default}
    assert {n: found[n].default for n in stated} == stated
    unknown = {o.name for n, o in found.items() if o.default and n not in stated}
    assert len(unknown) <= 11


REACHES_OUT = frozenset({"--rpc"})
"""Options that do more than to be parsed."""
ENDS_EARLY = frozenset(
    {"--help", "--version", "--cache-list", "--completion-bash", "--list-devices"}
)


def cases(known: Catalogue) -> Iterator[tuple[str, ...]]:
    """Each option with every value it is known to take, and with one it is not.

    A missing value is not among them: the word behind would be taken for it.
    """
    for found in known.options:
        if found.name in ENDS_EARLY | REACHES_OUT or found.downloads:
            continue  # what downloads is refused for another reason
        yield from ((name,) for name in found.spellings if not found.hint)
        yield from ((found.name, value) for value in found.values)
        if found.takes is not Takes.TEXT or found.values:
            yield (found.name, "sideways")
        match found.takes:
            case Takes.INT:
                yield (found.name, "1")
            case Takes.NUMBER:
                yield (found.name, "0.5")
            case Takes.TWO:
                yield (found.name, "1", "2")
            case _:
                continue


@pytest.mark.real
def test_the_catalogue_refuses_what_the_dry_run_refuses_and_nothing_else(
    llama_server: Path, tmp_path: Path
) -> None:
    """`--version` as the last word lets llama-server check all before it."""
    asked = list(cases(catalogue(10434)))

    def taken(words: tuple[str, ...]) -> bool:
        return run(llama_server, tmp_path, [*words, "--version"]).returncode == 0

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        real = dict(zip(asked, pool.map(taken, asked), strict=True))
    ours = {w: not list(problems_of([("server", w)], 10434)) for w in asked}
    assert json.dumps([w for w in asked if ours[w] != real[w]]) == "[]"
