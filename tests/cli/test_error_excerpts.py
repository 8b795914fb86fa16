"""An error shows the line of the file, carets under what is wrong, and no secret."""

import pytest

from tests.cli.project import STACK, Project

SECRET = "hf_zq8Rk2Lw9Xv4Tn6Yb1Hc3Jd5pQ7sW0eRtG"


def refused(project: Project, text: str) -> str:
    project.write(text)
    done = project.run("validate", "stacks/demo.yaml")
    assert done.code == 3, done.out + done.err
    return done.err


@pytest.mark.parametrize(
    ("old", "new", "excerpt"),
    [
        (
            "ctx_size: 1024",
            "ctx_size: a lot",
            "a lot\n     |             ^^^^^ server.",
        ),
        ("ctx_size: 1024", "ctx_sise: 1024", "1024\n     |   ^^^^^^^^ server.ctx_sise"),
        ("ctx_size: 1024", 'ctx_size: "a #b"  # c', "c\n     |             ^^^^^^ "),
        ("ctx_size: 1024", "threads: [1, 2] # x", "x\n     |            ^^^^^^ server"),
        ("engine: local", "engine: locl", "locl\n    |         ^^^^ engine\n"),
        ("port:", "host: 5, port:", "host: 5, "),
    ],
)
def test_carets_are_under_what_is_wrong(
    paper: Project, old: str, new: str, excerpt: str
) -> None:
    assert old in STACK
    assert excerpt in refused(paper, STACK.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "hint"),
    [
        ("tag: b10434", "tag: 10434", "write `b10434`"),
        ("name: demo", "name: My Demo", "write `my-demo`"),
        ("version: 1", "version: 2", "upgrade deployer, or write `version: 1`"),
        ("ctx_size: 1024", "parallel: 0", "write `1` or more"),
        ("server:", "snapshot: true\nserver:", "write `snapshot: {enabled: true}`"),
    ],
)
def test_an_edit_is_proposed(paper: Project, old: str, new: str, hint: str) -> None:
    assert f"\n  hint: {hint}\n" in refused(paper, STACK.replace(old, new, 1))


def test_a_stack_of_a_newer_deployer_is_named_as_that(paper: Project) -> None:
    err = refused(paper, STACK.replace("version: 1", "version: 7"))
    assert "version 7 of this file needs a newer deployer" in err


def test_one_run_reports_what_later_stages_would_refuse(paper: Project) -> None:
    """The model refuses one value, and the build does not know an option."""
    text = STACK.replace("ctx_size: 1024", "ctx_size: many\n  flags: {no-such: 1}")
    err = refused(paper, text.replace("name: demo", "name: De mo"))
    assert "server.ctx_size" in err
    assert "write `de-mo`" in err
    assert "has no option `--no-such`" in err


@pytest.mark.parametrize(
    "written",
    [
        "auth: SECRET",
        "auth: {api_key: SECRET}",
        "auth: {api_key: hunter2hunter2}",
        "auth: {api_key: [hunter2hunter2]}",
        "auth: {api_key: {env: hunter2-hunter2}}",
        "auth: {api_key: {env: A}, hunter2: 5}  # hunter2hunter2",
        "auth: {api_key: hunter2: hunter2}",
        "server: {flags: {api-key: hunter2hunter2}}",
        "server: {flags: {no-such: 1, hf-token: hunter2hunter2}}",
        "server: {ctx_size: SECRET}",
        "password: hunter2hunter2",
        "gpu: {token: hunter2hunter2}",
    ],
)
def test_no_value_that_may_be_a_secret_is_shown(paper: Project, written: str) -> None:
    text = "\n".join(
        line
        for line in STACK.splitlines()
        if not line.startswith(("auth", "  api_key"))
    )
    err = refused(paper, f"{text}\n{written.replace('SECRET', SECRET)}\n")
    assert SECRET not in err
    assert "hunter2hunter2" not in err
    assert "hunter2-hunter2" not in err


def test_no_expression_of_a_pattern_is_shown(paper: Project) -> None:
    text = STACK.replace("name: demo", "name: 'A b'").replace("1024", "'x y'")
    err = refused(paper, text + "gpu: '%%'\nextra: [a]\n")
    assert not any(sign in err for sign in ("(?", "[a-z", "]*", "\\d", "^["))
