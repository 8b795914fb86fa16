"""`report`: what is recorded of real releases, and of stacks that cannot be read."""

import shutil

import html5lib

from tests.cli.project import KEY, STACK, Done, Project

DEMO = "stacks/demo.yaml"
GATES = "  chat: {}\n"
TOO_FAST = "  chat: {}\n  speed: {tokens_per_second: 100000000}\n"


def text_of(project: Project, name: str = "deployer-report.html") -> str:
    html = (project.folder / name).read_text(encoding="utf-8")
    return " ".join(" ".join(html5lib.parse(html).itertext()).split())


def runs(done: Done) -> list[tuple[object, ...]]:
    (stack,) = done.results()
    return [(it["number"], it["held_back"], it["cause"]) for it in stack["runs"]]


def test_releases_what_was_held_back_and_a_rollback_are_told(live: Project) -> None:
    larger = STACK.replace("ctx_size: 1024", "ctx_size: 2048")
    live.write(larger)
    assert live.run("apply", DEMO, "--yes").code == 0
    live.write(STACK.replace(GATES, TOO_FAST))
    assert live.run("apply", DEMO, "--yes").code == 6
    assert live.run("rollback", DEMO, "--yes").code == 0
    assert live.run("watch", DEMO, "--idle", "0s").code == 0

    done = live.run("report", "--json")
    assert runs(done) == [
        (3, False, "rollback to 1"),
        (None, True, "apply"),
        (2, False, "apply"),
        (1, False, "apply"),
    ]
    (stack,) = done.results()
    held = stack["runs"][1]
    assert "server.ctx_size 2048 → 1024" in held["changes"]
    assert held["gates"][-1]["outcome"] == "fail"
    assert held["tokens_per_second"] > 1
    assert stack["runs"][2]["changes"] == ["server.ctx_size 1024 → 2048"]
    assert [probe["path"] for probe in stack["probes"]] == ["restore", "warm"]

    written = live.run("report", "--out", "page.html")
    assert (written.code, written.out) == (0, "wrote page.html: 1 stack\n")
    text = text_of(live, "page.html")
    assert "✖ not promoted" in text
    assert "everything is new: build, weights, server" in text
    assert "rollback to 1" in text
    assert "less than tokens_per_second: 1e+08" in text
    assert KEY not in text + done.out


def test_releases_that_the_state_forgot_are_still_told(live: Project) -> None:
    """Also without the record, as on another machine: then from the state alone."""
    keep = STACK + "rollout: {keep: 1}\n"
    live.write(keep.replace("ctx_size: 1024", "ctx_size: 2048"))
    assert live.run("apply", DEMO, "--yes").code == 0
    assert runs(live.run("report", "--json")) == [
        (2, False, "apply"),
        (1, False, "apply"),
    ]

    shutil.rmtree(live.state.parent / "log")
    done = live.run("report", "--json")
    assert runs(done) == [(2, False, "apply")]
    assert done.results()[0]["runs"][0]["changes"] is None


def test_a_stack_that_cannot_be_read_says_so_and_hides_no_other(paper: Project) -> None:
    paper.write(STACK.replace("name: demo", "name: broken"), "broken")
    paper.state.parent.mkdir(parents=True)
    paper.state.with_name("broken.state.json").write_text('{"version": 2, "oops')
    paper.state.with_name("left.state.json").write_text(f"<script>{KEY}")
    paper.write("name: [", "noname")

    done = paper.run("report", "--out", "page.html")
    assert done.code == 1
    assert done.out == "wrote page.html: 4 stacks\n"
    assert "broken.state.json` is damaged" in done.err
    assert "`stacks/noname.yaml` names no stack" in done.err
    text = text_of(paper, "page.html")
    assert "demo nothing is live; never applied from here" in text
    assert text.count("✖ not readable") == 3
    assert KEY not in text + done.err


def test_a_store_that_cannot_be_reached_is_a_row(paper: Project) -> None:
    env = {"DEPLOYER_STATE_URL": "s3://states/x?endpoint=http://127.0.0.1:9&region=eu"}
    keys = {"AWS_ACCESS_KEY_ID": "AKIDTEST", "AWS_SECRET_ACCESS_KEY": "very-secret"}
    done = paper.run("report", DEMO, env={**env, **keys})
    assert done.code == 1
    assert "cannot be read" in text_of(paper)
    assert "very-secret" not in text_of(paper) + done.err


def test_secrets_of_the_environment_are_left_out(live: Project) -> None:
    """Whatever wrote them down."""
    record = live.stack.parent / ".deployer" / "watch" / "demo.jsonl"
    record.parent.mkdir(exist_ok=True)
    probe = (
        '{"at": "2026-11-24T12:00:00+00:00", "path": "warm", "ok": false,'
        ' "ttft_seconds": null, "limit_seconds": 5, "because": "said SECRET",'
        ' "failures_total": 1, "server_errors_total": 0}\n'
    )
    strange = [
        probe.replace("null", value) for value in ("NaN", '"x"', "-1", "1e999", "[]")
    ]
    strange += ["no probe\n", "[]\n", probe.replace('"warm"', "7")]
    record.write_text(probe.replace("SECRET", KEY) + "".join(strange))
    done = live.run("report", "--json")
    (only,) = done.results()[0]["probes"]
    assert only["because"] == "said [redacted]"
    assert KEY not in done.out


def test_a_page_that_cannot_be_written_says_so(paper: Project) -> None:
    done = paper.run("report", "--out", "no/page.html")
    assert (done.code, done.out) == (3, "")
    assert done.err == "error: cannot write `no/page.html`: No such file or directory\n"


def test_no_stack_at_all_is_a_wrong_call(paper: Project) -> None:
    (paper.folder / "empty").mkdir()
    done = paper.run("report", "empty")
    assert done.code == 3
    assert done.err.startswith("error: no stack in `empty`")
