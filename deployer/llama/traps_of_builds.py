"""Traps of builds, of toolkits, and of what a platform does around the server."""

from typing import Final

from deployer.core.graph import architectures_of
from deployer.core.notices import Severity
from deployer.llama.trap import NEWEST, UPSTREAM, Case, Trap

_NVIDIA: Final = "https://docs.nvidia.com/cuda/cuda-toolkit-release-notes/"
_DRAFTS: Final = ("model-draft", "spec-draft-model", "spec-draft-hf", "spec-type")
_LOOPBACK: Final = ("127.", "localhost")


def _broken_toolkit(case: Case) -> str:
    if (cuda := case.stack.llama_cpp.cuda) is None:
        return ""
    from deployer.llama.recipe import (  # noqa: PLC0415 - only for CUDA
        BROKEN_TOOLKITS,
        toolkit,
    )

    return "llama_cpp.cuda" if toolkit(cuda) in BROKEN_TOOLKITS else ""


def _other_architecture(case: Case) -> str:
    """Where the toolkit and the GPU do not know each other, for the recipe."""
    if (cuda := case.stack.llama_cpp.cuda) is None:
        return ""
    from deployer.llama.recipe import (  # noqa: PLC0415 - as above
        FIRST_UNKNOWN_TOOLKIT,
        Target,
        refusals,
        toolkit,
    )

    if toolkit(cuda) >= FIRST_UNKNOWN_TOOLKIT:
        return ""
    wanted = architectures_of(case.stack)
    target = Target(case.build, cuda=cuda, architectures=wanted)
    refused = refusals(target) if wanted and not _broken_toolkit(case) else []
    return refused[0].path if refused else ""


def _gemma4(case: Case) -> str:
    return "llama_cpp.tag" if case.is_gemma4 else ""


def _pinned_template(case: Case) -> str:
    own = case.server.chat_template is not None
    pinned = case.stack.model.revision not in (None, "main")
    return "model.revision" if case.is_gemma4 and pinned and not own else ""


def _draft(case: Case) -> str:
    flags = case.server.flags or {}
    found = (f"server.flags.{name}" for name in _DRAFTS if name in flags)
    return next(found, "") if case.is_gemma4 else ""


def _downloads_ui(case: Case) -> str:
    wanted = {
        *("LLAMA_USE_PREBUILT_UI=ON", "LLAMA_BUILD_UI=ON"),
        *("LLAMA_USE_PREBUILT_UI=1", "LLAMA_BUILD_UI=1"),
    }
    stated = wanted & {*(case.stack.llama_cpp.cmake or ())}
    return "llama_cpp.cmake" if stated else ""


def _has_no_ui(case: Case) -> str:
    wanted = case.server.ui is True and case.is_built
    return "server.ui" if wanted and not _downloads_ui(case) else ""


def _uncounted(case: Case) -> str:
    gates, wanted = case.stack.gates, case.stack.llama_cpp
    asked = gates is not None and gates.build is not None
    ready = wanted.package is not None or wanted.binary is not None
    return "gates.build" if asked and ready and wanted.commit is None else ""


def _guarded_models(case: Case) -> str:
    local = case.stack.engine == "local"
    alone = local and case.stack.local.host.startswith(_LOOPBACK)
    return "auth" if case.stack.api_key is not None and not alone else ""


def _redirects(case: Case) -> str:
    modal, scaling = case.stack.modal, case.stack.scaling
    direct = modal is not None and modal.endpoint == "server"
    warm = scaling is not None and (scaling.min_containers or 0) > 0
    on_modal = case.stack.engine == "modal"
    return "engine" if on_modal and not direct and not warm else ""


def _quants(case: Case) -> str:
    return "llama_cpp.cmake" if case.has_definition("GGML_CUDA_FA_QUANTS") else ""


