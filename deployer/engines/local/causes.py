"""Why llama-server died, as its last words tell; and what to do about it.

The texts marked b10434 were provoked with that build; the others are from its
source, from glibc or from the CUDA runtime.
"""

import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Cause:
    """A pattern of the log, what it means, and what to do.

    Groups that the pattern catches stand in the meaning as in `re.Match.expand`.
    """

    pattern: str
    meaning: str
    hint: str


CAUSES: Final = (
    Cause(
        r"error while loading shared libraries: libcuda\.so",  # ld.so
        "the NVIDIA driver is not installed here",
        "install the driver, or leave `llama_cpp.cuda` out for a build without CUDA",
    ),
    Cause(
        r"error while loading shared libraries: ([^:\s]+)",  # ld.so, b10434
        "the shared library `\\1` is missing",
        "build again on this machine, or install the package that has the library",
    ),
    Cause(
        r"version `(GLIBC\w*_[\d.]+)' not found",  # ld.so
        "the server was built for a newer system: `\\1` is missing here",
        "build on this machine",
    ),
    Cause(
        r"error: invalid argument: (\S+)",  # b10434
        "this build of llama.cpp does not know the option `\\1`",
        "`deployer flags TAG` lists the options of a build",
    ),
    Cause(
        r"the argument has been removed\. (.+)",  # b10434
        "this build of llama.cpp has removed an option: \\1",
        "`deployer flags TAG` lists the options of a build",
    ),
    Cause(
        r'error while handling argument "([^"]+)": (.*)',  # b10434
        "this build of llama.cpp refuses the value of `\\1`: \\2",
        "`deployer flags TAG NAME` shows what an option takes",
    ),
    Cause(
        # b10434
        r"couldn't bind (?:HTTP )?server socket, hostname: ([^,]+), port: (\d+)",
        "the server cannot listen on \\1:\\2",
        "free the port, or set `server.port`; the address must be of this machine",
    ),
    Cause(
        r"unknown model architecture: '([^']+)'",  # b10434
        "this build of llama.cpp does not know the architecture `\\1`",
        "set `llama_cpp.tag` to a newer build",
    ),
    Cause(
        r"unknown projector type|[Ff]ailed to load (?:CLIP|multimodal) model",  # b10434
        "the `mmproj` file cannot be loaded or belongs to another model",
        "check `model.mmproj`",
    ),
    Cause(
        r"failed to open GGUF file '([^']+)' \(([^)]+)\)",  # b10434
        "the model file `\\1` cannot be opened: \\2",
        "run `deployer apply` again to fetch it",
    ),
    Cause(
        r"invalid magic|failed to read magic",  # b10434
        "the model file is not a GGUF file",
        "check `model.file`; a page of an error saved as a file looks like this",
    ),
    Cause(
        r"data is not within the file bounds|exceeds remaining file size"
        r"|failed to read (?:key-value pairs|tensor info|tensor data)",  # b10434
        "the model file is incomplete or damaged",
        "`deployer store verify` tells for the store; take a file of your own again",
    ),
    Cause(
        r"quantized V cache requires flash_attn"  # b10434
        r"|V cache quantization requires flash_attn",
        "a quantized `cache_type_v` needs flash attention",
        "set `server.flash_attn: on`",
    ),
    Cause(
        r"chat template is not supported|failed to initialize chat template",  # b10434
        "the chat template cannot be read",
        "check the template file, or leave it out to use the one of the model",
    ),
    Cause(
        r"CUDA driver version is insufficient",  # CUDA runtime
        "the NVIDIA driver is too old for this CUDA version",
        "update the driver, or set `llama_cpp.cuda` to an older version",
    ),
    Cause(
        r"no kernel image is available for execution",  # CUDA runtime
        "the server was built for another kind of GPU",
        "set `gpu` to the card of this machine and build again",
    ),
    Cause(
        r"failed to allocate|unable to allocate|out of memory|std::bad_alloc"  # b10434
        r"|cudaMalloc failed|ErrorOutOf(?:Device|Host)Memory",
        "there is not enough memory",
        "lower `server.ctx_size` or `server.parallel`, or take a smaller `model.quant`;"
        " `rollout.strategy: replace` keeps only one server in memory",
    ),
)

SIGNAL_CAUSES: Final[Mapping[int, Cause]] = {
    signal.SIGILL: Cause(
        "",
        "the processor lacks an instruction that the server was built with",  # b10434
        "build on this machine, or take binaries for this processor",
    ),
    signal.SIGKILL: Cause(
        "",
        "it was killed, most likely because the machine ran out of memory",
        "`dmesg` or `journalctl -k` tells; lower `server.ctx_size`, or take a smaller"
        " `model.quant`",
    ),
    signal.SIGABRT: Cause(
        "",
        "it gave up on an error of its own (an assertion or an exception)",
        "the log tells which; try another `llama_cpp.tag`",
    ),
    signal.SIGSEGV: Cause(
        "",
        "it crashed (segmentation fault)",
        "try another `llama_cpp.tag`",
    ),
}


def likely_cause(lines: Sequence[str], exit_code: int | None) -> Cause | None:
    """Find the first cause of the table that the log shows, else that of the signal.

    `exit_code` is negative for a signal, None when unknown.
    """
    for cause in CAUSES:
        for line in lines:
            if match := re.search(cause.pattern, line):
                return Cause(cause.pattern, match.expand(cause.meaning), cause.hint)
    return SIGNAL_CAUSES.get(-exit_code) if exit_code else None
