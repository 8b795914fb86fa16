"""What people get wrong in a stack file: one message with place, fact and hint."""

import re

import pytest

from tests.cli.project import STACK, Project

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n"
    for old, new in zip("abcdefghi", "bcdefghij", strict=True)
)


EXCERPT = re.compile(r"^ +[0-9]* \| ?.*\n|^ +\|\n", re.MULTILINE)
"""Lines of the file under a message; `test_error_excerpts.py` is about them."""


def check(project: Project, content: str | bytes, message: str) -> None:
    """An apply refuses the stack with this message, and does nothing."""
    file = project.stack
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    done = project.run("apply", "stacks/demo.yaml", "--yes")
    assert (done.code, done.out) == (3, "")
    assert EXCERPT.sub("", done.err) == message
    assert not project.state.exists()


def changed(project: Project, old: str, new: str) -> str:
    project.write(STACK.replace(old, new))
    return project.stack.read_text(encoding="utf-8")


def test_an_unknown_key(paper: Project) -> None:
    check(
        paper,
        changed(paper, "ctx_size", "ctx_sise"),
        "stacks/demo.yaml:14:3: error: unknown key `ctx_sise` under `server`\n"
        "  hint: did you mean `ctx_size`?\n",
    )


def test_values_of_the_wrong_type_are_told_all_at_once(paper: Project) -> None:
    text = changed(paper, "engine: local", "engine: locl").replace("1024", "many")
    check(
        paper,
        text,
        "stacks/demo.yaml:3:1: error: expected `local` or `modal`, got the string"
        " `locl`\n  hint: did you mean `local`?\n"
        "stacks/demo.yaml:14:3: error: expected an integer of at least 1, got the"
        " string `many`\n",
    )


def test_weights_that_are_not_there(paper: Project) -> None:
    check(
        paper,
        changed(paper, "tiny.gguf", "tinny.gguf"),
        "stacks/demo.yaml:10:3: error: there is no file `tinny.gguf`\n"
        "  hint: did you mean `tiny.gguf`?\n",
    )


def test_a_syntax_error(paper: Project) -> None:
    check(
        paper,
        "version: 1\nname: [a\nengine: local\n",
        "stacks/demo.yaml:3:7: error: a list in `[` is not closed\n"
        "  hint: separate its items by `,` and close it with `]`; it begins in line 2,"
        " column 7\n",
    )


def test_an_empty_file(paper: Project) -> None:
    check(
        paper,
        "",
        "stacks/demo.yaml:1:1: error: the file is empty\n"
        "  hint: `deployer init` writes a stack to start from\n",
    )


def test_a_file_of_ten_megabytes(paper: Project) -> None:
    check(
        paper,
        "# a comment\n" * 870_000,
        "stacks/demo.yaml:1:1: error: `stacks/demo.yaml` is larger than 1 MiB\n"
        "  hint: a stack is a few kilobytes: is this the file you mean?\n",
    )


def test_a_file_that_is_not_utf_8(paper: Project) -> None:
    check(
        paper,
        b"version: 1\nname: caf\xe9\n",
        "stacks/demo.yaml:2:10: error: not UTF-8: byte 0xe9 at offset 20\n"
        "  hint: save the file as UTF-8\n",
    )


def test_an_alias_bomb(paper: Project) -> None:
    check(
        paper,
        BOMB,
        "stacks/demo.yaml:5:11: error: more than 20000 values, aliases written out\n"
        "  hint: a stack is at most a few hundred lines\n",
    )


def test_a_name_that_leaves_the_folder(paper: Project) -> None:
    check(
        paper,
        changed(paper, "name: demo", "name: ../demo"),
        "stacks/demo.yaml:2:1: error: expected a name of lower-case letters, digits"
        " and dashes, at most 48 long, that starts with a letter, got the string"
        " `../demo`\n  hint: write `demo`\n",
    )


def test_the_same_key_twice(paper: Project) -> None:
    check(
        paper,
        changed(paper, "name: demo", "name: demo\nname: other"),
        "stacks/demo.yaml:3:1: error: `name` is written twice\n"
        "  hint: the first is in line 2: keep one\n",
    )


@pytest.mark.parametrize("command", ["validate", "plan"])
def test_validate_and_plan_refuse_with_the_same_words(
    paper: Project, command: str
) -> None:
    paper.write(STACK.replace("ctx_size", "ctx_sise"))
    done = paper.run(command, "stacks/demo.yaml")

    assert (done.code, done.out) == (3, "")
    assert EXCERPT.sub("", done.err) == (
        "stacks/demo.yaml:14:3: error: unknown key `ctx_sise` under `server`\n"
        "  hint: did you mean `ctx_size`?\n"
    )


def test_a_stack_that_is_not_there(paper: Project) -> None:
    done = paper.run("apply", "stacks/dmo.yaml", "--yes")

    assert (done.code, done.out) == (3, "")
    assert done.err == (
        "stacks/dmo.yaml:1:1: error: there is no file `stacks/dmo.yaml`\n"
        "  hint: did you mean `demo.yaml`?\n"
    )


def test_a_folder_with_two_stacks_is_not_one(paper: Project) -> None:
    paper.stack.with_name("two.yaml").write_bytes(paper.stack.read_bytes())
    done = paper.run("apply", "stacks", "--yes")

    assert (done.code, done.out) == (3, "")
    assert done.err == (
        "error: there are 2 stacks in `stacks`\n"
        "  hint: name `stacks/demo.yaml` or `stacks/two.yaml`\n"
    )


def test_a_folder_without_stacks(paper: Project) -> None:
    (paper.folder / "empty").mkdir()
    done = paper.run("plan", "empty")

    assert (done.code, done.out) == (3, "")
    assert done.err == (
        "error: no stack file in `empty`\n"
        "  hint: stack files end in `.yaml`; `deployer init` writes one\n"
    )


def test_a_problem_as_json_has_its_place(paper: Project) -> None:
    paper.write(STACK.replace("ctx_size", "ctx_sise"))
    done = paper.run("validate", "stacks/demo.yaml", "--json")

    assert done.code == 3
    assert done.out.endswith(',"exit_code":3}\n')
    (error,) = done.results()
    (problem,) = error["problems"]
    assert (problem["line"], problem["column"]) == (14, 3)
