"""Values as people write them, from public reports: validated, and answered."""

from pathlib import Path

import pytest

from deployer.diagnostics import Severity, diagnostics_text
from deployer.errors import StackError
from deployer.planning.resources import Kind
from deployer.usecases.context.settings import Options
from deployer.usecases.plan import prepare
from deployer.usecases.validate import validate
from tests.cli.project import Project
from tests.gguf.files import header, laid_out
from tests.prepared.world import World, world

HEAD = """\
version: 1
name: NAME
engine: local
llama_cpp: {tag: b11434, FROM}
model: {path: ../tiny.gguf}
"""
FROM_GIT = "source: git"
BINARY = "binary: ../server/llama-server"


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    found = world(tmp_path, 0)
    monkeypatch.chdir(tmp_path / "project")
    return found


def said(made: World, text: str, source: str = FROM_GIT) -> str:
    """Everything that `validate` says of a stack."""
    head = HEAD.replace("NAME", "it").replace("FROM", source)
    file = made.write("stacks/it.yaml", head + text)
    try:
        found = validate(file, made.settings, None)
    except StackError as error:
        return diagnostics_text(error.problems)
    return "".join(found.notes) + diagnostics_text(found.notices)


SAID = {
    "ctx_size: 0": "leave it out: that is what unset means",
    "threads: -1": "leave it out: that is what unset means",
    "parallel: -1": "leave it out: that is what unset means",
    "n_gpu_layers: -1": "leave it out: that is what unset means",
    "flash_attn: 1": "write `on`",
    "flash_attn: -1": "write `auto`",
    "flash_attn: 0": "write `off`",
    "cache_type_k: turbo4": "`--cache-type-k` takes one of `f32`",
    "cache_type_k: q8": "did you mean `q8_0`?",
    "{flags: {ngld: 99}}": "write `spec-draft-ngl`",
    "{flags: {rope-scaling: [yarn, none]}}": "takes one value, got a list",
    "{flags: {spec-draft-hf: a/b}}": "write `model.draft",
    "{flags: {gpt-oss-20b-default: true}}": "makes llama-server fetch a model",
    "{flags: {models-max: 1}}": "options of the router have no effect beside a model",
    "n_gpu_layers: 99": "this build is for the CPU",
    "{embeddings: true, ctx_size: 2048}": "longer than the physical batch is refused",
    "{mlock: true, direct_io: true}": "are both `--load-mode` on b11434",
}


@pytest.mark.parametrize("text", SAID)
def test_a_value_is_answered(text: str, made: World) -> None:
    server = text if text.startswith("{") else f"{{{text}}}"
    found = said(made, f"server: {server}\n")
    assert SAID[text] in found
    assert "it.yaml:6:" in found


@pytest.mark.parametrize(
    "text",
    [
        "{flags: {samplers: [top_k, temperature]}}",
        "{flags: {control-vector-layer-range: [1, 5]}}",
        "{reasoning: off, reasoning_budget: 0}",
        "{mmap: false, direct_io: true}",
        "{flags: {offline: true}}",
    ],
)
def test_a_value_is_taken(text: str, made: World) -> None:
    assert said(made, f"server: {text}\n") == ""


def test_a_value_of_a_fork_is_for_its_binary_to_judge(made: World) -> None:
    found = said(made, "server: {cache_type_k: turbo4}\n", BINARY)
    assert "as far as known: `llama_cpp.binary` may be a fork" in found
    assert f"{Severity.WARNING}: " in found


@pytest.mark.parametrize("host", ["127.0.0.1,::1", "/run/llama.sock"])
def test_one_address_is_listened_on(host: str, made: World) -> None:
    found = said(made, f'local: {{host: "{host}"}}\n')
    assert "lists of them and sockets are not supported" in found


def test_a_context_above_the_training_is_noted(made: World) -> None:
    content = header(
        {
            "general.architecture": "llama",
            "llama.block_count": ("u32", 1),
            "llama.context_length": ("u32", 4096),
            "llama.embedding_length": ("u32", 64),
            "llama.attention.head_count": ("u32", 4),
        },
        laid_out({"token_embd.weight": ((64, 32), 0, 8192)}),
    )
    (made.folder / "project" / "tiny.gguf").write_bytes(content + bytes(16384))
    for context, parallel, noted in ((16384, 2, True), (8192, 2, False)):
        head = HEAD.replace("NAME", "it").replace("FROM", BINARY)
        file = made.write(
            "stacks/it.yaml",
            f"{head}server: {{ctx_size: {context}, parallel: {parallel}}}\n",
        )
        prepared, _ = prepare(file, made.settings, Options())
        found = "".join(prepared.notes)
        assert ("8192 tokens, and the model was trained for 4096" in found) is noted


