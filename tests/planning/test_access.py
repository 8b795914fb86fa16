"""Who may use a server, and with what key."""

import json
from typing import Any

import pytest

from deployer.stack.checks import checks, closing_words, key_problem
from deployer.stack.fields.model import Stack

SOUND: dict[str, Any] = {
    "version": 1,
    "name": "s",
    "engine": "local",
    "llama_cpp": {"tag": "b11434"},
    "model": {"repo": "owner/name", "quant": "Q4_K_M"},
}
KEY = {"auth": {"api_key": {"env": "KEY", "secret": "name"}}}
OPEN = {"auth": {"open": "behind our VPN"}}
HINT = "add `auth: {api_key: …}`, or say why it is open: `auth: {open: behind our VPN}`"
REACHABLE = (
    *("0.0.0.0", "::", "0", "192.168.1.7", "fe80::1", "llama.example.org"),  # noqa: S104
    *("localhost.example.org", "127.0.0.1.example.org", "127.1"),
)
"""Addresses that other machines may reach; what is in doubt counts."""
OF_THIS_MACHINE = ("127.0.0.1", "127.8.8.8", "localhost", "::1")
WORKING = ("tools", "tools-runtime", "agent", "mcp-servers-config", "mcp-servers-json")
PROXIES = ("ui-mcp-proxy", "webui-mcp-proxy")


def stack_with(**changes: Any) -> Stack:
    return Stack.model_validate_json(json.dumps({**SOUND, **changes}))


def broken(**changes: Any) -> list[str]:
    found = checks(stack_with(**changes))
    return [f"{it.path}: {it.what} | {it.hint}" for it in found]


@pytest.mark.parametrize("host", REACHABLE)
def test_a_server_that_others_reach_asks_for_a_key_or_says_why_not(host: str) -> None:
    local = {"local": {"host": host}}
    told = f"local.host: `{host}` lets other machines use the server without an API key"
    assert broken(**local) == [f"{told} | {HINT}"]
    assert broken(**local, **KEY) == broken(**local, **OPEN) == []


@pytest.mark.parametrize("host", OF_THIS_MACHINE)
def test_a_server_of_this_machine_needs_no_key(host: str) -> None:
    assert broken(local={"host": host}) == []


def test_a_server_on_modal_asks_for_a_key_or_says_why_not() -> None:
    told = (
        "engine: every client that knows the URL on Modal can use the server without an"
    )
    assert broken(engine="modal") == [f"{told} API key | {HINT}"]
    assert broken(engine="modal", **KEY) == broken(engine="modal", **OPEN) == []


@pytest.mark.parametrize("name", [*WORKING, *PROXIES])
def test_what_works_for_clients_asks_for_a_key(name: str) -> None:
    server = {"server": {"flags": {name: True}}}
    told = f"server.flags.{name}: `{name}` lets every client use its tools"
    assert broken(**server) == [f"{told} without an API key | {HINT}"]
    assert broken(**server, **KEY) == broken(**server, **OPEN) == []
    assert broken(server={"flags": {name: False}}) == []


def test_what_changes_the_server_asks_for_a_key() -> None:
    told = "server.props: `props` lets every client change the server without an API"
    assert broken(server={"props": True}) == [f"{told} key | {HINT}"]
    assert broken(server={"props": False}) == []
    assert broken(server={"props": True}, **KEY) == []


@pytest.mark.parametrize("origins", ["*", "https://a.example", ["localhost"], True])
def test_pages_of_other_sites_need_a_key(origins: object) -> None:
    server = {"server": {"flags": {"cors-origins": origins}}}
    told = "server.flags.cors-origins: `cors-origins` lets pages of other sites use the"
    assert broken(**server) == [f"{told} server without an API key | {HINT}"]
    assert broken(**server, **KEY) == broken(**server, **OPEN) == []
    assert broken(server={"flags": {"cors-origins": "localhost"}}) == []


def test_access_says_one_thing() -> None:
    nothing = "auth: expected `api_key`, `api_keys`, or `open` with a reason"
    assert broken(auth={}) == [f"{nothing} | add `api_key: {{env: LLAMA_API_KEY}}`"]
    both = {"auth": {**KEY["auth"], **OPEN["auth"]}}
    told = "auth.open: `open` and `api_key` contradict each other | keep one of them"
    assert broken(**both) == [told]


def test_a_server_without_a_key_answers_pages_of_this_machine_alone() -> None:
    closed = ("--cors-origins", "localhost")
    for stack in (stack_with(), stack_with(**OPEN)):
        assert closing_words(stack, build=11434) == closed
        assert closing_words(stack, build=10103) == closed
        assert closing_words(stack, build=10102) == ()  # it has no such option
        assert closing_words(stack, build=None) == ()
    # What the build states of itself decides, whatever its number.
    assert closing_words(stack_with(), build=1, known={"--cors-origins"}) == closed
    assert closing_words(stack_with(), build=11434, known={"--port"}) == ()
    assert closing_words(stack_with(**KEY), build=11434) == ()
    stated = stack_with(server={"flags": {"cors-origins": "*"}}, **OPEN)
    assert closing_words(stated, build=11434) == ()


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        ("#secret", "it begins with `#`: llama-server would take the line for a comm"),
        (
            "one,two",
            "it contains a comma: llama-server reads a list of keys as several",
        ),
        ("", "it is empty"),
        (" ", "it is empty"),
        ("\n", "it is empty"),
        *(
            (key, "it contains blanks")
            for key in (" key", "key ", "a b", "a\tb", "key\n")
        ),
        *((key, "it contains blanks") for key in ("\nkey", "a\r\nb", "a\0b", "a\x7fb")),
        *(
            (key, "it contains characters that")
            for key in ("clé", "key\u00a0", "k\u2028")
        ),
    ],
)
def test_a_key_that_a_key_file_cannot_carry_is_known(key: str, problem: str) -> None:
    told = key_problem(key)
    assert told.startswith(problem)
    assert len(key.strip()) < len("xxx") or key.strip() not in told


@pytest.mark.parametrize("key", ["k", "sk-1_2.3~4", "a#b", "'q'", '"', "+/=", "-", "!"])
def test_any_other_key_is_taken(key: str) -> None:
    assert key_problem(key) == ""


def test_keys_have_names_and_variables_of_their_own() -> None:
    def keys(**named: object) -> list[str]:
        return broken(auth={"api_keys": named})

    assert keys(old={"env": "OLD"}, new={"env": "NEW"}) == []
    assert keys() == broken(auth={}), "an empty list names no key"
    told = "`KEY` is the variable of `auth.api_keys.old` already"
    hint = "name a variable of its own with `env`"
    assert keys(old={"env": "KEY"}, new={"env": "KEY"}) == [
        f"auth.api_keys.new: {told} | {hint}"
    ]
    told = "`env` is missing: on local the key is taken from the environment"
    hint = "add `env: LLAMA_API_KEY`"
    assert keys(old={}) == [f"auth.api_keys.old: {told} | {hint}"]
    told = "the name of a key is of lower-case letters, digits and dashes"
    hint = "such as `team-a` or `2026-12`"
    named = {"The Old": {"env": "OLD"}}
    assert keys(**named) == [f"auth.api_keys: {told} | {hint}"]
    both = {"api_key": {"env": "ONE"}, "api_keys": {"two": {"env": "TWO"}}}
    told = "`api_key` and `api_keys` are two ways to say one thing"
    hint = "give it a name under `api_keys`"
    assert broken(auth=both) == [f"auth.api_key: {told} | {hint}"]
