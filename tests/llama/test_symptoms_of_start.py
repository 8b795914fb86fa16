import signal

import pytest

from deployer.llama.known.symptoms import likely_cause

# Lines as llama-server b10434 and the loader of glibc wrote them.
REAL = [
    (
        (
            "bin/llama-server: error while loading shared libraries:"
            " libllama-server-impl.so: cannot open shared object file"
        ),
        "the shared library `libllama-server-impl.so` is missing",
    ),
    (
        "error: invalid argument: --no-such",
        "this build of llama.cpp does not know the option `--no-such`",
    ),
    (
        'error while handling argument "-c": stoi',
        "this build of llama.cpp refuses the value of `-c`: stoi",
    ),
    (
        (
            "--draft, --draft-n, --draft-max N       the argument has been removed. use"
            " --spec-draft-n-max or"
        ),
        "this build of llama.cpp has removed an option: use --spec-draft-n-max or",
    ),
    (
        (
            "0.00.004.619 E srv         start: couldn't bind HTTP server socket,"
            " hostname: 127.0.0.1, port: 7702"
        ),
        "the server cannot listen on 127.0.0.1:7702",
    ),
    (
        (
            "0.00.006.546 E llama_model_load: error loading model: unknown model"
            " architecture: 'gemma9'"
        ),
        "this build of llama.cpp does not know the architecture `gemma9`",
    ),
    (
        (
            "0.00.005.364 E gguf_init_from_file: failed to open GGUF file"
            " 'missing.gguf' (No such file or directory)"
        ),
        "the model file `missing.gguf` cannot be opened: No such file or directory",
    ),
    (
        (
            "0.00.006.576 E gguf_init_from_reader: invalid magic characters: '????',"
            " expected 'GGUF'"
        ),
        "the model file is not a GGUF file",
    ),
    (
        "0.00.006.408 E gguf_init_from_reader: failed to read magic",
        "the model file is not a GGUF file",
    ),
    (
        (
            "0.00.006.312 E llama_model_load: error loading model: tensor"
            " 'blk.0.attn_output.weight' data is not within the file bounds, model is"
            " corrupted or incomplete"
        ),
        "the model file is incomplete or damaged",
    ),
    (
        "0.00.005.864 E read: string length 23 exceeds remaining file size 15 bytes",
        "the model file is incomplete or damaged",
    ),
    (
        (
            "0.00.013.221 E mtmd_init_from_file: error: Failed to load CLIP model from"
            " tiny.gguf"
        ),
        "the `mmproj` file cannot be loaded or belongs to another model",
    ),
    (
        (
            "0.00.992.604 E llama_init_from_model: quantized V cache requires"
            " flash_attn to be enabled"
        ),
        "a quantized `cache_type_v` needs flash attention",
    ),
    (
        "error: the supplied chat template is not supported: {% if %}",
        "the chat template cannot be read",
    ),
    (
        (
            "0.05.155.136 E ggml_backend_cpu_buffer_type_alloc_buffer: failed to"
            " allocate buffer of size 98304000000"
        ),
        "there is not enough memory",
    ),
]


@pytest.mark.parametrize(("line", "meaning"), REAL)
def test_the_last_words_of_a_server_tell_the_cause(line: str, meaning: str) -> None:
    cause = likely_cause(["loading", line, "exiting due to an error"], 1)
    assert cause is not None
    assert cause.meaning == meaning


@pytest.mark.parametrize(
    ("line", "meaning"),
    [
        (
            (
                "llama-server: error while loading shared libraries: libcuda.so.1:"
                " cannot open shared object file"
            ),
            "the NVIDIA driver is not installed here",
        ),
        (
            "llama-server: /lib/libc.so.6: version `GLIBC_2.38' not found",
            "the server was built for a newer system: `GLIBC_2.38` is missing here",
        ),
        (
            "CUDA error: no kernel image is available for execution on the device",
            "the server was built for another kind of GPU",
        ),
        (
            "cudaMalloc failed: out of memory",
            "there is not enough memory",
        ),
    ],
)
def test_errors_of_other_libraries_tell_the_cause(line: str, meaning: str) -> None:
    cause = likely_cause([line], 127)
    assert cause is not None
    assert cause.meaning == meaning


def test_a_missing_mmproj_is_not_taken_for_a_missing_model() -> None:
    lines = [
        "E gguf_init_from_file: failed to open GGUF file 'nope.gguf' (No such file)",
        "E clip_init: failed to load model 'nope.gguf': failed to load CLIP model",
    ]
    cause = likely_cause(lines, 1)
    assert cause is not None
    assert "mmproj" in cause.meaning


def test_an_illegal_instruction_is_told_by_the_signal() -> None:
    cause = likely_cause(["loading"], -signal.SIGILL)
    assert cause is not None
    assert "processor lacks an instruction" in cause.meaning


def test_a_kill_from_outside_is_taken_for_a_lack_of_memory() -> None:
    cause = likely_cause([], -signal.SIGKILL)
    assert cause is not None
    assert "out of memory" in cause.meaning


@pytest.mark.parametrize("exit_code", [None, 0, 1, -signal.SIGTERM])
def test_an_unknown_end_has_no_invented_cause(exit_code: int | None) -> None:
    assert likely_cause(["loading"], exit_code) is None