def test_two_stacks_on_one_port_are_told(paper: Project) -> None:
    text = paper.stack.read_text("utf-8")
    paper.write(text.replace("name: demo", "name: two"), "two")
    done = paper.run("validate", "stacks")
    assert done.code == 0
    assert f"would listen on 127.0.0.1:{paper.port}, and one of them can" in done.err


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("LLAMA_ARG_CTX_SIZE", "is an option of llama-server in other words"),
        ("LLAMA_API_KEY", "is the API key of the server"),
        ("HF_TOKEN", "names a secret"),
        ("LD_PRELOAD", "decides which code runs"),
        ("XDG_CONFIG_HOME", "is set by the engine"),
    ],
)
def test_a_variable_that_is_not_the_stacks_is_refused(
    name: str, what: str, made: World
) -> None:
    found = said(made, f"server: {{env: {{{name}: x}}}}\n")
    assert "it.yaml:6:" in found
    assert what in found


@pytest.mark.parametrize(
    ("stated", "what"),
    [
        ("HF_TOKEN: x", "write `HF_TOKEN: {env: HF_TOKEN}`"),
        ("HF_TOKEN: {}", "add `env: HF_TOKEN`"),
        ("HF_TOKEN: {env: {}}", "expected the name of an environment variable"),
        ("HF_TOKEN: {name: X}", "unknown key `name` under `server.env.HF_TOKEN`"),
        ("GGML_X: {env: A}", "decides how the server works: a reference pins no value"),
        ("LLAMA_ARG_X: {env: A}", "is an option of llama-server in other words"),
        ("LLAMA_API_KEY: {env: A}", "is the API key of the server"),
        ("LD_PRELOAD: {env: A}", "decides which code runs"),
    ],
)
def test_a_secret_of_the_environment_is_stated_by_reference(
    stated: str, what: str, made: World
) -> None:
    found = said(made, f"server: {{env: {{{stated}}}}}\n")
    assert "it.yaml:6:" in found
    assert what in found


def test_a_secret_in_the_place_of_its_variable_is_not_repeated(made: World) -> None:
    found = said(made, "server: {env: {HF_TOKEN: {env: a-secret-of-mine}}}\n")
    assert "expected the name of an environment variable" in found
    assert "of-mine" not in found


def test_a_reference_is_part_of_the_key_and_of_the_start(made: World) -> None:
    nodes = []
    for value in ("{env: ONE}", "{env: OTHER}", "{env: ONE, secret: of-modal}"):
        head = HEAD.replace("NAME", "it").replace("FROM", BINARY)
        file = made.write("stacks/it.yaml", f"{head}server: {{env: {{X: {value}}}}}\n")
        made.variables |= {"ONE": "sk-canary"}
        prepared, _ = prepare(file, made.settings, Options())
        assert "sk-canary" not in str(prepared)
        nodes += [it for it in prepared.graph.values() if it.kind is Kind.SERVER]
    assert [it.spec["env"] for it in nodes] == [
        {"X": {"env": "ONE"}},
        {"X": {"env": "OTHER"}},
        {"X": {"env": "ONE"}},
    ]
    assert nodes[0].key == nodes[2].key != nodes[1].key


def test_a_credential_is_no_value_of_a_variable(made: World) -> None:
    found = said(made, f"server: {{env: {{X: hf_{'aB1' * 8}}}}}\n")
    assert "it.yaml:6:" in found


def test_variables_are_part_of_the_key_and_of_the_start(made: World) -> None:
    keys, told = [], []
    for value in ("1", "2", "true"):
        head = HEAD.replace("NAME", "it").replace("FROM", BINARY)
        file = made.write(
            "stacks/it.yaml", f"{head}server: {{env: {{GGML_X: {value}}}}}\n"
        )
        prepared, _ = prepare(file, made.settings, Options())
        (node,) = (it for it in prepared.graph.values() if it.kind is Kind.SERVER)
        keys.append(node.key)
        told.append(node.spec["env"])
    assert len({*keys}) == 3
    assert told == [{"GGML_X": "1"}, {"GGML_X": "2"}, {"GGML_X": "1"}]


def test_variables_of_the_shell_that_decide_are_noted(made: World) -> None:
    """They are not passed on: the plan of another shell would be another server."""
    head = HEAD.replace("NAME", "it").replace("FROM", BINARY)
    file = made.write("stacks/it.yaml", f"{head}server: {{env: {{GGML_X: 1}}}}\n")
    made.variables |= {"CUDA_VISIBLE_DEVICES": "1", "GGML_X": "2", "HF_TOKEN": "x"}
    prepared, _ = prepare(file, made.settings, Options())
    (note,) = (it for it in prepared.notes if "passed on" in it)
    assert note == (
        "set in this shell, and not passed on to llama-server: `CUDA_VISIBLE_DEVICES`;"
        " write `server.env` for what the stack needs"
    )
    del made.variables["CUDA_VISIBLE_DEVICES"]
    prepared, _ = prepare(file, made.settings, Options())
    assert not [it for it in prepared.notes if "passed on" in it]
