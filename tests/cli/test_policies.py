"""Policies of a project: what they refuse, where, and that nobody weakens them."""

import re
from importlib import import_module
from pathlib import Path

import pytest

from deployer.diagnostics import Diagnostic, Place, Severity
from deployer.errors import StackError
from deployer.stack.fields.values import JsonValue
from deployer.stack.load import broken, rules_in
from tests.cli.project import STACK, Project

DEMO = "stacks/demo.yaml"
HEAD = "version: 1\nrules:\n"
PORT = """\
  - name: port
    path: server.parallel
    message: one request at a time
    test: {at_most: 1}
"""
COSTS = """\
  - name: gates
    path: plan.gates
    message: the gate stream is required
    test: {contains: stream}
"""


TODAY = "2026-11-30"


def found(rule: str, values: dict[str, JsonValue], today: str = TODAY) -> list[str]:
    """What a rule finds, in words."""
    rules = rules_in(HEAD + rule, "policies/p.yaml")
    places = {path: Place("s.yaml", 7, 3) for path in values}
    return [it.what for it in broken(rules, "demo", values, places, "s.yaml", today)]


def one(path: str, test: str, more: str = "") -> str:
    return f"  - {{name: r, path: {path}, message: no, test: {{{test}}}{more}}}\n"


@pytest.mark.parametrize(
    ("test", "good", "bad", "words"),
    [
        ("equals: 1", 1, 2, "`2`, expected `1`"),
        ("not_equals: a", "b", "a", "`a`, expected anything but `a`"),
        ("one_of: [a, b]", "b", "c", "`c`, expected one of `a`, `b`"),
        ("none_of: [a, b]", "c", "b", "`b`, expected none of `a`, `b`"),
        ("at_most: 2", 2, 2.5, "`2.5`, expected at most `2`"),
        ("at_least: 2", 2, 1, "`1`, expected at least `2`"),
        ("matches: 'b\\d+'", "b12", "b12x", "`b12x`, expected a match of `b\\d+`"),
        ("contains: a", ["b", "a"], ["b"], "`b`, expected to contain `a`"),
    ],
)
def test_every_comparison_passes_and_fails(
    test: str, good: JsonValue, bad: JsonValue, words: str
) -> None:
    assert found(one("x.y", test), {"x.y": good}) == []
    assert found(one("x.y", test), {"x.y": bad}) == [f"no: `x.y` is {words}"]
    assert found(one("x.y", test), {}) == ["no: `x.y` is not set"]
    assert found(one("x.y", test, ", or_unset: true"), {}) == []


@pytest.mark.parametrize("value", ["1000000", True, None, [3]])
def test_what_is_no_number_is_within_no_limit(value: JsonValue) -> None:
    assert found(one("x", "at_most: 4"), {"x": value})


def test_what_must_or_must_not_be_there() -> None:
    assert found(one("server.tools", "set: false"), {}) == []
    told = found(one("server.tools", "set: false"), {"server.tools": True})
    assert told == ["no: `server.tools` is set"]
    assert found(one("auth.*", "set: true"), {"auth.api_key.env": "K"}) == []
    assert found(one("auth.*", "set: true"), {"x": 1}) == ["no: `auth.*` is not set"]


def test_a_rule_counts_where_its_conditions_hold() -> None:
    rule = one("auth.*", "set: true", ", when: {local.host: {not_equals: 127.0.0.1}}")
    assert found(rule, {"local.host": "127.0.0.1"}) == []
    assert found(rule, {}) == []
    assert found(rule, {"local.host": "0.0.0.0"}) == ["no: `auth.*` is not set"]  # noqa: S104 - a value


def test_an_exception_has_a_reason_and_an_end() -> None:
    more = ", exceptions: [{stack: demo, reason: a test, until: 2026-11-30}]"
    rule = one("x", "equals: 1", more)
    assert found(rule, {"x": 2}) == []
    (late,) = found(rule, {"x": 2}, "2026-12-01")
    assert late.endswith("; its exception ended 2026-11-30 (a test)")
    for lacks in ("reason: a test, ", "until: 2026-11-30", "stack: demo, "):
        with pytest.raises(StackError):
            rules_in(HEAD + rule.replace(lacks, ""), "policies/p.yaml")


def test_a_file_with_mistakes_says_where() -> None:
    for wrong, words in (
        ("equal: 1", "`equal` is not known"),
        ("matches: '('", "`matches` is no regular expression"),
    ):
        with pytest.raises(StackError) as caught:
            rules_in(HEAD + one("x", wrong), "policies/p.yaml")
        (problem,) = caught.value.problems
        assert (problem.place.file, problem.place.line) == ("policies/p.yaml", 3)
        assert words.split()[0] in problem.what


