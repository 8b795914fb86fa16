"""Why a llama-server did not start, as its last words tell.

The texts marked b8672 and b10434 were provoked with those builds; the others are from
glibc or from the CUDA runtime.  The first that a log shows is the cause.
"""

from typing import Final

from deployer.llama.symptom import Symptom

START: Final = (
    Symptom(
        "no-cuda-driver",
        r"error while loading shared libraries: libcuda\.so",  # ld.so
        "the NVIDIA driver is not installed here",
        "install the driver, or leave `llama_cpp.cuda` out for a build without CUDA",
        hides=("missing-library",),
    ),
    Symptom(
        "missing-library",
        r"error while loading shared libraries: ([^:\s]+)",  # ld.so, b10434
        "the shared library `\\1` is missing",
        "build again on this machine, or install the package that has the library",
    ),
    Symptom(
        "newer-system",
        r"version `(GLIBC\w*_[\d.]+)' not found",  # ld.so
        "the server was built for a newer system: `\\1` is missing here",
        "build on this machine",
    ),
    Symptom(
        "unknown-option",
        r"error: invalid argument: (\S+)",  # b10434
        "this build of llama.cpp does not know the option `\\1`",
        "`deployer flags TAG` lists the options of a build",
    ),
    Symptom(
        "removed-option",
        r"the argument has been removed\. (.+)",  # b10434
        "this build of llama.cpp has removed an option: \\1",
        "`deployer flags TAG` lists the options of a build",
        hides=("refused-value",),
    ),
    Symptom(
        "refused-variable",
        r'error while handling environment variable "([^"]+)": (.*)',  # source
        "llama-server refuses the variable `\\1`: \\2",
        "deployer starts servers without `LLAMA_ARG_…`: unset it where you start yours",
    ),
    Symptom(
        "refused-value",
        r'error while handling argument "([^"]+)": (.*)',  # b10434
        "this build of llama.cpp refuses the value of `\\1`: \\2",
        "`deployer flags TAG NAME` shows what an option takes",
    ),
    Symptom(
        "port-in-use",
        # b10434
        r"couldn't bind (?:HTTP )?server socket, hostname: ([^,]+), port: (\d+)",
        "the server cannot listen on \\1:\\2",
        "free the port, or set `local.port`; the address must be of this machine",
    ),
    Symptom(
        "unknown-architecture",
        r"unknown model architecture: '([^']+)'",  # b10434
        "this build of llama.cpp does not know the architecture `\\1`",
        "set `llama_cpp.tag` to a newer build",
    ),
    Symptom(
        "wrong-mmproj",
        r"unknown projector type|[Ff]ailed to load (?:CLIP|multimodal) model",  # b10434
        "the `mmproj` file cannot be loaded or belongs to another model",
        "check `model.mmproj`",
        hides=("missing-model-file", "not-a-gguf", "truncated-gguf"),
    ),
    Symptom(
        "missing-model-file",
        r"failed to open GGUF file '([^']+)' \(([^)]+)\)",  # b10434
        "the model file `\\1` cannot be opened: \\2",
        "run `deployer apply` again to fetch it",
    ),
    Symptom(
        "not-a-gguf",
        r"invalid magic|failed to read magic",  # b10434
        "the model file is not a GGUF file",
        "check `model.file`; a page of an error saved as a file looks like this",
    ),
    Symptom(
        "truncated-gguf",
        r"data is not within the file bounds|exceeds remaining file size"
        r"|failed to read (?:key-value pairs|tensor info|tensor data)",  # b10434
        "the model file is incomplete or damaged",
        "`deployer store verify` tells for the store; take a file of your own again",
    ),
    Symptom(
        "quantised-v-cache",
        r"quantized V cache requires flash_attn"  # b10434
        r"|V cache quantization requires flash_attn",
        "a quantized `cache_type_v` needs flash attention",
        "set `server.flash_attn: on`",
    ),
    Symptom(
        "wrong-template",
        r"chat template is not supported|failed to initialize chat template",  # b10434
        "the chat template cannot be read",
        "check the template file, or leave it out to use the one of the model",
    ),
    Symptom(
        "old-cuda-driver",
        r"CUDA driver version is insufficient",  # CUDA runtime
        "the NVIDIA driver is too old for this CUDA version",
        "update the driver, or set `llama_cpp.cuda` to an older version",
    ),
    Symptom(
        "other-gpu",
        r"no kernel image is available for execution",  # CUDA runtime
        "the server was built for another kind of GPU",
        "set `gpu` to the card of this machine and build again",
    ),
    Symptom(
        "image-above-batch",
        r"non-causal attention requires n_ubatch >= n_tokens",  # b10434
        "an image became more tokens than a physical batch holds, and the server died",
        "set `server.ubatch_size` to 1120 or more (`batch_size` 2048), or"
        " `server.image_max_tokens` to at most `ubatch_size`",
        hides=("assertion",),
    ),
    Symptom(
        "out-of-memory",
        r"failed to allocate|unable to allocate|out of memory|std::bad_alloc"  # both
        r"|cudaMalloc failed|ErrorOutOf(?:Device|Host)Memory",
        "there is not enough memory",
        "lower `server.ctx_size` or `server.parallel`, or take a smaller `model.quant`;"
        " `rollout.strategy: replace` keeps only one server in memory",
    ),
    Symptom(
        "illegal-instruction",
        r"Illegal instruction|\bSIGILL\b|exit code -4\b|signal 4\b",  # shell, b10434
        "the processor lacks an instruction that the server was built with",
        "build on this machine, or take binaries for this processor",
    ),
    Symptom(
        "assertion",
        r"GGML_ASSERT\((.{1,120}?)\) failed",  # b10434
        "the server gave up on an assertion of its own: \\1",
        "look for it at github.com/ggml-org/llama.cpp/issues; try another"
        " `llama_cpp.tag`",
    ),
)
