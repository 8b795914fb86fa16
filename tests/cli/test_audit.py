"""What the history knows: who did what, from what and why, also what failed."""

import json

import pytest

from tests.cli.project import STACK, Project

DEMO = "stacks/demo.yaml"
CI = {
    "GITHUB_ACTIONS": "true",
    "GITHUB_ACTOR": "octocat",
    "GITHUB_REPOSITORY": "o/r",
    "GITHUB_RUN_ID": "41",
    "GITHUB_SERVER_URL": "https://github.com",
    "GITHUB_SHA": "c" * 40,
}
PAGE = "https://github.com/o/r/actions/runs/41/attempts/1"
WIDER = STACK.replace("ctx_size: 1024", "ctx_size: 512")
SLOW = STACK.replace("  chat: {}", "  chat: {}\n  speed: {tokens_per_second: 1000000}")


@pytest.mark.real
def test_all_that_is_done_is_recorded_with_who_from_what_and_why(
    project: Project,
) -> None:
    run = project.run
    assert run("apply", DEMO, "--yes", "-m", "first").code == 0
    project.write(WIDER)
    assert run("apply", DEMO, "--yes", env=CI).code == 0
    project.write(SLOW)
    blocked = run("apply", DEMO, "--yes", "--message", "faster?")
    assert blocked.code == 6
    seen = run("status", DEMO)
    assert "  ! the last apply (" in seen.out
    assert " blocked: not promoted: failed `speed`" in seen.out
    (data,) = run("status", DEMO, "--json").results()
    assert data["failed"]["why"] == "faster?"
    assert run("rollback", DEMO, "--yes", "-m", "too small").code == 0
    assert "the last" not in run("status", DEMO).out
    project.write(WIDER)
    assert run("stop", DEMO, "--message", "the fan is loud").code == 0
    assert run("drift", DEMO, "--detailed-exitcode").code == 2
    run("drift", DEMO)  # the same drift is not recorded twice

    found = run("history", DEMO, "--json").results()
    assert [(it["cause"], it["outcome"], it["why"]) for it in found] == [
        ("drift", "done", ""),
        ("stop", "done", "the fan is loud"),
        ("rollback to 1", "released", "too small"),
        ("apply", "blocked", "faster?"),
        ("apply", "released", ""),
        ("apply", "released", "first"),
    ]
    assert [it["release"] for it in found] == [None, None, 3, None, 2, 1]
    assert found[4]["origin"]["actor"] == "octocat"
    assert found[4]["origin"]["run"] == PAGE
    assert found[4]["changes"] == ["server.ctx_size 1024 → 512"]
    assert found[0]["changes"][0].startswith("demo/server: ")
    text = run("history", DEMO)
    assert f"by octocat · commit cccccccccccc · plan {found[4]['plan']} · {PAGE}" in (
        text.out
    )
    assert "change: server.ctx_size 1024 → 512" in text.out
    assert "why: the fan is loud" in text.out
    assert "failed: not promoted: failed `speed`" in text.out
    assert len(run("history", DEMO, "--last", "2", "--json").results()) == 2

    shown = run("history", DEMO, "--show", "2")
    assert "  server.ctx_size                  512" in shown.out
    assert "  gate chat: pass: answered " in shown.out
    (release,) = run("history", DEMO, "--show", "2", "--json").results()
    assert release["fields"]["server.ctx_size"] == 512
    assert run("history", DEMO, "--show", "9").code == 3

    log = project.state.parent / "log" / "demo"
    for line in (log / "00000001.jsonl").read_text().splitlines():
        assert json.loads(line)["at"]
    state = project.state.read_text()
    assert "the fan is loud" not in state


@pytest.mark.real
def test_a_stack_on_hold_is_not_applied_and_everybody_reads_why(
    project: Project,
) -> None:
    run = project.run
    early = run("hold", DEMO, "--why", "too early")
    assert early.code == 3
    assert run("apply", DEMO, "--yes").code == 0
    assert run("hold", DEMO).code == 3
    assert run("hold", DEMO, "--end").code == 3
    before = project.server()
    assert run("hold", DEMO, "--why", "black friday", env=CI).code == 0
    assert "on hold since" in run("status", DEMO).out
    assert run("apply", DEMO, "--yes").code == 0  # nothing to do
    project.write(WIDER)
    plan = run("plan", DEMO, "--format", "markdown")
    assert "note: `demo` is on hold since" in plan.out
    blocked = run("apply", DEMO, "--yes")
    assert blocked.code == 5
    assert "UTC, by octocat: black friday" in blocked.err
    assert f"`deployer hold {DEMO} --end` ends a hold" in blocked.err
    assert project.server() == before
    assert run("hold", DEMO, "--end").code == 0

    file = project.folder / "deployer.yaml"
    freeze = "freeze: [{first: FIRST, last: 2999-12-31, why: the audit}]\n"
    file.write_text(f"version: 1\n{freeze.replace('FIRST', '2026-01-01')}")
    frozen = run("apply", DEMO, "--yes")
    assert frozen.code == 5
    assert "nothing is applied until 2999-12-31 (deployer.yaml): the audit" in (
        frozen.err
    )
    file.write_text(f"version: 1\n{freeze.replace('FIRST', '2999-12-30')}")
    assert run("apply", DEMO, "--yes").code == 0
    found = run("history", DEMO, "--json").results()
    causes = [(it["cause"], it["why"]) for it in found]
    assert causes[1:3] == [("hold ended", ""), ("hold", "black friday")]
