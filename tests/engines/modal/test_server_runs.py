"""The start of a rendered server, run for real with a program in llama-server's place.

The platform around it (snapshots, requests, containers) is emulated in tests/modal.
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from deployer.engines.contract import write_files
from deployer.engines.modal.apps import Server
from deployer.engines.modal.render import render_tryout, runtime_files
from tests.engines.modal.lowering import CAPTURED, PICTURE, lowered

RUNNER = Path(__file__).with_name("run_function.py")
FAKE = Path(__file__).with_name("fake_llama.py")
KEY = "sk-of-these-tests"
ON_CPU = CAPTURED.replace("gpu: L4\n", "").replace(', cuda: "12.8.1"', "")


@dataclass(frozen=True)
class Ran:
    code: int
    output: str
    started: Mapping[str, Any]
    asked: list[Any]


@dataclass
class World:
    """A Volume, an image's files and a report, as folders."""

    folder: Path

    def run(
        self,
        content: str,
        *,
        seconds: int = 20,
        key: str = KEY,
        files: Mapping[str, bytes] | None = None,
        **behaviour: str,
    ) -> Ran:
        apps = lowered(content, files=files)
        server = self._placed(apps.tryout, seconds)
        server = replace(server, home=str(self.folder / "home"))
        text = render_tryout(server).replace("/opt/stack", str(self.folder))
        file = self.folder / "tryout.py"
        file.write_text(text)
        write_files({**apps.assets, **runtime_files()}, self.folder)
        report = self.folder / "report"
        report.mkdir()
        for name, value in {"unhealthy": "2", **behaviour}.items():
            (report / name).write_text(value)
        done = subprocess.run(
            [sys.executable, str(RUNNER), str(file), "tryout"],
            env={
                **os.environ,
                "PATH": f"{report}{os.pathsep}{os.environ['PATH']}",
                "TMPDIR": str(self.folder),
                "LLAMA_API_KEY": key,
                "LLAMA_ARG_CTX_SIZE": "1",
                "HF_TOKEN": "hf-of-these-tests",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        started, asked = report / "started", report / "asked"
        return Ran(
            done.returncode,
            done.stdout,
            json.loads(started.read_text()) if started.exists() else {},
            [json.loads(it) for it in asked.read_text().splitlines()]
            if asked.exists()
            else [],
        )

    def _placed(self, server: Server, seconds: int) -> Server:
        volume = self.folder / "volume"
        build = volume / "build" / server.build_key
        weights = volume / "weights" / server.weights_key
        for folder in (build / "bin", build / "templates", weights):
            folder.mkdir(parents=True)
        (build / "templates" / "kept.jinja").write_text("{{ messages }}")
        program = build / "bin" / "llama-server"
        program.write_text(f"#!{sys.executable}\n{FAKE.read_text()}")
        program.chmod(0o755)
        for folder in (build, weights):
            (folder / "complete.json").write_text("{}")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = int(free.getsockname()[1])
        front = replace(server.front, port=port)
        program_ = replace(server.program, start_timeout=seconds)
        return replace(server, mount=str(volume), front=front, program=program_)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@dataclass(frozen=True)
class Plain:
    """One start that went well, looked at from all sides."""

    ran: Ran
    volume: str


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Plain:
    folder = tmp_path_factory.mktemp("plain")
    return Plain(World(folder).run(ON_CPU), str(folder / "volume"))


def option(argv: list[str], name: str) -> str:
    return argv[argv.index(name) + 1]


def test_it_starts_from_local_disk_and_waits_until_it_is_healthy(plain: Plain) -> None:
    ran = plain.ran
    assert ran.code == 0, ran.output
    argv = ran.started["argv"]
    assert not argv[0].startswith(plain.volume)
    assert option(argv, "--model").startswith(f"{plain.volume}/weights")
    assert option(argv, "--host") == "0.0.0.0"  # noqa: S104 - what Modal connects to
    assert "--no-mmap" in argv
    assert "returned" in ran.output


@pytest.mark.parametrize("key", ["#secret", "one,two", "", " secret", "a\nsecret"])
def test_a_key_that_would_leave_it_open_ends_the_start(world: World, key: str) -> None:
    ran = world.run(ON_CPU, key=key)
    assert ran.code != 0
    assert ran.started == {}
    assert "the API key in LLAMA_API_KEY cannot be used: it is empty" in ran.output
    assert "secret" not in ran.output


def test_the_key_is_in_a_file_that_is_gone_and_nowhere_else(plain: Plain) -> None:
    ran = plain.ran
    assert ran.started["key"] == f"{KEY}\n"
    assert ran.started["key_mode"] == "0o600"
    assert not Path(option(ran.started["argv"], "--api-key-file")).exists()
    assert KEY not in str(ran.started["argv"])
    assert KEY not in str(ran.started["environment"])
    assert KEY not in ran.output


def test_llama_server_sees_no_option_and_no_token_of_the_container(
    plain: Plain,
) -> None:
    seen = plain.ran.started["environment"]
    assert not {"LLAMA_ARG_CTX_SIZE", "LLAMA_API_KEY", "HF_TOKEN"} & set(seen)
    assert "PATH" in seen


def test_llama_server_gets_the_secrets_that_the_stack_names(world: World) -> None:
    given = "ctx_size: 4096, env: {X_TOKEN: {secret: hub, env: HF_TOKEN}}"
    ran = world.run(ON_CPU.replace("ctx_size: 4096", given))
    seen = ran.started["environment"]
    assert seen["X_TOKEN"] == "hf-of-these-tests"
    assert not {"LLAMA_API_KEY", "HF_TOKEN"} & set(seen)
    assert "hf-of-these-tests" not in ran.output
    assert "hf-of-these-tests" not in (world.folder / "tryout.py").read_text()


def test_the_command_line_is_logged_without_what_is_secret(world: World) -> None:
    flags = "ctx_size: 4096, flags: {some-token: s3cret, image-max-tokens: 70}"
    ran = world.run(ON_CPU.replace("ctx_size: 4096", flags))
    line = next(it for it in ran.output.splitlines() if it.startswith("starting "))
    assert "s3cret" not in line
    assert "--some-token '***'" in line
    assert "--image-max-tokens 70" in line
    assert "--api-key-file /" in line


def test_warm_up_requests_are_made_with_the_key_and_the_picture(world: World) -> None:
    warm = "enabled: true, warmup: [{prompt: Hi, max_tokens: 3}, {prompt: 'a \"b\"',"
    ran = world.run(ON_CPU.replace("enabled: true", f"{warm} image: red.png}}]"))
    assert ran.code == 0, ran.output
    assert [it["key"] for it in ran.asked] == [f"Bearer {KEY}"] * 2
    first, second = (it["body"] for it in ran.asked)
    assert first["max_tokens"] == 3
    text, picture = second["messages"][0]["content"]
    assert text == {"type": "text", "text": 'a "b"'}
    assert picture["image_url"]["url"].startswith("data:image/png;base64,iVBOR")
    assert len(PICTURE) > 0


def test_files_of_a_warm_up_are_sent_from_inside_the_container(world: World) -> None:
    tools = [{"type": "function", "function": {"name": "look"}}]
    warm = "enabled: true, warmup: [{file: agent.md, tools: tools.json, role: user}]"
    files = {"agent.md": b"Be terse.", "tools.json": json.dumps(tools).encode()}
    ran = world.run(ON_CPU.replace("enabled: true", warm), files=files)
    assert ran.code == 0, ran.output
    [body] = (it["body"] for it in ran.asked)
    assert body["messages"] == [{"role": "user", "content": "Be terse.\n\nHello"}]
    assert body["tools"] == tools


def test_a_refused_warm_up_ends_the_start(world: World) -> None:
    warm = ON_CPU.replace("enabled: true", "enabled: true, warmup: [{prompt: Hi}]")
    ran = world.run(warm, refuses="")
    assert ran.code == 1
    assert "warm-up request 1 of 1 (`Hi`) failed: HTTP 400: no" in ran.output


def test_a_server_that_dies_says_so_at_once(world: World) -> None:
    ran = world.run(ON_CPU, dies="")
    assert ran.code == 1
    assert "error loading model" in ran.output
    assert "llama-server ended with 3 before it was healthy" in ran.output


def test_a_server_that_is_never_healthy_is_bounded(world: World) -> None:
    ran = world.run(ON_CPU, seconds=1, unhealthy="1000000")
    assert ran.code == 1
    assert "llama-server is not healthy after 1 s" in ran.output


def test_an_option_that_is_not_taken_is_found_before_the_start(world: World) -> None:
    ran = world.run(ON_CPU.replace("4096", "4096, flags: {wrong: true}"))
    assert ran.code == 1
    assert "'--version'" in ran.output
    assert ran.started == {}


def test_a_template_of_the_build_is_a_file(world: World) -> None:
    ran = world.run(ON_CPU.replace("4096", "4096, chat_template: kept"))
    name = option(ran.started["argv"], "--chat-template-file")
    assert name.endswith("/kept.jinja")
    assert not name.startswith(str(world.folder / "volume"))


def test_a_template_that_is_built_in_is_a_name(world: World) -> None:
    ran = world.run(ON_CPU.replace("4096", "4096, chat_template: chatml"))
    assert option(ran.started["argv"], "--chat-template") == "chatml"


def test_a_template_of_the_users_comes_along(world: World) -> None:
    ran = world.run(ON_CPU.replace("4096", "4096, chat_template: mine.jinja"))
    name = option(ran.started["argv"], "--chat-template-file")
    assert Path(name).read_bytes() == PICTURE
    assert "--chat-template" not in ran.started["argv"]


def test_what_is_missing_on_the_volume_is_named(world: World) -> None:
    apps = lowered(ON_CPU)
    build = world.folder / "volume/build" / apps.tryout.build_key
    build.mkdir(parents=True)
    file = world.folder / "tryout.py"
    mount = str(world.folder / "volume")
    file.write_text(render_tryout(replace(apps.tryout, mount=mount)))
    write_files(runtime_files(), world.folder)
    done = subprocess.run(
        [sys.executable, str(RUNNER), str(file), "tryout"],
        env={**os.environ, "LLAMA_API_KEY": KEY},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert (
        f"{build} is not on its Volume, or not complete: run `deployer" in done.stderr
    )
