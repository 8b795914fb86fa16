"""`render --client`: what it prints works in the real client, where one is here."""

import json
import shlex
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from deployer.show.client_configs import CLIENTS, Live
from tests.cli.project import KEY, STACK, Project

DEMO = "stacks/demo.yaml"
OPEN = Live("s", "http://127.0.0.1:1", 'it\'s a "model"', None)


def test_the_openai_client_and_curl_get_an_answer(project: Project) -> None:
    """By the first of two names, which is one that the server knows."""
    live = project
    live.write(STACK.replace("alias: tiny", "alias: tiny,small"))
    done = live.run("apply", DEMO, "--yes")
    assert done.code == 0, done.out + done.err
    codex = tomllib.loads(live.run("render", DEMO, "--client", "codex").out)
    assert codex["model"] == "tiny"
    file = live.folder / "ask.py"
    file.write_text(live.run("render", DEMO, "--client", "openai").out)
    right, wrong = (ran(live, file, key) for key in (KEY, "sk-wrong"))
    assert right.returncode == 0, right.stderr
    assert "AuthenticationError" in wrong.stderr

    answer = json.loads(
        live.shell(live.run("render", DEMO, "--client", "curl").out).out
    )
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
        out = live.run("render", DEMO, "--client", client).out
        assert f"{live.url}/v1" in out
        assert "LLAMA_API_KEY" in out
        assert KEY not in out
    codex = tomllib.loads(live.run("render", DEMO, "--client", "codex").out)
    assert codex["model_context_window"] == 512  # of 1024, which two slots share


def test_configurations_are_what_their_clients_read() -> None:
    """Also with a model whose name has quotes, and without a key."""
    codex = tomllib.loads(CLIENTS["codex"](OPEN))
    assert codex["model_providers"][codex["model_provider"]]["wire_api"] == "responses"
    opencode = json.loads(CLIENTS["opencode"](OPEN))
    assert opencode["provider"]["deployer"]["models"].keys() == {OPEN.model}
    (model,) = yaml.safe_load(CLIENTS["continue"](OPEN))["models"]
    assert (model["model"], model["apiBase"]) == (OPEN.model, OPEN.base)
    compile(CLIENTS["openai"](OPEN), "ask.py", "exec")
    line = shlex.split(CLIENTS["aider"](OPEN))
    assert line[:2] == [f"OPENAI_API_BASE={OPEN.base}", "OPENAI_API_KEY=none"]
    assert line[2:5] == ["aider", "--model", f"openai/{OPEN.model}"]


def test_clients_are_told_the_context_that_a_request_has() -> None:
    live = replace(OPEN, context=8192)
    assert tomllib.loads(CLIENTS["codex"](live))["model_context_window"] == 8192
    provider = json.loads(CLIENTS["opencode"](live))["provider"]["deployer"]
    assert provider["models"][OPEN.model]["limit"]["context"] == 8192


def test_cursor_says_where_its_servers_cannot_reach_the_endpoint() -> None:
    for url in (
        "http://127.0.0.1:1",
        "http://10.0.0.7:1",
        "http://[::1]:1",
        "http://localhost:1",
    ):
        text = CLIENTS["cursor"](replace(OPEN, url=url))
        assert "reachable from the internet, and this one is not." in text
    far = CLIENTS["cursor"](replace(OPEN, url="https://org--prod.modal.run"))
    assert "reachable from the internet." in far


def test_nothing_is_live(paper: Project) -> None:
    done = paper.run("render", DEMO, "--client", "curl")
    assert done.code == 3
    assert "was never applied from here" in done.err


BEHIND = Live("s", "https://w--s.modal.run", "m", "KEY", token_env="TOKEN")


@pytest.mark.parametrize("client", CLIENTS)
def test_a_token_of_a_proxy_goes_beside_the_key_by_its_variable(client: str) -> None:
    """Both, or a sentence about what to add where a client has no place for it."""
    text = CLIENTS[client](BEHIND)
    assert "KEY" in text
    assert "TOKEN" in text
    assert "Modal-Key" in text
    assert "Modal-Key" not in CLIENTS[client](OPEN)


def test_programs_and_files_for_a_proxy_are_well_formed() -> None:
    compile(CLIENTS["openai"](BEHIND), "openai.py", "exec")
    options = json.loads(CLIENTS["opencode"](BEHIND))["provider"]["deployer"]["options"]
    assert options["headers"]["Modal-Secret"] == "{env:TOKEN_SECRET}"
    assert tomllib.loads(CLIENTS["codex"](BEHIND))["model"] == "m"
