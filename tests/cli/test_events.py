"""`apply --json`: a stream that a program can read while it goes on."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema

from deployer.show.data import events_schema
from tests.cli.project import Done, Project

DEMO = "stacks/demo.yaml"
ROOT = Path(__file__).parents[2]


def stream(done: Done) -> list[dict[str, Any]]:
    """The lines but for progress, which keep what the form promises."""
    found = done.lines()
    checker = jsonschema.Draft202012Validator(events_schema())
    for line in found:
        checker.validate(line)
    first, *between, last = found
    assert first["type"] == "version"
    assert last["type"] == "summary"
    assert last["counts"] == dict(Counter(line["type"] for line in between))
    assert last["exit_code"] == done.code
    return [line for line in found if line["type"] != "progress"]


def test_an_apply_as_lines(project: Project) -> None:
    lines = stream(project.run("apply", DEMO, "--yes", "--json"))
    kinds = [line["type"] for line in lines]
    assert kinds[1] == "plan"
    assert kinds.count("verdict") == 3
    steps = [line["step"] for line in lines if line["type"] == "ended"]
    assert steps == ["make", "stage", "check", "promote"]
    applied = lines[-2]
    assert (applied["type"], applied["changed"], applied["release"]) == (
        "applied",
        True,
        1,
    )
    assert applied["url"] == project.url

    again = stream(project.run("apply", DEMO, "--json"))
    assert [line["type"] for line in again] == ["version", "plan", "applied", "summary"]
    assert again[-2]["changed"] is False


def test_a_question_cannot_be_asked(paper: Project) -> None:
    done = paper.run("apply", DEMO, "--json")
    lines = stream(done)
    assert done.code == 3
    assert [line["type"] for line in lines] == ["version", "plan", "error", "summary"]
    assert "--yes" in lines[-2]["hint"]


def test_a_broken_stack_ends_in_a_summary_too(paper: Project) -> None:
    paper.stack.write_text("name: demo\nno_such: 1\n")
    lines = stream(paper.run("apply", DEMO, "--yes", "--json"))
    assert [line["type"] for line in lines] == ["version", "error", "summary"]
    assert lines[1]["problems"][0]["line"] == 1


def test_a_failed_gate_is_in_the_stream(project: Project) -> None:
    text = project.stack.read_text()
    project.stack.write_text(
        text.replace("chat: {}", "speed: {tokens_per_second: 1e9}")
    )
    done = project.run("apply", DEMO, "--yes", "--json")
    lines = stream(done)
    assert done.code == 6
    outcomes = {v["gate"]: v["outcome"] for v in lines if v["type"] == "verdict"}
    assert outcomes["speed"] == "fail"
    assert lines[-2]["type"] == "error"


def test_the_published_schema_is_the_generated_one(paper: Project) -> None:
    committed = (ROOT / "schema" / "events.schema.json").read_text("utf-8")
    assert committed == paper.run("schema", "events").out
    jsonschema.Draft202012Validator.check_schema(json.loads(committed))
