"""`adopt`: stacks from files and command lines that start llama-server elsewhere."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deployer.errors import DeployerError
from deployer.llama.adopted import Value, Word, adopted
from deployer.llama.catalogue import catalogue
from deployer.planning.argv import words_of
from deployer.stack.fields.marks import leaves
from deployer.stack.load import load
from deployer.usecases.adopt import Adoption, adopt
from deployer.usecases.context.settings import settings_of
from deployer.usecases.reading.launch_files import launches_of
from tests.cli.project import Project

DATA = Path(__file__).parents[1] / "data" / "adopt"
NAMES = {
    "command": "run.sh",
    "compose": "compose.yaml",
    "kubernetes": "workload.yaml",
    "llama-swap": "config.yaml",
    "ollama": "Modelfile",
    "presets": "models.ini",
    "systemd": "llama.service",
}
SHARE = 0.95
"""Options that have to be carried; the others are named with the reason."""


def configurations() -> Iterator[tuple[str, str, str]]:
    """Form, title and content of each configuration."""
    for form in NAMES:
        text = (DATA / f"{form}.txt").read_text("utf-8")
        for part in re.split(r"(?m)^=== ", text)[1:]:
            title, _, content = part.partition("\n")
            yield form, title, content


def read(folder: Path, form: str, content: str) -> tuple[Adoption, ...]:
    """Adopt one of them in a folder of its own; nothing is written beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / NAMES[form]
    file.write_text(content, "utf-8")
    environment = {"HOME": str(folder), "DEPLOYER_HOME": str(folder / "home")}
    launches = launches_of(file, environment)
    return adopt(launches, folder / "stacks", settings_of(environment))


def row(form: str, title: str, made: Adoption) -> str:
    left = "; ".join(f"{it.what}: {it.reason}" for it in made.left) or "-"
    cells = (form, title, made.name, f"{made.carried}/{made.options}", left)
    return f"| {' | '.join(cells)} |"


def test_ten_configurations_of_each_form_are_carried(tmp_path: Path) -> None:
    """The table beside the data says of each what was left, and why."""
    rows, carried, options = [], 0, 0
    for number, (form, title, content) in enumerate(configurations()):
        for made in read(tmp_path / str(number), form, content):
            rows.append(row(form, title, made).replace(str(tmp_path), "…"))
            carried, options = carried + made.carried, options + made.options
    head = (
        f"{carried} of {options} options are carried.\n\n"
        "| Form | Configuration | Stack | Carried | Left out |\n|---|---|---|---|---|\n"
    )
    table = "".join(f"{it}\n" for it in rows)
    assert (DATA / "table.md").read_text("utf-8") == f"{head}{table}"
    assert carried / options >= SHARE
    forms = [form for form, _, _ in configurations()]
    assert {form: forms.count(form) for form in NAMES} == dict.fromkeys(NAMES, 10)


def server_fields(fields: dict[str, Value]) -> dict[str, Any]:
    return {p: it.value for p, it in fields.items() if p.startswith("server.")}


@pytest.mark.parametrize("form", NAMES)
def test_what_a_stack_starts_is_what_was_given(tmp_path: Path, form: str) -> None:
    """The words that the stack becomes are adopted as the same fields again."""
    for number, (other, _, content) in enumerate(configurations()):
        if other != form:
            continue
        for made in read(tmp_path / str(number), form, content):
            path = tmp_path / str(number) / "again.yaml"
            text = made.text
            if "model:" not in text:
                text += "model: {repo: a/b, file: c.gguf}\n"
            text = re.sub(r"(?m)path: .*?(?=  #|$)", "path: x.gguf", text)
            (path.parent / "x.gguf").touch()
            stack = load(path, unsaved=text).stack
            words = words_of(leaves(stack), build=int(made.tag[1:]))
            again = adopted(
                [Word(it, "") for it in words],
                {},
                catalogue(int(made.tag[1:])),
                drafts="model.draft.path" in made.fields,
            )
            given = server_fields(made.fields)
            expected = {
                p: it for p, it in given.items() if not p.startswith("server.env.")
            }
            if expected.get("server.mlock"):  # one value of `--load-mode` says both
                expected.pop("server.mmap", None)
            assert server_fields(again.fields) == expected
            assert again.left == []


COMPOSE = """\
services:
  llm:
    image: ghcr.io/ggml-org/llama.cpp:server-b9763
    command: >
      -m /models/tiny.gguf -c 8192 -ngl 99 -fa
      --api-key sk-in-the-open-0123456789abcdef --no-mmap --mlock
      --nonsense 3
    volumes: [./stacks:/models]
    ports: ["127.0.0.1:9090:8080"]
    environment:
      LLAMA_ARG_N_PARALLEL: 4
      LLAMA_ARG_CTX_SIZE: 4096
"""


