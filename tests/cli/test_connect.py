"""`connect`: what it prints works in the real client, where one is here."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml

from deployer.core.connect import CLIENTS, Live
from tests.cli.project import KEY, Project

DEMO = "stacks/demo.yaml"
OPEN = Live("s", "http://127.0.0.1:1", 'it\'s a "model"', None)


def test_the_openai_client_and_curl_get_an_answer(live: Project) -> None:
    file = live.folder / "ask.py"
    file.write_text(live.run("connect", DEMO, "--client", "openai").out)
    right, wrong = (ran(live, file, key) for key in (KEY, "sk-wrong"))
    assert right.returncode == 0, right.stderr
    assert "AuthenticationError" in wrong.stderr

    answer = json.loads(live.shell(live.run("connect", DEMO).out).out)
    assert answer["choices"][0]["message"]["role"] == "assistant"


def ran(live: Project, file: Path, key: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(file)],
        env=live.environment({"LLAMA_API_KEY": key}),
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )


def test_every_client_gets_the_endpoint_and_no_key(live: Project) -> None:
    for client in CLIENTS:
        out = live.run("connect", DEMO, "--client", client).out
        assert f"{live.url}/v1" in out
        assert "LLAMA_API_KEY" in out
        assert KEY not in out


def test_configurations_are_what_their_clients_read() -> None:
    """Also with a model whose name has quotes, and without a key."""
    codex = tomllib.loads(CLIENTS["codex"](OPEN))
    assert codex["model_providers"][codex["model_provider"]]["wire_api"] == "responses"
    opencode = json.loads(CLIENTS["opencode"](OPEN))
    assert opencode["provider"]["deployer"]["models"].keys() == {OPEN.model}
    (model,) = yaml.safe_load(CLIENTS["continue"](OPEN))["models"]
    assert (model["model"], model["apiBase"]) == (OPEN.model, OPEN.base)
    compile(CLIENTS["openai"](OPEN), "ask.py", "exec")


def test_nothing_is_live(paper: Project) -> None:
    done = paper.run("connect", DEMO)
    assert done.code == 3
    assert "was never applied from here" in done.err
