"""Known traps where users meet them: validate, plan, and their list."""

import json

from tests.cli.project import STACK, Project
from tests.gguf.files import SMALL_MODEL

TRAPPED = STACK.replace("  ctx_size: 1024", "  reasoning_budget: 0\n  ctx_size: 1024")
TOLD = """\
stacks/demo.yaml:14:3: warning: with a budget of 0 the thinking can arrive as the\
 answer [budget-zero]
  hint: write `server.reasoning: off`, or `chat_template_kwargs:\
 {enable_thinking: false}`
"""


def ignoring(name: str) -> str:
    other = f"{{trap: {name}, reason: it never thinks}}"
    return TRAPPED.replace("ignore: [", f"ignore: [{other}, ")


def test_validate_tells_a_trap_with_its_place(paper: Project) -> None:
    paper.write(TRAPPED)
    done = paper.run("validate", "stacks/demo.yaml")

    assert (done.code, done.out) == (0, f"stacks/demo.yaml: valid\n{TOLD}")


def test_a_plan_tells_it_also_when_it_is_remembered(paper: Project) -> None:
    paper.write(TRAPPED)
    (paper.stack.parent / "tiny.gguf").write_bytes(SMALL_MODEL)
    assert paper.run("fetch", "stacks/demo.yaml").code in (0, 1)  # writes the lock
    for _ in range(2):
        done = paper.run("plan", "stacks/demo.yaml")
        assert done.code == 0
        assert done.out.endswith(TOLD)
    assert paper.run("validate", "stacks/demo.yaml").out.endswith(TOLD)


def test_programs_get_it_as_json_and_reviewers_as_markdown(paper: Project) -> None:
    paper.write(TRAPPED)
    (plan,) = paper.run("plan", "stacks/demo.yaml", "--json").results()
    page = paper.run("plan", "stacks/demo.yaml", "--format", "markdown").out

    (notice,) = plan["notices"]
    assert (notice["id"], notice["line"]) == ("budget-zero", 14)
    assert "\n  stacks/demo.yaml:14:3: warning: with a budget of 0" in page


def test_an_error_is_refused(paper: Project) -> None:
    wrong = STACK.replace(
        "  mmap: false", "  flash_attn: off\n  cache_type_v: q8_0\n  mmap: false"
    )
    paper.write(wrong)
    done = paper.run("plan", "stacks/demo.yaml")

    assert done.code == 3
    assert done.err.startswith("stacks/demo.yaml:17:3: error: a quantised V cache")
    assert "hint: write `server.flash_attn: on`" in done.err


def test_a_reason_silences_it(paper: Project) -> None:
    paper.write(ignoring("budget-zero"))
    done = paper.run("validate", "stacks/demo.yaml")

    assert (done.code, done.out) == (0, "stacks/demo.yaml: valid\n")


def test_a_slip_in_the_name_is_an_error(paper: Project) -> None:
    paper.write(ignoring("budget-zro"))
    done = paper.run("validate", "stacks/demo.yaml")

    assert done.code == 3
    assert "error: there is no known issue `budget-zro`" in done.err
    assert "hint: did you mean `budget-zero`?" in done.err


def test_a_trap_is_explained_by_its_name(paper: Project) -> None:
    done = paper.run("explain", "trap", "budget-ignored")

    assert done.out.startswith("budget-ignored: error on b8665 to b8743\n")
    assert "issues/21697" in done.out


def test_the_list_is_json_for_programs(paper: Project) -> None:
    lines = paper.run("explain", "trap", "--json").results()

    assert {line["type"] for line in lines} == {"trap"}
    assert len(lines) > 30


def test_an_unknown_trap_is_not_explained(paper: Project) -> None:
    done = paper.run("explain", "trap", "budget-zro")

    assert (done.code, done.out) == (3, "")
    assert "did you mean `budget-zero`?" in done.err


def test_an_upgrade_is_told_and_then_written(paper: Project) -> None:
    paper.write(TRAPPED)
    before = paper.stack.read_text(encoding="utf-8")
    told = paper.run("upgrade", "stacks/demo.yaml", "--to", "b11434")
    assert told.code == 0
    assert "  ✖ llama_cpp.binary:" in told.out
    assert "-  tag: b10434\n+  tag: b11434\n" in told.out
    assert paper.stack.read_text(encoding="utf-8") == before

    done = paper.run("upgrade", "stacks/demo.yaml", "--to", "b11434", "--write")
    assert done.code == 0, done.err
    assert "wrote stacks/demo.yaml\n\ndemo on local · plan " in done.out
    after = paper.stack.read_text(encoding="utf-8")
    assert after == before.replace("b10434", "b11434")


def test_an_upgrade_is_json_for_programs(paper: Project) -> None:
    done = paper.run("upgrade", "stacks/demo.yaml", "--to", "b11434", "--json")

    (found,) = done.results()
    assert (found["old"], found["new"]) == ("b10434", "b11434")
    assert found["written"] is False
    assert json.dumps(found["files"]).count("b11434") == 1


def test_an_advisory_stands_in_every_view_of_a_stack(paper: Project) -> None:
    ignored = next(line for line in STACK.splitlines() if "CVE-" in line)
    paper.write(STACK.replace(ignored, ""))
    demo = "stacks/demo.yaml"
    views = (
        ("validate", demo),
        ("doctor", demo),
        ("plan", demo),
        ("plan", demo, "--format", "markdown"),
    )
    for words in views:
        done = paper.run(*words)
        assert "[CVE-2026-107183]" in " ".join((done.out + done.err).split()), words
    # The binary stays the build that it is, whatever the tag says.
    stays = paper.run("upgrade", demo, "--to", "b11434").out
    assert "advisories left\n  ? CVE-2026-107183: " in stays
    paper.write(STACK.replace(ignored, "").replace("  binary: BINARY\n", ""))
    leaves = paper.run("upgrade", demo, "--to", "b11434").out
    assert "advisories left\n  ✔ CVE-2026-107183: " in leaves