BUILDS: Final = (
    Trap(
        "cuda-miscompiles",
        Severity.ERROR,
        "`llama_cpp.cuda` is 13.2",
        _broken_toolkit,
        "the compiler of CUDA 13.2 turns models quantised as IQ3_S and below into"
        " gibberish; the build is refused as well",
        '`llama_cpp.cuda: "12.8.1"`, 13.0.2 or 13.3',
        f"{UPSTREAM}21255",
    ),
    Trap(
        "cuda-architecture",
        Severity.ERROR,
        "a GPU that `llama_cpp.cuda` cannot compile for",
        _other_architecture,
        "this toolkit cannot compile for the GPU (100 and 120 need 12.8, 103 and 121"
        " need 12.9; 13 drops all below 75); the build is refused as well",
        'another `llama_cpp.cuda`, such as "12.8.1"',
        _NVIDIA,
    ),
    Trap(
        "gemma4-early",
        Severity.WARNING,
        "Gemma 4",
        _gemma4,
        "the first builds of Gemma 4 split line breaks wrongly, lack its soft cap, and"
        " let a stray `</s>` end answers",
        "`tag: b8753` or later",
        f"{UPSTREAM}21488",
        since=8637,
        until=8677,
    ),
    Trap(
        "gemma4-unsettled",
        Severity.NOTE,
        "Gemma 4",
        _gemma4,
        "the tokenizer and the template of Gemma 4 were repaired until b8753",
        "`tag: b8753` or later",
        f"{UPSTREAM}21492",
        since=8678,
        until=8752,
    ),
    Trap(
        "gemma4-pinned-template",
        Severity.NOTE,
        "Gemma 4 at a pinned `model.revision`, without `server.chat_template`",
        _pinned_template,
        "early GGUFs of Gemma 4 carry a chat template with known faults: the log then"
        " says `detected an outdated gemma4 chat template`",
        "a newer `model.revision`, or `server.chat_template`",
        f"{UPSTREAM}21704",
        since=8753,
    ),
    Trap(
        "gemma4-draft",
        Severity.WARNING,
        "Gemma 4 with a draft model",
        _draft,
        "a draft model made Gemma 4 slower, or crashed it, in reports on these builds",
        "measure it with the gate `speed`, or leave it out",
        f"{UPSTREAM}24266",
        since=9549,
    ),
    Trap(
        "ui-download",
        Severity.WARNING,
        "`llama_cpp.cmake` turns on LLAMA_USE_PREBUILT_UI or LLAMA_BUILD_UI",
        _downloads_ui,
        "the build fetches the web page over the network (or runs npm), and goes on"
        " without it where that fails: equal keys, other binaries",
        "leave the definition out, and set `server.ui: false`",
        "https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md",
        since=9246,
    ),
    Trap(
        "no-ui",
        Severity.NOTE,
        "`server.ui: true` with a build from source",
        _has_no_ui,
        "builds from source leave the web page out, so that they need no network: GET /"
        " answers 404",
        "`server.ui: false`, or a ready-made `package`",
        "https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md",
        since=8930,
    ),
    Trap(
        "shallow-build",
        Severity.NOTE,
        "the gate `build` with a `package` or `binary`, without `llama_cpp.commit`",
        _uncounted,
        "a ready-made server that was built without history says build 0 or 1: only its"
        " commit proves which one it is",
        "`llama_cpp.commit`, as `llama-server --version` prints it",
        "https://github.com/ggml-org/llama.cpp/blob/master/cmake/build-info.cmake",
    ),
    Trap(
        "guarded-models",
        Severity.NOTE,
        "a key, and a server that others reach",
        _guarded_models,
        "/v1/models asks for the key from here on: a health check from outside that"
        " asks it gets 401",
        "let health checks ask /health",
        f"{UPSTREAM}27027",
        since=10436,
    ),
    Trap(
        "redirect-after-150s",
        Severity.NOTE,
        "Modal's web server endpoint, and no container kept warm",
        _redirects,
        "after 150 s Modal answers 303, which a client has to follow with GET: many"
        " OpenAI clients do not, and a first start can take that long",
        "`scaling.min_containers: 1`, or `modal.endpoint: server`",
        "https://modal.com/docs/guide/webhook-timeouts",
    ),
    Trap(
        "attention-kernels-unknown",
        Severity.WARNING,
        "`llama_cpp.cmake` sets GGML_CUDA_FA_QUANTS",
        _quants,
        "this build does not know GGML_CUDA_FA_QUANTS, and says nothing",
        "`llama_cpp.cmake: [GGML_CUDA_FA_ALL_QUANTS=ON]`",
        "https://github.com/ggml-org/llama.cpp/pull/28079",
        until=10875,
    ),
    Trap(
        "attention-kernels-renamed",
        Severity.NOTE,
        "`llama_cpp.cmake` sets GGML_CUDA_FA_ALL_QUANTS",
        lambda case: (
            "llama_cpp.cmake" if case.has_definition("GGML_CUDA_FA_ALL_QUANTS") else ""
        ),
        "GGML_CUDA_FA_ALL_QUANTS is deprecated",
        "`GGML_CUDA_FA_QUANTS=all`",
        "https://github.com/ggml-org/llama.cpp/pull/28079",
        since=10876,
        until=NEWEST,
    ),
)
