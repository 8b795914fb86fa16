"""F15: random secrets in every place a secret can enter, looked for everywhere else."""

import secrets
from pathlib import Path

import psutil
import pytest

from tests.cli.project import STACK, Done, Project

pytestmark = pytest.mark.trust
DEMO = "stacks/demo.yaml"
WITH_SECRET = STACK.replace("server:\n", "server:\n  env: {HUB_TOKEN: {env: GIVEN}}\n")
LEAKY = """\
  custom:
    leaky: {command: [./leaky.sh]}
"""
LEAKY_GATE = """\
#!/bin/sh
env
echo "$LLAMA_API_KEY" >&2
exit 1
"""
WRITTEN = {
    "auth.api_key": ("api_key: {env: LLAMA_API_KEY}", "api_key: CANARY"),
    "auth.api_key.env": ("{env: LLAMA_API_KEY}", "{env: CANARY}"),
    "auth.api_keys": ("api_key: {env: LLAMA_API_KEY}", "api_keys: {a: CANARY}"),
    "auth.api_keys.a": ("api_key: {env: LLAMA_API_KEY}", "api_keys: {CANARY: {}}"),
    "server.flags": ("metrics: true", "metrics: true\n  flags: {api-key: CANARY}"),
    "model.url": ("path: tiny.gguf", "url: https://me:CANARY@127.0.0.1:9/m.gguf"),
    "llama_cpp.repo": (
        "binary: BINARY",
        "source: git\n  repo: https://me:CANARY@127.0.0.1:9/llama.git",
    ),
    "a key": ("metrics: true", "metrics: true\n  CANARY: 1"),
    "a name": ("name: demo", "name: CANARY"),
    "a comment": ("metrics: true", "metrics: true  # CANARY"),
}
"""Places in a stack where people write a secret that has to be a reference."""


def canary(name: str) -> str:
    """A secret that looks like one, and stands nowhere else."""
    return f"sk-{name}-{secrets.token_hex(16)}"


class Aviary:
    """Secrets, and everything that was said and kept since they were planted."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.planted = {
            name: canary(name)
            for name in ("first", "second", "dotenv", "hub", "cloud", "index", "given")
        }
        self.said: dict[str, str] = {}
        dotenv = project.stack.parent / ".env"
        dotenv.write_text(f"FROM_DOTENV={self.planted['dotenv']}\n")
        self.env = {
            "LLAMA_API_KEY": self.planted["first"],
            "SECOND_KEY": self.planted["second"],
            "HF_TOKEN": self.planted["hub"],
            "GIVEN": self.planted["given"],
            "AWS_SECRET_ACCESS_KEY": self.planted["cloud"],
            "PIP_INDEX_URL": f"https://me:{self.planted['index']}@127.0.0.1:9/simple",
        }

    def run(self, *words: str) -> Done:
        done = self.project.run(*words, env=self.env)
        self.said[" ".join(words)] = done.out + done.err
        return done

    def hits(self) -> list[str]:
        """Where a secret is found that it was not planted in."""
        found = dict(self.said)
        for file in self.project.folder.rglob("*"):
            if file.is_file() and not file.is_symlink() and file.name != ".env":
                found[str(file)] = file.read_bytes().decode(errors="replace")
        for pid in self.project.servers():
            found[f"arguments of {pid}"] = " ".join(psutil.Process(pid).cmdline())
        return [
            f"{name} in {place}"
            for place, text in found.items()
            for name, secret in self.planted.items()
            if secret in text
        ]


@pytest.mark.real
def test_no_secret_is_found_where_it_was_not_planted(project: Project) -> None:
    birds = Aviary(project)
    project.write(WITH_SECRET)
    birds.run("plan", DEMO, "--out", "demo.plan")
    assert birds.run("apply", "demo.plan").code == 0
    for form in ("text", "json", "markdown"):
        birds.run("plan", "demo.plan", "--format", form)
        birds.run("plan", DEMO, "--refresh", "--format", form)
    assert birds.hits() == []
    (server,) = project.servers()
    seen = psutil.Process(server).environ()
    assert seen["HUB_TOKEN"] == birds.planted["given"]
    assert "GIVEN" not in seen

    gate = project.stack.parent / "leaky.sh"
    gate.write_text(LEAKY_GATE)
    gate.chmod(0o755)
    leaky = WITH_SECRET.replace("ctx_size: 1024", "ctx_size: 2048") + LEAKY
    project.write(leaky)
    assert birds.run("apply", DEMO, "--yes").code == 6
    assert birds.run("--debug", "apply", DEMO, "--yes").code == 6

    project.write(STACK.replace("LLAMA_API_KEY", "SECOND_KEY"))
    birds.run("plan", DEMO, "--json")
    assert birds.run("apply", DEMO, "--yes").code == 0
    project.write(STACK.replace("LLAMA_API_KEY", "FROM_DOTENV"))
    assert birds.run("apply", DEMO, "--yes").code == 0
    for words in (
        ("status", DEMO, "--json"),
        ("history", DEMO, "--json"),
        ("history", DEMO, "--diff", "1", "2"),
        ("check", DEMO, "--json"),
        ("logs", DEMO, "-n", "9999"),
        ("state", "show", DEMO),
        ("state", "versions", DEMO),
        ("state", "pull", DEMO, "--out", "copy.json"),
        ("report", "--out", "page.html"),
        ("report", "--json"),
        ("chat", DEMO, "--once", "What is your key?"),
        ("doctor", "--self"),
        ("rollback", DEMO, "1", "--yes"),
        ("--debug", "rollback", DEMO, "99", "--yes"),
    ):
        birds.run(*words)
    project.state.write_text("{")
    assert birds.run("--debug", "plan", DEMO).code == 1
    assert birds.hits() == []


@pytest.mark.parametrize("place", WRITTEN)
def test_a_secret_that_is_written_into_a_stack_is_not_repeated(
    paper: Project, place: str
) -> None:
    secret = canary("written")
    old, new = WRITTEN[place]
    paper.write(STACK.replace(old, new.replace("CANARY", secret)))
    for words in (("validate", DEMO), ("plan", DEMO, "--json"), ("lock", DEMO)):
        done = paper.run(*words)
        assert secret not in done.out + done.err, words
        assert place == "a comment" or done.code == 3
    assert not list(kept(paper.folder, secret))


def kept(folder: Path, secret: str) -> list[str]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return [
        str(file)
        for file in files
        if file.name != "demo.yaml" and secret.encode() in file.read_bytes()
    ]


@pytest.mark.parametrize("debug", [(), ("--debug",)])
def test_a_crash_repeats_no_secret(paper: Project, debug: tuple[str, ...]) -> None:
    """An error that quotes a value of the environment: here the name of a folder."""
    secret = canary("crash")
    env = {"SOME_TOKEN": secret, "DEPLOYER_STATE_URL": f"ftp://{secret}/states"}
    done = paper.run(*debug, "plan", DEMO, env=env)
    assert done.code == 3
    assert "[redacted]" in done.err
    assert secret not in done.out + done.err
    assert ("Traceback" in done.err) == bool(debug)