def test_comments_say_where_each_value_came_from(paper: Project) -> None:
    (paper.folder / "compose.yaml").write_text(COMPOSE)
    done = paper.run("adopt", "compose.yaml")
    assert done.code == 0, done.err
    text = (paper.folder / "stacks/llm.yaml").read_text()
    assert text == (
        "# yaml-language-server: $schema=../schema/stack.schema.json\n"
        "version: 1\n"
        "name: llm\n"
        "engine: local\n"
        "llama_cpp:\n"
        "  tag: b9763  # image ghcr.io/ggml-org/llama.cpp:server-b9763\n"
        "model:\n"
        "  path: tiny.gguf  # -m, compose.yaml:5\n"
        "server:\n"
        "  parallel: 4  # --parallel, $LLAMA_ARG_N_PARALLEL compose.yaml:11\n"
        "  ctx_size: 8192  # -c, compose.yaml:5\n"
        "  n_gpu_layers: 99  # -ngl, compose.yaml:5\n"
        "  flash_attn: on  # -fa, compose.yaml:5\n"
        "  mmap: false  # --no-mmap, compose.yaml:6\n"
        "  mlock: true  # --mlock, compose.yaml:6\n"
        "local:\n"
        "  host: 127.0.0.1  # published for 8080\n"
        "  port: 9090  # published for 8080\n"
        "auth:\n"
        "  api_key:\n"
        "    env: LLAMA_API_KEY  # --api-key, compose.yaml:6\n"
    )
    said = " ".join(done.out.split())
    assert "carried 9 of 10 options, written for b9763" in said
    assert "--nonsense, compose.yaml:7: no build of llama.cpp that was read" in said
    assert "`server.ctx_size` is said twice, and differs" in said
    assert paper.run("validate", "stacks/llm.yaml").code == 0


def test_a_key_in_the_open_is_pointed_out_and_never_written(paper: Project) -> None:
    (paper.folder / "compose.yaml").write_text(COMPOSE)
    done = paper.run("adopt", "compose.yaml", "--json")
    assert "the API key stood in the open" in done.out
    written = [it for it in paper.folder.rglob("*") if it.name != "compose.yaml"]
    texts = [it.read_bytes() for it in written if it.is_file()]
    assert not any(b"sk-in-the-open" in text for text in [*texts, done.out.encode()])


def test_what_looks_like_a_secret_is_named_and_not_written(paper: Project) -> None:
    secret = "sk-0123456789abcdefghijklmnop"
    words = (
        *("llama-server-of-mine", "--hf-token", secret, "--grammar", secret),
        *("-mu", f"https://me:{secret}@example.org/m.gguf"),
    )
    done = paper.run("adopt", "--out", "x.yaml", "--", *words)
    assert done.code == 0, done.err
    said = " ".join(done.out.split())
    assert "-mu: `model.url` looks like a secret" in said
    assert "--grammar: `server.flags.grammar` looks like a secret" in said
    assert secret not in said + (paper.folder / "x.yaml").read_text()


def test_nothing_is_overwritten(paper: Project) -> None:
    (paper.folder / "compose.yaml").write_text(COMPOSE.replace("llm", "demo"))
    before = paper.stack.read_text()
    done = paper.run("adopt", "compose.yaml")
    assert (done.code, paper.stack.read_text()) == (3, before)
    assert "`stacks/demo.yaml` exists already" in done.err


def test_a_command_line_is_spelled_as_its_build_knows_it(paper: Project) -> None:
    words = ("llama-server", "-m", "stacks/tiny.gguf", "--no-mmap", "--webui")
    done = paper.run("adopt", "--build", "b11434", "--out", "x.yaml", "--", *words)
    assert done.code == 0, done.err
    text = (paper.folder / "x.yaml").read_text()
    assert "  tag: b11434  # --build b11434\n" in text
    assert "  ui: true  # --webui\n" in text
    assert "  mmap: false  # --no-mmap\n" in text
    assert paper.run("validate", "x.yaml").code == 0


@pytest.mark.parametrize(
    ("version", "words", "pins"),
    [
        ("11434 (abcdef1)", (), ("b11434", "abcdef1")),
        ("0.1.0-dev (build 1, commit 7e4c0a9)", (), ("7e4c0a9", None)),
        (
            "0.1.0-dev (build 1, commit 7e4c0a9)",
            ("--build", "b10434"),
            ("b10434", "7e4c0a9"),
        ),
    ],
)
def test_a_program_that_is_typed_says_its_build(
    paper: Project, version: str, words: tuple[str, ...], pins: tuple[str, str | None]
) -> None:
    program = paper.folder / "llama-server"
    program.write_text(f"#!/bin/sh\necho 'version: {version}' >&2\n")
    program.chmod(0o755)
    done = paper.run(
        "adopt", *words, "--out", "x.yaml", "--", str(program), "-m", "stacks/tiny.gguf"
    )
    assert done.code == 0, done.err
    found = load(paper.folder / "x.yaml").stack.llama_cpp
    assert (found.tag, found.commit) == pins
    assert found.binary == "llama-server"


