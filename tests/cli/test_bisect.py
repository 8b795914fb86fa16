"""Which build broke a gate: asked of builds that are served one after the other."""

import tomllib
from collections.abc import Callable, Iterator
from difflib import unified_diff
from math import log2
from pathlib import Path
from typing import Any

import pytest

from deployer.llama.known.tables import rows_of
from deployer.llama.known.traps import Trap
from deployer.usecases.bisect import Finding, bounds, most_steps, next_point
from tests.cli import fake_build
from tests.cli.fake_build import SERVER, program_of, repository
from tests.cli.project import Project, gone
from tests.llama.small_source import write_patch
from tests.ports import quiet_port
from tests.sources.conftest import sites
from tests.sources.hub import REPO, Hub

STACK = """\
version: 1
name: demo
engine: local
llama_cpp: {tag: TAG, source: git, repo: "REPO"}
model: {path: tiny.gguf, alias: tiny}
server: {ctx_size: 2048, parallel: 2}
auth: {api_key: {env: LLAMA_API_KEY}}
local: {port: PORT}
ignore: [{trap: CVE-2026-107183, reason: nothing real is served}]
"""
CHAT = "gates: {chat: {}}\n"


@pytest.fixture
def project(tmp_path: Path, tiny_model: Path) -> Iterator[Project]:
    (tmp_path / "project/stacks").mkdir(parents=True)
    made = Project(tmp_path / "project", tmp_path / "home", quiet_port(), tmp_path)
    (made.stack.parent / "tiny.gguf").write_bytes(tiny_model.read_bytes())
    yield made
    made.end()


def bisected(project: Project, *words: str) -> dict[str, Any]:
    done = project.run("bisect", "stacks/demo.yaml", *words, "--json")
    assert done.out, done.err
    (found,) = done.results()
    assert found["type"] == "bisect", done.out
    assert done.code == (0 if found["first_bad"] else 1)
    return found


def asked(found: dict[str, Any]) -> list[str]:
    """The builds that were served by this run."""
    return [it["name"] for it in found["tried"] if not it["remembered"]]


def write(
    project: Project,
    builds: range,
    faults: Callable[[int], list[str]],
    more: str = CHAT,
) -> None:
    repo = repository(project.folder / "builds", builds, faults)
    text = STACK.replace("REPO", repo).replace("TAG", f"b{builds[0]}")
    project.write(text + more)


def test_the_removal_of_no_mmap_is_found_by_the_servers_that_do_not_start(
    project: Project,
) -> None:
    """Before the build of which the table knows it, so that it is spelled so still."""
    builds = range(10080, 10097)
    write(project, builds, lambda n: [fake_build.NO_MMAP] if n >= 10087 else [])
    text = project.stack.read_text().replace("parallel: 2", "parallel: 2, mmap: false")
    project.stack.write_text(text)
    found = bisected(project, "--good", "b10080", "--bad", "b10096")
    assert (found["first_bad"], found["last_good"]) == ("b10087", "b10086")
    assert len(asked(found)) <= log2(len(builds)) + 1
    assert "does not start" in str(found["tried"])
    assert found["pulls"] == [{"number": 20087, "title": "server : change 10087"}]


def test_the_fix_of_the_thinking_budget_is_found_backwards(project: Project) -> None:
    """Good is newer than bad, and one build in the middle does not compile."""
    builds = range(8736, 8753)
    faults = {n: [fake_build.UNLIMITED] for n in range(8736, 8744)}
    faults[8744] = [fake_build.BROKEN_BUILD]
    more = "gates: {thinking_budget: {}}\n"
    write(project, builds, lambda n: faults.get(n, []), more)
    ends = ("--good", "b8752", "--bad", "b8736", "--gate", "thinking_budget")
    found = bisected(project, *ends)
    assert (found["first_bad"], found["last_good"]) == (None, "b8745")
    assert (found["suspects"], found["fixed"]) == (["b8744", "b8743"], True)
    assert "cannot be made" in str(found["tried"])
    assert len(asked(found)) <= log2(len(builds)) + 2  # the skipped one
    done = project.run("bisect", "stacks/demo.yaml", *ends)
    assert done.code == 1
    assert "the last bad build is one of 2" in done.out
    assert "(found by an earlier run)" in done.out


