"""Several keys of a server: one is accepted before another goes, and none is kept."""

import http

from deployer.engines.local.snapshot.proof import Door
from tests.cli.clients import clients
from tests.cli.project import STACK, Done, Project

SINGLE = "  api_key: {env: LLAMA_API_KEY}\n"
OLD, NEW = "    old: {env: OLD_KEY}\n", "    new: {env: NEW_KEY}\n"
KEYS = {"OLD_KEY": "sk-the-old-one", "NEW_KEY": "sk-the-new-one", "LLAMA_API_KEY": None}
NAMED = STACK.replace(SINGLE, f"  api_keys:\n{OLD}{NEW}")


def run(project: Project, *words: str) -> Done:
    done = project.run(*words, env=KEYS)
    assert done.code == 0, done.out + done.err
    return done


def lets_in(project: Project, key: str) -> bool:
    status, _ = Door("127.0.0.1", project.port, key).get("/props", 60)
    assert status in (http.HTTPStatus.OK, http.HTTPStatus.UNAUTHORIZED)
    return status == http.HTTPStatus.OK


def test_a_key_is_exchanged_without_a_request_that_fails(project: Project) -> None:
    old, new = "sk-the-old-one", "sk-the-new-one"
    project.write(NAMED.replace(NEW, ""))
    run(project, "apply", "stacks/demo.yaml", "--yes")
    assert lets_in(project, old)
    assert not lets_in(project, new)

    project.write(NAMED)
    with clients(project.port, old) as tally:
        said = run(project, "apply", "stacks/demo.yaml", "--yes").out
    assert "auth.api_keys.new.env   unset → NEW_KEY" in said
    assert "those of NEW_KEY, OLD_KEY are let in" in said
    assert tally.failures == []
    assert lets_in(project, old)
    assert lets_in(project, new)

    project.write(NAMED.replace(OLD, ""))
    with clients(project.port, new) as tally:
        said = run(project, "apply", "stacks/demo.yaml", "--yes").out
    assert "auth.api_keys.old.env   OLD_KEY → unset" in said
    assert tally.failures == []
    assert lets_in(project, new)
    assert not lets_in(project, old)

    keys = [key.encode() for key in KEYS.values() if key is not None]
    files = [it for it in project.folder.rglob("*") if it.is_file()]
    assert files
    assert [it for it in files if any(key in it.read_bytes() for key in keys)] == []


def test_a_gate_of_its_own_is_not_asked_for(paper: Project) -> None:
    """The key of the stack brings the gate that tries it."""
    asks_health = STACK.partition("gates:")[0] + "gates: {health: {}}\n"
    file = paper.write(asks_health)
    assert "health, auth" in run(paper, "plan", str(file)).out
    without = asks_health.replace(f"auth:\n{SINGLE}", "")
    file = paper.write(without)
    said = run(paper, "plan", str(file)).out
    assert "gates    1 runs on the candidate before promotion: health" in said


def test_each_key_that_is_not_set_is_named(paper: Project) -> None:
    file = paper.write(NAMED)
    said = paper.run("plan", str(file), env={**KEYS, "NEW_KEY": None})
    assert said.code == 0, said.err
    assert "environment variable `NEW_KEY` is not set: apply needs it" in said.out
    assert "OLD_KEY" not in said.out


GIVEN = STACK.replace(
    "  ctx_size: 1024\n", "  ctx_size: 1024\n  env: {X: {env: GIVEN}}\n"
)


def test_a_secret_of_the_environment_that_is_not_set_is_named(paper: Project) -> None:
    """A plan names it, doctor does, and an apply ends before anything is begun."""
    paper.write(GIVEN)
    file, unset = "stacks/demo.yaml", {"GIVEN": ""}
    planned = paper.run("plan", file, env=unset)
    assert planned.code == 0, planned.err
    assert "environment variable `GIVEN` is not set: apply needs it" in planned.out
    applied = paper.run("apply", file, "--yes", env=unset)
    assert (applied.code, applied.out) == (4, "")
    assert applied.err == (
        "error: environment variable `GIVEN` (`server.env.X`) is not set\n"
        "  hint: run `export GIVEN=…`, or write `GIVEN=…` into `.env` beside the"
        " stack\n"
    )
    assert not paper.state.exists()
    found = paper.run("doctor", file, env=unset)
    assert "`GIVEN` is not set: `server.env.X` needs it" in found.out
    found = paper.run("doctor", file, env={"GIVEN": "a secret, with what no key has"})
    assert "`GIVEN` is set" in found.out