def test_a_build_that_nothing_says_is_said_to_be_unknown(paper: Project) -> None:
    done = paper.run("adopt", "--", "llama-server-of-mine", "-m", "stacks/tiny.gguf")
    assert done.code == 0, done.err
    assert "nothing says which build it is" in " ".join(done.out.split())


def test_a_program_that_a_file_names_is_not_started(
    paper: Project, tmp_path: Path
) -> None:
    """The file may be a stranger's."""
    program = tmp_path / "llama-server"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    program.chmod(0o755)
    (paper.folder / "run.sh").write_text(f"{program} -m stacks/tiny.gguf\n")
    done = paper.run("adopt", "run.sh")
    assert "was not started" in " ".join(done.out.split())
    assert not (tmp_path / "started").exists()


def test_the_layers_of_a_model_of_ollama_are_its_blobs(tmp_path: Path) -> None:
    store = tmp_path / ".ollama/models"
    manifest = store / "manifests/registry.ollama.ai/library/gemma3/4b"
    manifest.parent.mkdir(parents=True)
    kinds = {"model": "a" * 64, "projector": "b" * 64, "params": "c" * 64}
    rows = (
        f'{{"mediaType": "application/vnd.ollama.image.{kind}",'
        f' "digest": "sha256:{digest}"}}'
        for kind, digest in kinds.items()
    )
    manifest.write_text(f'{{"layers": [{", ".join(rows)}]}}')
    blobs = store / "blobs"
    blobs.mkdir()
    (blobs / f"sha256-{'c' * 64}").write_text('{"temperature": 0.5, "stop": ["x"]}')
    (made,) = read(tmp_path, "ollama", "FROM gemma3:4b\n")
    values = {path: it.value for path, it in made.fields.items()}
    below = "../.ollama/models/blobs/sha256-"
    assert str(values["model.path"]).endswith("a" * 64)
    assert str(values["model.mmproj.path"]).endswith("b" * 64)
    assert below in str(values["model.path"]) or str(blobs) in str(values["model.path"])
    assert values["server.temperature"] == 0.5
    assert [it.what for it in made.left] == ["PARAMETER stop"]


def test_drop_ins_win_over_their_unit(tmp_path: Path) -> None:
    unit = "[Service]\nExecStart=/usr/bin/llama-server -m a.gguf -c 4096\n"
    over = "[Service]\nExecStart=\nExecStart=/usr/bin/llama-server -m b.gguf\n"
    folder = tmp_path / "llama.service.d"
    folder.mkdir()
    (folder / "10-model.conf").write_text(over)
    (made,) = read(tmp_path, "systemd", unit)
    assert made.fields["model.path"].value == "/b.gguf"
    assert "server.ctx_size" not in made.fields
    assert made.fields["model.path"].origin == f"-m, {folder / '10-model.conf'}:3"


def test_the_listing_of_a_router_has_the_arguments_of_its_models(
    tmp_path: Path,
) -> None:
    listed = (
        '{"data": [{"id": "a/b:Q8_0", "status": {"value": "loaded", "args":'
        ' ["llama-server", "--hf-repo", "a/b:Q8_0", "--ctx-size", "4096"]}},'
        ' {"id": "other"}]}'
    )
    (made,) = read(tmp_path, "command", listed)
    assert made.fields["model.quant"].value == "Q8_0"
    assert made.fields["server.ctx_size"].value == 4096


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n"
    for old, new in ("ab", "bc", "cd", "de", "ef", "fg")
)


@pytest.mark.parametrize(
    ("form", "content", "what"),
    [
        ("command", 'llama-server -m "x', "a quote is not closed"),
        ("command", "echo hello", "starts no llama-server"),
        ("compose", "services: {a: [}", "this is not YAML"),
        ("compose", f"{BOMB}services: {{}}", "too many values"),
        ("compose", "services:\n  web: {image: nginx}\n", "starts no llama-server"),
        ("kubernetes", "apiVersion: v1\nkind: {{ .Kind }}\nx: {{ y", "helm template"),
        ("presets", "[a]\nmodel\n", "expected `key = value`"),
        ("llama-swap", "models: {a: {cmd: vllm serve}}", "starts no llama-server"),
        ("ollama", "FROM\t\n", "starts no llama-server"),
        ("compose", "services:\n  - a: b\n", "starts no llama-server"),
    ],
)
def test_what_cannot_be_read_says_where_and_why(
    tmp_path: Path, form: str, content: str, what: str
) -> None:
    with pytest.raises(DeployerError) as caught:
        read(tmp_path, form, content)
    problems = [f"{it.place}: {it.what} {it.hint}" for it in problems_of(caught.value)]
    assert what in " ".join([caught.value.message, *problems])


def problems_of(error: DeployerError) -> tuple[Any, ...]:
    found: tuple[Any, ...] = getattr(error, "problems", ())
    return found