def test_the_key_that_models_asks_for_is_found_and_the_live_release_untouched(
    project: Project,
) -> None:
    builds = range(11000, 11017)
    (project.folder / "stacks/open.sh").write_text(
        "#!/bin/sh\n"
        'case "$(curl -so /dev/null -w "%{http_code}" "$DEPLOYER_URL/v1/models")" in\n'
        '200) echo \'{"outcome": "pass", "because": "open"}\' ;;\n'
        '*) echo \'{"outcome": "fail", "because": "it asks for a key"}\' ;;\n'
        "esac\n"
    )
    (project.folder / "stacks/open.sh").chmod(0o755)
    more = "gates: {chat: {}, custom: {open: {command: [./open.sh]}}}\n"
    write(project, builds, lambda n: [fake_build.CLOSED] if n >= 11011 else [], more)
    applied = project.run("apply", "stacks/demo.yaml", "--yes")
    assert applied.code == 0, applied.out + applied.err
    live, before = project.server(), project.state.read_bytes()
    ends = ("--good", "b11000", "--bad", "b11016")

    found = bisected(project, *ends, "--gate", "custom.open")
    assert found["first_bad"] == "b11011"
    assert len(asked(found)) <= log2(len(builds)) + 1
    (row,) = rows_of(tomllib.loads(str(found["trap"])), "trap", Trap)
    assert (row.since, row.reference[-11:]) == (11011, "/pull/21011")
    assert "custom.open" in row.what

    assert (project.server(), project.state.read_bytes()) == (live, before)
    assert not list(project.stack.parent.glob("*.lock.json.*"))
    again = bisected(project, *ends, "--gate", "custom.open")
    assert asked(again) == []
    assert again["first_bad"] == "b11011"


def test_a_run_that_was_killed_carries_on_and_ends_what_it_left(
    project: Project,
) -> None:
    builds = range(100, 109)
    write(project, builds, lambda n: [fake_build.SILENT] if n >= 107 else [])
    words = ("bisect", "stacks/demo.yaml", "--good", "b100", "--bad", "b108")
    with project.running(*words) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if (
                "stage bisect-demo/server" in line
                and "✔" in line
                and list(project.home.glob("bisect/*/results.json"))
            ):
                break
        process.kill()
        process.wait()
    (left,) = project.servers()
    found = bisected(project, *words[2:])
    assert found["first_bad"] == "b107"
    assert gone(left)
    assert project.servers() == set()
    assert {it["remembered"] for it in found["tried"]} == {True, False}


def test_ends_that_are_not_what_they_are_called_are_reported(project: Project) -> None:
    write(project, range(100, 104), lambda _: [fake_build.SILENT])
    found = bisected(project, "--good", "b100", "--bad", "b103", "--gate", "chat")
    assert found["first_bad"] is None
    assert "`b100` is bad, not good: chat:" in str(found["trouble"])


def test_a_named_gate_is_asked_of_no_server_that_does_not_start(
    project: Project,
) -> None:
    write(project, range(100, 103), lambda n: [fake_build.NO_MMAP] if n > 100 else [])
    text = project.stack.read_text().replace("parallel: 2", "parallel: 2, mmap: false")
    project.stack.write_text(text)
    found = bisected(project, "--good", "b100", "--bad", "b102", "--gate", "chat")
    assert "no gate was asked" in str(found["tried"])
    assert found["first_bad"] is None


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ((), "what to bisect is not clear"),
        (("--good", "b1"), "are no range of builds"),
        (("--good", "b1", "--bad", "b1"), "are no range of builds"),
        (("--good", "b1", "--bad", "b2", "--patches"), "what to bisect is not clear"),
        (("--patches",), "the stack has no patches"),
        (("--quants", "Q8_0,Q4_0"), "of a `model.repo`"),
        (("--good", "b1", "--bad", "b2", "--gate", "nice"), "there is no gate `nice`"),
    ],
)
def test_what_cannot_be_bisected_is_refused(
    paper: Project, words: tuple[str, ...], why: str
) -> None:
    paper.write()
    done = paper.run("bisect", "stacks/demo.yaml", *words)
    assert done.code == 3, done.out + done.err
    assert why in done.err
    assert not (paper.home / "bisect").exists()


