"""init, validate, lock and plan: nothing of it needs a server or the network."""

import json

from tests.cli.project import COMMAND, STACK, Project

DEMO = "stacks/demo.yaml"


def test_init_writes_a_stack_that_validates(paper: Project) -> None:
    done = paper.run("init", "new/mine.yaml")

    assert done.code == 0
    assert done.out == (
        "wrote new/mine.yaml\n"
        "wrote new/base-model.jinja\n"
        "wrote schema/stack.schema.json\n"
        "wrote new/.env.example\n"
        "wrote new/.gitignore\n"
        "\nnext:\n  deployer plan new/mine.yaml\n  deployer apply new/mine.yaml\n"
    )
    first, *_ = (paper.folder / "new/mine.yaml").read_text("utf-8").splitlines()
    assert first == "# yaml-language-server: $schema=../schema/stack.schema.json"
    assert paper.run("validate", "new").out == "new/mine.yaml: valid\n"


def test_a_build_newer_than_what_is_known_is_not_called_valid(paper: Project) -> None:
    text = paper.stack.read_text("utf-8").replace("b10434", "b12000")
    paper.write(text.replace("server:\n", "server:\n  flags: {ctx-sice: 4}\n", 1))

    said = paper.run("validate", "stacks").out
    first, *rest = said.splitlines()
    assert first.endswith("nothing wrong as far as known, but options are uncertain")
    newer = "b12000 is newer than what is known (b11549, 2026-10)"
    assert f"{newer}: options are checked once the source is here" in "\n".join(rest)
    assert f"warning: no build that was read has `--ctx-sice`, and {newer}" in said
    assert "hint: did you mean `ctx-size`?" in said
    assert newer in paper.run("plan", "stacks").out


def test_init_overwrites_nothing(paper: Project) -> None:
    before = paper.stack.read_bytes()
    done = paper.run("init", DEMO)

    assert done.code == 3
    assert done.err == (
        f"error: `{DEMO}` exists already\n"
        "  hint: give another path; nothing was written\n"
    )
    assert paper.stack.read_bytes() == before


def test_lock_writes_the_file_once(paper: Project) -> None:
    first = paper.run("lock", DEMO)
    lock = paper.folder / "stacks/demo.lock.json"
    written = lock.read_bytes()
    second = paper.run("lock", DEMO)

    assert first.out.startswith("stacks/demo.lock.json: written\n  build: nothing → ")
    assert second.out == "stacks/demo.lock.json: unchanged\n"
    assert lock.read_bytes() == written
    assert (first.code, second.code) == (0, 0)


def test_locked_refuses_without_a_lock_file(paper: Project) -> None:
    done = paper.run("plan", DEMO, "--locked")

    assert done.code == 3
    assert done.err == (
        "error: `stacks/demo.lock.json` does not exist, and `--locked` does not write"
        " it\n"
        f"  hint: run `deployer lock {DEMO}`\n"
    )


def test_locked_refuses_weights_that_changed_since(paper: Project) -> None:
    paper.run("lock", DEMO)
    (paper.stack.parent / "tiny.gguf").write_bytes(b"GGUF\x03\0\0\0" + bytes(99))
    done = paper.run("plan", DEMO, "--locked")

    assert done.code == 3
    assert done.err == (
        "error: `stacks/demo.lock.json` pins other weights than the file that is there"
        f" now\n  hint: run `deployer lock {DEMO}`\n"
    )


def test_a_plan_of_a_new_stack(paper: Project) -> None:
    done = paper.run("plan", DEMO)

    assert (done.code, done.err) == (0, "")
    assert "  + build    llama-server b10434" in done.out
    assert "  + weights  tiny.gguf" in done.out or "  + weights  GGUF" in done.out
    assert f"  + server   {paper.url} · tiny" in done.out
    assert "\nPlan: 1 to build, 1 to fetch, 1 to deploy.\n" in done.out
    assert "\nnote: apply writes the lock file stacks/demo.lock.json\n" in done.out


def test_a_plan_writes_neither_state_nor_lock_file(paper: Project) -> None:
    paper.run("plan", DEMO)

    assert {path.name for path in paper.stack.parent.iterdir()} == {
        "demo.yaml",
        "tiny.gguf",
    }


def test_detailed_exitcode_is_2_where_something_would_change(paper: Project) -> None:
    assert paper.run("plan", DEMO, "--detailed-exitcode").code == 2


