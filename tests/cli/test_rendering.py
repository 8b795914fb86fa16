"""`deployer render`, as a user types it."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.engines.modal.lowering import CAPTURED, PICTURE, project

LOCAL = """\
version: 1
name: here
engine: local
llama_cpp: {tag: b9763}
model: {repo: some/model-GGUF, quant: Q4_K_M, mmproj: F16, alias: my model}
server: {ctx_size: 4096, mmap: false}
auth: {api_key: {env: LLAMA_API_KEY}}
local: {port: 8099}
"""
NOWHERE = "https://127.0.0.1:9/llama.cpp"
WARM = CAPTURED.replace(
    "enabled: true", "enabled: true, warmup: [{prompt: Hi, image: red.png}]"
).replace("quant: Q4_K_M", "quant: Q4_K_M, mmproj: F16")


def deployer(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "deployer", *arguments],
        cwd=folder,
        env={**os.environ, "DEPLOYER_HOME": str(folder / "home")},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_local_stack_is_its_command_line(tmp_path: Path) -> None:
    project(tmp_path, LOCAL)
    done = deployer(tmp_path, "render", "stacks/stack.yaml")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "llama-server \\\n"
        "  --alias 'my model' \\\n"
        "  --ctx-size 4096 \\\n"
        "  --no-mmap \\\n"
        "  --model model-Q4_K_M.gguf \\\n"
        "  --mmproj mmproj-F16.gguf \\\n"
        "  --host 127.0.0.1 \\\n"
        "  --port 8099 \\\n"
        "  --reuse-port \\\n"
        "  --api-key-file api-key\n"
    )


def test_a_modal_stack_is_four_apps_and_a_command_line(tmp_path: Path) -> None:
    project(tmp_path, WARM)
    done = deployer(tmp_path, "render", "stacks/stack.yaml")
    assert (done.returncode, done.stderr) == (0, "")
    heads = [line for line in done.stdout.splitlines() if line.startswith("# ==> ")]
    names = [head.removeprefix("# ==> ").removesuffix(" <==") for head in heads]
    assert names[:4] == ["builder.py", "tryout.py", "candidate.py", "server.py"]
    assert [Path(name).suffix for name in names[4:]] == [".png"]
    assert done.stdout.endswith(
        "  --host 0.0.0.0 \\\n  --port 8080 \\\n  --api-key-file /opt/llama/api-key\n"
    )


def test_files_are_written_where_they_are_asked_for(tmp_path: Path) -> None:
    project(tmp_path, WARM)
    done = deployer(tmp_path, "render", "stacks/stack.yaml", "--out", "out/apps")
    (picture,) = (tmp_path / "out/apps").glob("*.png")
    names = ("builder.py", "tryout.py", "candidate.py", "server.py", picture.name)
    lines = [f"wrote out/apps/{name}" for name in names]
    assert done.stdout.splitlines()[: len(lines)] == lines
    assert picture.read_bytes() == PICTURE


def test_the_same_stack_gives_the_same_bytes_in_any_folder(tmp_path: Path) -> None:
    texts = []
    for name in ("one", "two"):
        project(tmp_path / name, WARM)
        done = deployer(tmp_path / name, "render", "stacks/stack.yaml")
        texts.append(done.stdout)
    assert texts[0] == texts[1]


def test_json_holds_the_files_and_the_words(tmp_path: Path) -> None:
    project(tmp_path, WARM)
    done = deployer(tmp_path, "render", "stacks/stack.yaml", "--json")
    lines = json.loads(done.stdout)["results"]
    assert {line["type"] for line in lines[:-1]} == {"file"}
    assert "runtime/serve.py" in [line["name"] for line in lines[5:-1]]
    assert lines[0]["text"].startswith('"""Build and fetch for demo.')
    assert lines[4]["text"] is None
    assert lines[-1]["argv"][-2:] == ["--api-key-file", "/opt/llama/api-key"]


def test_modal_is_not_imported_to_render(tmp_path: Path) -> None:
    project(tmp_path, WARM)
    code = (
        "import sys\n"
        "from deployer.cli.main import main\n"
        "main(['render', 'stacks/stack.yaml'], standalone_mode=False)\n"
        "slow = {'modal', 'huggingface_hub', 'openai', 'numpy', 'gguf'}\n"
        "assert not slow & set(sys.modules), slow & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "DEPLOYER_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    project(tmp_path, WARM)
    (tmp_path / "out").write_text("")
    done = deployer(tmp_path, "render", "stacks/stack.yaml", "--out", "out")
    assert done.returncode == 3
    assert done.stderr == "error: `out` is a file\n  hint: name a folder\n"


def test_a_picture_that_is_gone_is_named(tmp_path: Path) -> None:
    file = project(tmp_path, WARM)
    (file.parent / "red.png").unlink()
    done = deployer(tmp_path, "render", "stacks/stack.yaml")
    assert done.returncode == 3
    assert "there is no file `red.png`" in done.stderr


def test_problems_are_told_at_their_place(tmp_path: Path) -> None:
    file = project(tmp_path, WARM)
    file.write_text(file.read_text().replace("gpu: L4", "gpu: L40"))
    done = deployer(tmp_path, "render", "stacks/stack.yaml")
    assert done.returncode == 3
    assert done.stderr == (
        "stacks/stack.yaml:6:1: error: no GPU type `L40`\n"
        "    |\n"
        "  6 | gpu: L40\n"
        "    |      ^^^ gpu\n"
        "  hint: did you mean `L40S`?\n"
    )


def test_without_a_lock_file_and_a_network_zeros_are_rendered(tmp_path: Path) -> None:
    file = project(tmp_path, WARM.replace("tag: b9763", f"tag: b9763, repo: {NOWHERE}"))
    file.with_name("stack.lock.json").unlink()
    done = deployer(tmp_path, "render", "stacks/stack.yaml", "--out", "rendered")
    assert done.returncode == 0, done.stderr
    assert done.stderr == (
        "note: not pinned yet, digests are zeros: build (source-git), weights (hub);"
        " `deployer lock stacks/stack.yaml` asks the sources\n"
    )
    builder = (tmp_path / "rendered" / "builder.py").read_text(encoding="utf-8")
    assert f'commit="{"0" * 40}"' in builder
    assert f'sha256="{"0" * 64}"' in builder
    assert not file.with_name("stack.lock.json").exists()
    refused = deployer(tmp_path, "render", "stacks/stack.yaml", "--locked")
    assert refused.returncode == 3


def test_a_plan_shows_the_costs(tmp_path: Path) -> None:
    project(tmp_path, WARM)
    done = deployer(tmp_path, "plan", "stacks/stack.yaml")
    assert done.returncode == 0, done.stderr
    costs = [line for line in done.stdout.splitlines() if "costs" in line]
    assert len(costs) == 1
    assert costs[0].startswith("  $ costs    about $")
    assert costs[0].endswith("/month stored")
