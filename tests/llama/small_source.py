"""A source tree as small as can be that is built like llama.cpp's."""

import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from deployer.llama.build.compile import (
    Compiled,
    Job,
    Toolchain,
    compile_server,
    find_toolchain,
)
from deployer.llama.build.recipe import Target
from deployer.llama.build.trees import Surroundings, fetch_tree
from deployer.planning.facts import Pin
from deployer.planning.progress import unwatched

CMAKE = """\
cmake_minimum_required(VERSION 3.14)
project(llama.cpp C)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
add_library(llama SHARED ggml/llama.c)
set_target_properties(llama PROPERTIES VERSION 0.0.1 SOVERSION 0)
add_executable(llama-server tools/server/server.c common/chat.c)
target_link_libraries(llama-server PRIVATE llama)
target_compile_definitions(llama-server PRIVATE
  NUMBER=${LLAMA_BUILD_NUMBER} COMMIT="${LLAMA_BUILD_COMMIT}")
add_executable(other tools/other.c)
"""

SERVER = """\
#include <stdio.h>
int layers(void);
const char * thinks(void);
int main(void) {
    fprintf(stderr, "version: %d (%s)\\n", NUMBER, COMMIT);
    printf("%d layers, thinks %s\\n", layers(), thinks());
    return 0;
}
"""

CHAT = """\
// how a model thinks

static const char * start_tag = 0;

const char * thinks(void) {
    return start_tag ? start_tag : "without end";
}
"""

FILES: Mapping[str, str] = {
    "CMakeLists.txt": CMAKE,
    "ggml/llama.c": "int layers(void) { return 30; }\n",
    "common/chat.c": CHAT,
    "tools/server/server.c": SERVER,
    "tools/other.c": "this is not even C\n",
    "models/templates/google-gemma-4.jinja": "{{ messages }}\n",
}

FIX = (
    "--- a/common/chat.c\n"
    "+++ b/common/chat.c\n"
    "@@ -1,5 +1,5 @@\n"
    " // how a model thinks\n"
    " \n"
    "-static const char * start_tag = 0;\n"
    '+static const char * start_tag = "until told";\n'
    " \n"
    " const char * thinks(void) {\n"
)

DESCRIPTION = """\
name: fix
why: a thought has no end
reference: https://example.org/pull/1
status: merged
needs: {files: common/**/*.c, contains: start_tag}
upstream: {files: common/**/*.c, contains: 'start_tag = "'}
"""


def write_tree(folder: Path, changes: Mapping[str, str] | None = None) -> Path:
    """The tree, with other or further files."""
    for name, text in {**FILES, **(changes or {})}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def write_patch(
    folder: Path, *, text: str = FIX, description: str = DESCRIPTION, name: str = "fix"
) -> Path:
    """The folder of a patch."""
    place = folder / name
    place.mkdir(parents=True, exist_ok=True)
    (place / "patch.yaml").write_text(description, encoding="utf-8")
    (place / f"{name}.patch").write_text(text, encoding="utf-8")
    return place


def write_tar(path: Path, members: Mapping[str, bytes | tarfile.TarInfo]) -> Path:
    """A compressed archive; a text becomes a file, a member goes in as it is."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
                continue
            member = tarfile.TarInfo(name)
            member.size = len(content)
            member.mode = 0o755 if name.endswith("llama-server") else 0o644
            tar.addfile(member, io.BytesIO(content))
    return path


def tree_members(
    prefix: str, *, but: Mapping[str, str] | None = None
) -> dict[str, bytes]:
    """The tree as members of an archive."""
    every = {**FILES, **(but or {})}
    return {f"{prefix}/{name}": text.encode() for name, text in every.items()}


def git(folder: Path, *arguments: str) -> str:
    """Run git as a stranger to the settings of this machine."""
    who = {
        f"GIT_{role}_{what}": "test@localhost"
        for role in ("AUTHOR", "COMMITTER")
        for what in ("NAME", "EMAIL")
    }
    done = subprocess.run(
        [shutil.which("git") or "git", *arguments],
        cwd=folder,
        env={**os.environ, **who, "GIT_CONFIG_GLOBAL": os.devnull},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def compiled(
    tree: Path,
    into: Path,
    work: Path,
    *,
    environment: Mapping[str, str] = os.environ,
    lay_out: Callable[[Path], None] | None = None,
    tools: Toolchain | None = None,
    **target: Any,
) -> Compiled:
    """Build the tree; what it takes is what a test leaves out."""
    for folder in (into, work):
        folder.mkdir(parents=True, exist_ok=True)

    def copy(folder: Path) -> None:
        for path in sorted(tree.rglob("*")):
            if path.is_file():
                there = folder / path.relative_to(tree)
                there.parent.mkdir(parents=True, exist_ok=True)
                there.write_bytes(path.read_bytes())

    return compile_server(
        Job(
            "llama-server b1",
            "small",
            lay_out or copy,
            Target(**{"number": 1, **target}),
            2,
        ),
        into,
        work=work,
        tools=tools or find_toolchain(environment, cuda=None),
        progress=lambda _: None,
        say=lambda _: None,
    )


def answer(server: Path) -> str:
    """What the server of the tree prints."""
    done = subprocess.run([server], capture_output=True, text=True, check=True)
    return done.stderr + done.stdout


def around(folder: Path, environment: Mapping[str, str] = os.environ) -> Surroundings:
    """Downloads below the folder of a test."""
    return Surroundings(folder / "home/downloads", environment, unwatched)


def names(folder: Path) -> set[str]:
    """The files below a folder."""
    files = (path for path in folder.rglob("*") if not path.is_dir())
    return {path.relative_to(folder).as_posix() for path in files}


def fetched(pin: Pin, folder: Path, where: Surroundings) -> Path:
    """The pinned tree, as it arrives."""
    into = folder / "fetched"
    into.mkdir()
    fetch_tree(pin, into, where)
    return into
