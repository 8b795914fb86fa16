"""Each advisory is reported for a stack inside of it, and for none outside."""

from pathlib import Path

import pytest

from deployer.diagnostics import Severity
from deployer.errors import UsageError
from deployer.llama.catalogue import catalogue
from deployer.llama.known.advisories import (
    EXPOSED,
    Advisory,
    advisories,
    advisories_from,
    exposures_of,
)
from deployer.stack.fields.model import Stack
from deployer.stack.yaml12 import parse, plain

STACK = """\
version: 1
name: s
engine: local
llama_cpp: {tag: b1, cmake: [CMAKE]}
model: {path: m.gguf}
server: {flags: {FLAGS}}
auth: {open: nothing is deployed}
"""
INSIDE = {
    "always": ("A=1", "top-k: 1"),
    "rpc": ("GGML_RPC=ON", "top-k: 1"),
    "sleep": ("A=1", "sleep-idle-seconds: 60"),
    "slot-files": ("A=1", "slot-save-path: slots"),
    "context-shift": ("A=1", "context-shift: true"),
}
"""CMake definition and option that expose a stack, by condition."""


def stack(condition: str, more: str = "") -> Stack:
    definition, flags = INSIDE[condition]
    text = STACK.replace("CMAKE", definition).replace("FLAGS", flags) + more
    table, _ = parse(text, "s.yaml")
    return Stack.model_validate(plain(table), strict=False)


def found(condition: str, build: int | None, more: str = "") -> dict[str, Severity]:
    every = exposures_of(stack(condition, more), catalogue(build))
    return {it.code: it.severity for it in every if it.code}


@pytest.mark.parametrize("advisory", advisories(), ids=lambda it: it.id)
def test_inside_of_range_and_condition_it_is_a_warning(advisory: Advisory) -> None:
    for build in (max(advisory.since, 1), (advisory.fixed - 1) or advisory.until):
        if build > 0:
            assert found(advisory.exposed, build)[advisory.id] is Severity.WARNING


@pytest.mark.parametrize("advisory", advisories(), ids=lambda it: it.id)
def test_outside_of_the_range_it_is_not_reported(advisory: Advisory) -> None:
    outside = [advisory.since - 1] if advisory.since else []
    outside += [advisory.fixed] if advisory.fixed else []
    assert outside
    for build in outside:
        assert advisory.id not in found(advisory.exposed, build)


@pytest.mark.parametrize("advisory", advisories(), ids=lambda it: it.id)
def test_outside_of_the_condition_it_is_not_reported(advisory: Advisory) -> None:
    if advisory.exposed != "always":
        build = (advisory.fixed - 1) if advisory.fixed else advisory.until
        assert advisory.id not in found("always", build)


def test_where_no_record_names_a_fixed_build_a_newer_one_is_uncertain() -> None:
    newer = found("sleep", 11434)
    assert newer["CVE-2026-43631"] is Severity.NOTE
    assert "CVE-2026-107183" not in newer


def test_without_a_build_number_it_is_said_that_nothing_was_judged() -> None:
    (said,) = (
        it for it in exposures_of(stack("always"), catalogue(None)) if not it.code
    )
    assert said.what == "advisories are checked once the number of the build is known"


def test_a_policy_makes_them_errors_and_an_exception_leaves_one_out() -> None:
    strict = found("always", 9763, "policy: {advisories: error}\n")
    assert strict == {"CVE-2026-107183": Severity.ERROR}
    ignored = "ignore: [{trap: CVE-2026-107183, reason: only we have the key}]\n"
    assert found("always", 9763, ignored) == {}


def test_every_condition_is_one_that_is_known() -> None:
    assert {it.exposed for it in advisories()} <= {*EXPOSED}


def test_a_table_of_the_users_is_read_in_the_same_form() -> None:
    text = """\
[[advisory]]
id = "CVE-2027-1"
severity = "high"
published = "2027-01-01"
exposed = "always"
when = "any"
what = "new"
reference = "https://example.org/"
since = 11434
fixed = 13000
"""
    further = advisories_from(text, "new.toml")
    codes = {it.code for it in exposures_of(stack("always"), catalogue(11434), further)}
    assert codes == {"CVE-2027-1"}


@pytest.mark.parametrize(
    "text", ["[", "[[other]]\na = 1", '[[advisory]]\nid = "CVE-2027-1"\n']
)
def test_another_table_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a table of advisories"):
        advisories_from(text, str(Path("new.toml")))