def test_a_plan_as_json(paper: Project) -> None:
    done = paper.run("plan", DEMO, "--json")

    (plan,) = done.results()
    assert (plan["type"], plan["stack"], plan["empty"]) == ("plan", "demo", False)
    assert [change["kind"] for change in plan["changes"]] == [
        "build",
        "weights",
        "server",
    ]
    assert plan["gates"] == ["health", "chat", "auth"]
    assert json.loads(done.out).keys() == {"format", "results", "exit_code"}


def test_a_plan_as_markdown(paper: Project) -> None:
    done = paper.run("plan", DEMO, "--format", "markdown")

    assert done.out.startswith("#### deployer plan: 1 of 1 stack would change\n")
    assert "\n+ server   http://127.0.0.1:" in done.out
    assert "Next: `deployer apply stacks/demo.yaml`" in done.out
    assert "no recorded state here of stacks/demo.yaml" in done.out


def test_a_broken_stack_does_not_hide_the_others(paper: Project) -> None:
    paper.write(STACK.replace("name: demo", "name: broken\nno_such_key: 1"), "broken")
    paper.write(STACK.replace("name: demo", "name: other"), "other")
    done = paper.run("plan", "stacks")

    assert done.code == 3
    assert "stacks/broken.yaml:3:1: error: unknown key `no_such_key`\n" in done.err
    assert "\n  hint: keys here: " in done.err
    assert "demo on local" in done.out
    assert "other on local" in done.out


def test_a_broken_stack_among_others_as_json(paper: Project) -> None:
    paper.write(STACK.replace("name: demo", "name: broken\nno_such_key: 1"), "broken")
    done = paper.run("plan", "stacks", "--json")

    assert [it["type"] for it in done.results()] == ["error", "plan"]
    assert json.loads(done.out)["exit_code"] == done.code == 3


def test_an_error_of_the_whole_command_is_a_result_as_well(paper: Project) -> None:
    done = paper.run("history", DEMO, "--json")

    (error,) = done.results()
    assert (error["type"], error["exit_code"], done.code) == ("error", 3, 3)
    assert error["message"] in done.err


def test_the_schema_is_json(paper: Project) -> None:
    schema = json.loads(paper.run("schema").out)

    assert schema["$schema"] == "http://json-schema.org/draft-07/schema#"


def test_completion_is_a_script_for_deployer(paper: Project) -> None:
    assert "_DEPLOYER_COMPLETE=bash_complete" in paper.run("completion", "bash").out


def test_a_shell_completes_commands(paper: Project) -> None:
    words = {"COMP_WORDS": "deployer pl", "COMP_CWORD": "1"}
    done = paper.run(env={"_DEPLOYER_COMPLETE": "bash_complete", **words})

    assert done.out == "plain,plan\n"


def test_the_version_names_python_too(paper: Project) -> None:
    assert paper.run("--version").out.startswith("deployer ")


def test_output_survives_a_terminal_without_these_signs(paper: Project) -> None:
    done = paper.run("plan", DEMO, env={"PYTHONIOENCODING": "iso8859-5"})

    assert done.code == 0
    assert "  ? gates    3 run" in done.out


def test_a_plan_whose_output_is_closed_ends_well(paper: Project) -> None:
    """`>&-`: nobody reads, and no file that is opened next may be written into."""
    line = " ".join((*COMMAND, "plan", "--no-cache", DEMO))
    done = paper.shell(f"{line} >&-")
    assert (done.code, done.out, done.err) == (0, "", "")


def test_plugins_of_pydantic_are_not_run(paper: Project) -> None:
    """Whoever installs one beside deployer does not get to see stacks by it."""
    about = paper.folder / "seen-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: seen\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[pydantic]\nseen = seen:plugin\n")
    (paper.folder / "seen.py").write_text("raise SystemExit('a plugin runs')\n")
    (paper.folder / "deployer.yaml").write_text("version: 1\n")
    env = {"PYTHONPATH": str(paper.folder)}

    told = "from pydantic import BaseModel\nclass A(BaseModel): a: int\nA(a=1)"
    line = " ".join((COMMAND[0], "-c", f'"{told}"'))
    assert "a plugin runs" in paper.shell(f"PYTHONPATH=. {line}").err, "it would be"
    done = paper.run("plan", "--no-cache", DEMO, env=env)
    assert (done.code, done.err) == (0, "")

    wrong = str(paper.write("version: 1\nname: wrong\nnonsense: 1\n", "wrong"))
    for command in (("validate", DEMO), ("validate", wrong), ("schema",), ("doctor",)):
        done = paper.run(*command, env=env)
        assert "a plugin runs" not in done.out + done.err, command