@pytest.mark.parametrize("count", [2, 3, 4, 5, 8, 17, 100, 1000])
def test_no_more_steps_than_the_logarithm_and_one(count: int) -> None:
    for first_bad in range(1, count):
        known: dict[int, Finding] = {}
        while (at := next_point(count, known)) is not None:
            known[at] = Finding.BAD if at >= first_bad else Finding.GOOD
        assert bounds(count, known) == (first_bad - 1, first_bad)
        assert len(known) <= most_steps(count) <= log2(count) + 2


def test_what_is_skipped_stays_between_the_bounds() -> None:
    skipped = {4, 5, 6}
    known: dict[int, Finding] = {}
    while (at := next_point(11, known)) is not None:
        bad = Finding.BAD if at >= 5 else Finding.GOOD
        known[at] = Finding.UNKNOWN if at in skipped else bad
    assert bounds(11, known) == (3, 7)
    assert {known[3], known[7]} == {Finding.GOOD, Finding.BAD}


def test_the_patch_that_breaks_a_gate_is_found(project: Project) -> None:
    write(project, range(100, 101), lambda _: [])
    before = program_of(100)
    changes = {
        "first": ("ggml/a", "a\n", "b\n"),
        "second": ("common/a", "a\n", "b\n"),
        "third": (SERVER, before, program_of(100, fake_build.SILENT)),
        "fourth": ("models/templates/a", "a\n", "b\n"),
    }
    for name, (file, old, new) in changes.items():
        was, now = (it.splitlines(keepends=True) for it in (old, new))
        text = "".join(unified_diff(was, now, f"a/{file}", f"b/{file}"))
        needs = f"needs: {{files: {file}, contains: .}}\n"
        write_patch(
            project.stack.parent / "patches",
            text=text,
            description=f"name: {name}\nwhy: it is to be found\nstatus: ours\n"
            f"reference: https://example.org/pull/1\n{needs}",
            name=name,
        )
    patches = f"patches: [{', '.join(changes)}], source: git"
    text = project.stack.read_text().replace("source: git", patches)
    project.stack.write_text(text)
    found = bisected(project, "--patches", "--gate", "chat")
    assert found["points"] == ["no patch", "first", "second", "third", "fourth"]
    assert (found["first_bad"], found["last_good"]) == ("third", "second")
    assert (found["pulls"], found["trap"]) == ([], "")
    done = project.run("bisect", "stacks/demo.yaml", "--patches", "--gate", "chat")
    assert "first bad patch: third (second is good)" in done.out


def test_the_quantisation_that_breaks_a_gate_is_found(
    project: Project, tiny_model: Path
) -> None:
    write(project, range(100, 101), lambda _: [fake_build.COARSE])
    text = project.stack.read_text().replace(
        "path: tiny.gguf", f"repo: {REPO}, quant: Q8_0"
    )
    project.stack.write_text(text)
    quants = ("Q8_0", "Q5_0", "Q4_0", "Q3_0", "Q2_0")
    with sites() as make:
        api, cdn = make(), make()
        hub = Hub(api, cdn, {"HF_ENDPOINT": api.url})
        content = tiny_model.read_bytes()
        hub.publish({f"m-{it}.gguf": content + it.encode() for it in quants})
        words = ("--quants", ",".join(quants), "--gate", "chat")
        done = project.run(
            "bisect", "stacks/demo.yaml", *words, env=dict(hub.environment)
        )
    assert done.code == 0, done.err
    assert "first bad quant: Q3_0 (Q4_0 is good)" in done.out
