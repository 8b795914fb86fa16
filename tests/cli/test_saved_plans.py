"""plan --out, show, and apply of a plan file, as they are typed."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.project import STACK, Project

DEMO = "stacks/demo.yaml"
WIDER = STACK.replace("1024", "2048")


@pytest.fixture
def planned(paper: Project) -> Project:
    done = paper.run("plan", DEMO, "--out", "demo.plan")
    assert done.code == 0, done.err
    return paper


def stale(project: Project, *words: str) -> str:
    done = project.run("apply", *words)
    assert (done.code, done.out) == (7, "")
    assert "hint: plan again: `deployer plan stacks/demo.yaml --out" in done.err
    return done.err.splitlines()[0].removeprefix("error: the plan is stale: ")


def test_show_prints_what_plan_printed_and_the_steps(planned: Project) -> None:
    plan = planned.run("plan", DEMO, "--steps")
    shown = planned.run("plan", "demo.plan").out.splitlines()
    # What an apply will fetch and write is of the machine that plans, not in the file.
    assert shown == [line for line in plan.out.splitlines() if line in shown]
    assert len(plan.out.splitlines()) - len(shown) == 3
    markdown = planned.run("plan", DEMO, "--format", "markdown").out
    assert planned.run("plan", "demo.plan", "--format", "markdown").out == markdown


def test_show_as_json_is_the_plan_as_json(planned: Project) -> None:
    shown = planned.run("plan", "demo.plan", "--json").results()
    assert shown == planned.run("plan", DEMO, "--json").results()


def test_the_same_plan_is_the_same_file(planned: Project) -> None:
    before = (planned.folder / "demo.plan").read_bytes()
    planned.run("plan", DEMO, "--out", "demo.plan")
    assert (planned.folder / "demo.plan").read_bytes() == before


def test_out_keeps_one_plan(planned: Project) -> None:
    planned.write(STACK.replace("name: demo", "name: other"), "other")
    done = planned.run("plan", "stacks", "--out", "all.plan")
    assert done.code == 3
    assert done.err.startswith("error: `--out` saves the plan of one stack\n")


def test_out_overwrites_no_file_of_another_kind(paper: Project) -> None:
    before = paper.stack.read_bytes()
    done = paper.run("plan", DEMO, "--out", DEMO)
    assert done.code == 3
    assert paper.stack.read_bytes() == before


def test_a_changed_stack_is_refused_and_says_the_field(planned: Project) -> None:
    planned.write(WIDER)
    assert stale(planned, "demo.plan") == "`server.ctx_size` 1024 → 2048"


def test_a_comment_makes_no_plan_stale(planned: Project) -> None:
    planned.write("# a comment\n" + STACK)
    done = planned.run("apply", "demo.plan")
    assert done.code == 1  # the binary only looks right: it got as far as running it
    assert "stale" not in done.err


def test_other_weights_are_refused(planned: Project) -> None:
    (planned.stack.parent / "tiny.gguf").write_bytes(b"GGUF\x03\0\0\0" + bytes(99))
    told = stale(planned, "demo.plan")
    assert told == "the lock file, or what the stack resolves to, changed"


def tampered(project: Project, change: Callable[[dict[str, object]], None]) -> None:
    file = project.folder / "demo.plan"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("catalogue", "the catalogue of llama-server's options changed"),
        ("deployer", "deployer was other and is 0.1.0"),
        ("stack", "the stack changed"),
        ("lock", "the lock file, or what the stack resolves to, changed"),
    ],
)
def test_every_binding_is_held(planned: Project, name: str, told: str) -> None:
    tampered(planned, lambda c: c["bound"].update({name: "other"}))  # type: ignore[attr-defined]
    assert stale(planned, "demo.plan") == told


def test_a_plan_that_promises_less_refuses_more(planned: Project) -> None:
    def keeps(content: dict[str, object]) -> None:
        content["plan"]["changes"][-1]["reasons"] = []  # type: ignore[index]

    tampered(planned, keeps)
    told = stale(planned, "demo.plan")
    assert told == "`demo/server` would change more than planned"


def test_a_plan_file_never_says_what_is_run(planned: Project) -> None:
    """What a stranger writes into it is compared, and never carried out."""

    def attacks(content: dict[str, object]) -> None:
        after = content["plan"]["changes"][-1]["after"]  # type: ignore[index]
        after["spec"]["argv"] = ["/bin/sh", "-c", "touch pwned"]

    tampered(planned, attacks)
    planned.run("apply", "demo.plan")
    assert not list(planned.folder.rglob("pwned"))


@pytest.mark.parametrize("place", ["/etc/passwd", "../outside.yaml", "a/../../b.yaml"])
def test_a_plan_file_leads_to_no_stack_outside(planned: Project, place: str) -> None:
    tampered(planned, lambda content: content.update({"file": place}))
    done = planned.run("apply", "demo.plan")
    assert done.code == 3
    assert done.err.startswith("error: the plan is for a stack outside of this folder")


def test_the_stack_of_a_plan_may_be_named(planned: Project, tmp_path: Path) -> None:
    planned.write(WIDER)
    moved = (planned.folder / "demo.plan").rename(tmp_path / "moved.plan")
    assert stale(planned, DEMO, str(moved)) == "`server.ctx_size` 1024 → 2048"


@pytest.mark.real
def test_a_plan_is_applied_once(project: Project) -> None:
    project.run("plan", DEMO, "--out", "demo.plan")
    done = project.run("apply", "demo.plan")
    assert done.code == 0, done.out + done.err
    assert f"Release 1 is live at {project.url}" in done.out

    again = stale(project, "demo.plan")
    assert again == "there was no state then"

    empty = project.run("plan", DEMO, "--out", "demo.plan", "--detailed-exitcode")
    assert empty.code == 0
    assert "No changes" in project.run("apply", "demo.plan").out

    project.write(WIDER)
    project.run("plan", DEMO, "--out", "wider.plan")
    assert project.run("apply", "wider.plan").code == 0
    assert project.run("refresh", "stacks").out == f"{DEMO}: no drift\n"
    project.end()
    seen = project.run("refresh", "stacks", "--detailed-exitcode")
    assert seen.code == 2
    assert seen.out.startswith(f"{DEMO}: demo/server: ")
    refreshed = project.run("plan", DEMO, "--refresh")
    assert "  ! drift    demo/server: " in refreshed.out
    assert "  ↻ server " in refreshed.out