def test_a_warning_is_one() -> None:
    rules = rules_in(HEAD + one("x", "equals: 1", ", severity: warn"), "p")
    (warning,) = broken(rules, "demo", {"x": 2}, {}, "s.yaml", "2026-11-30")
    assert isinstance(warning, Diagnostic)
    assert (warning.severity, warning.place) == (Severity.WARNING, Place("s.yaml"))


def write(project: Project, text: str) -> Path:
    file = project.folder / "policies" / "team.yaml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(HEAD + text)
    return file


@pytest.fixture
def guarded(paper: Project) -> Project:
    """A project in git with a policy that its stack breaks."""
    (paper.folder / ".gitignore").write_text("home/\n.deployer/\n")
    write(paper, PORT)
    who = "-c user.name=t -c user.email=t@t"
    line = f"git init -q -b main && git add -A && git {who} commit -qm stack"
    assert paper.shell(line).code == 0
    return paper


def test_validate_plan_and_apply_refuse_with_the_line(guarded: Project) -> None:
    line = STACK.splitlines().index("  parallel: 2") + 1
    for words in (("validate", DEMO), ("plan", DEMO), ("apply", DEMO, "--yes")):
        done = guarded.run(*words)
        assert done.code == 3
        told = f"{DEMO}:{line}:3: error: one request at a time: `server.parallel` is"
        assert told in done.err, done.err
        assert "`2`, expected at most `1`" in done.err
        assert "hint: rule `port` at policies/team.yaml:3:5" in done.err
    comment = guarded.run("plan", DEMO, "--format", "markdown", "--annotate")
    assert "one request at a time: `server.parallel` is `2`" in comment.out
    assert f"::error file={DEMO},line={line},col=3,title=deployer::" in comment.err


def test_what_only_a_plan_knows_is_left_to_it(guarded: Project) -> None:
    write(guarded, COSTS)
    assert guarded.run("validate", DEMO).code == 0
    done = guarded.run("plan", DEMO)
    assert done.code == 3
    assert "the gate stream is required: `plan.gates` is `health`, `chat`" in done.err


def test_a_warning_is_shown_and_stops_nothing(guarded: Project) -> None:
    write(guarded, PORT + "    severity: warn\n")
    done = guarded.run("plan", DEMO)
    assert done.code == 0
    assert ": warning: one request at a time: " in done.out


def test_a_pull_request_cannot_weaken_the_policies_of_its_base(
    guarded: Project,
) -> None:
    """It deletes the file, or changes it, or adds an exception for itself."""
    file = guarded.folder / "policies" / "team.yaml"
    exception = "    exceptions: [{stack: demo, reason: mine, until: 2999-01-01}]\n"
    file.write_text(HEAD + PORT + exception)
    assert guarded.run("plan", DEMO).code == 0
    guarded.write(STACK.replace("1024", "2048"))
    for _ in range(2):
        done = guarded.run("plan", "stacks", "--changed-since", "main")
        assert done.code == 3
        assert "one request at a time" in done.err
        file.unlink(missing_ok=True)
    file.parent.rmdir()
    assert guarded.run("plan", "stacks", "--changed-since", "main").code == 3


DOCS = Path(__file__).parents[2] / "docs"


def test_the_file_to_begin_with_is_one() -> None:
    file = DOCS / "gitops" / "policies.yaml"
    rules = rules_in(file.read_text(), "policies/team.yaml")
    assert len({it.rule.name for it in rules}) == len(rules) > 5
    values: dict[str, JsonValue] = {
        "engine": "local",
        "local.host": "0.0.0.0",  # noqa: S104 - a value
        "llama_cpp.tag": "b11434",
        "plan.gates": ["health", "chat"],
        "plan.advisories": [],
    }
    (told,) = broken(rules, "demo", values, {}, "s.yaml", TODAY)
    assert told.code == "policy-key-where-others-reach-it"


def test_open_policy_agent_reads_a_plan(guarded: Project, tmp_path: Path) -> None:
    """The rules of the page, on a plan that destroys."""
    opa_eval = import_module("opa_eval")  # of the tests' own requirements
    (block,) = re.findall(
        r"```text\n(package.*?)```", (DOCS / "policies.md").read_text(), re.DOTALL
    )
    rules = tmp_path / "destroy.rego"
    rules.write_text(block)
    judge = opa_eval.OpaEval(str(rules), query="data.main.deny")
    (guarded.folder / "policies" / "team.yaml").unlink()
    plan = guarded.run("plan", DEMO, "--json")
    assert plan.code == 0, plan.err
    assert "would be destroyed" not in str(judge.evaluate(plan.out))
    gone = plan.out.replace('"action":"create"', '"action":"delete"')
    assert "would be destroyed: demo/server" in str(judge.evaluate(gone))
