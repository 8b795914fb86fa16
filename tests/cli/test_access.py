"""Closed by default: open servers are said with a reason, keys lock, pages stay out."""

from http.client import HTTPConnection

import pytest

from tests.cli.project import STACK, Project

pytestmark = pytest.mark.trust
DEMO = "stacks/demo.yaml"
KEYLESS = STACK.replace("auth:\n  api_key: {env: LLAMA_API_KEY}\n", "")
REACHABLE = KEYLESS.replace("port: PORT", "host: 0.0.0.0\n  port: PORT")
HINT = (
    "  hint: add `auth: {api_key: …}`, or say why it is open:"
    " `auth: {open: behind our VPN}`\n"
)


@pytest.mark.parametrize("command", ["validate", "plan", "apply"])
def test_a_server_open_to_the_network_is_refused(paper: Project, command: str) -> None:
    paper.write(REACHABLE)
    done = paper.run(command, DEMO)
    assert done.code == 3
    told = "`0.0.0.0` lets other machines use the server without an API key"
    assert f"stacks/demo.yaml:21:3: error: {told}\n" in done.err
    assert HINT in done.err


def test_an_open_server_says_why(paper: Project) -> None:
    paper.write(f"{REACHABLE}auth: {{open: behind our VPN}}\n")
    assert paper.run("validate", DEMO).code == 0


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        ("#secret-hash-key", "it begins with `#`: llama-server would take the line"),
        ("team-a-secret,team-b", "it contains a comma: llama-server reads a list"),
        ("secret key", "it contains blanks, line breaks or control characters"),
        ("secret\n", "it contains blanks, line breaks or control characters"),
        ("secrét", "it contains characters that are not ASCII"),
    ],
)
def test_a_key_that_would_not_lock_is_refused_before_anything_starts(
    paper: Project, key: str, problem: str
) -> None:
    paper.write()
    done = paper.run("apply", DEMO, "--yes", env={"LLAMA_API_KEY": key})
    assert done.code == 4
    assert f"the API key in `LLAMA_API_KEY` cannot be used: {problem}" in done.err
    assert "hint: take a key of printable ASCII without commas and blanks" in done.err
    assert "secr" not in done.out + done.err
    assert not (paper.home / "run").exists()
    assert not (paper.home / "build").exists()
    looked = paper.run("doctor", DEMO, env={"LLAMA_API_KEY": key})
    assert problem in " ".join(looked.out.split())
    assert "secr" not in looked.out


@pytest.mark.real
def test_pages_of_other_sites_are_kept_from_a_server_without_a_key(
    project: Project,
) -> None:
    project.write(KEYLESS)
    done = project.run("apply", DEMO, "--yes")
    assert done.code == 0, done.out + done.err
    assert allowed_origin(project, "https://evil.example") in (None, "")
    assert allowed_origin(project, "http://localhost:3000") == "http://localhost:3000"
    assert "no API key is set" not in project.log()

    named = project.run("doctor", DEMO).out
    assert "it answers without an API key" in " ".join(named.split())
    asked = project.run("doctor", "--url", project.url)
    assert "1 warning" in asked.out
    assert "it answers without an API key" in " ".join(asked.out.split())


def allowed_origin(project: Project, origin: str) -> str | None:
    """The site that a browser would let see an answer to a page of ``origin``."""
    connection = HTTPConnection("127.0.0.1", project.port, timeout=30)
    connection.request("GET", "/v1/models", headers={"Origin": origin})
    with connection.getresponse() as response:
        response.read()
        allowed = response.getheader("Access-Control-Allow-Origin")
    connection.close()
    return allowed
