"""Builds of llama-server in a repository of their own, which cmake makes in a moment.

Each tag is a commit whose server is the one in miniature (`tests/gates/fake_server.py`)
with the faults of that build.
"""

import sys
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path

from tests.gates.fake_http import Reply, Request, Script, as_json, error
from tests.gates.fake_model import Body, Said, usual_answer
from tests.gates.fake_server import fake_server, models
from tests.llama.small_source import git

ROOT = Path(__file__).parents[2]
CMAKE = """\
cmake_minimum_required(VERSION 3.14)
project(llama.cpp NONE)
configure_file(tools/server/server.in ${CMAKE_BINARY_DIR}/bin/llama-server @ONLY)
add_custom_target(llama-server)
"""
BROKEN = CMAKE + 'message(FATAL_ERROR "this build does not compile")\n'
PROGRAM = f"""\
#!{sys.executable}
import sys
sys.path.insert(0, "{ROOT}")
from tests.cli.fake_build import serve
serve(@LLAMA_BUILD_NUMBER@, "FAULTS", sys.argv[1:])
"""
FILES = ("ggml/a", "common/a", "models/templates/a")
"""They make a tree llama.cpp, beside the server."""
SERVER = "tools/server/server.in"

UNLIMITED = "unlimited"
"""It thinks as long as it likes, whatever budget a request has."""
NO_MMAP = "no-mmap"
"""It has no option `--no-mmap` any more."""
CLOSED = "closed"
"""`/v1/models` wants the key."""
BROKEN_BUILD = "broken"
"""It does not compile."""
SILENT = "silent"
"""It answers chats with an error of the server."""
COARSE = "coarse"
"""It does so with weights of less than four bits."""


def repository(
    folder: Path, builds: Iterable[int], faults: Callable[[int], Iterable[str]]
) -> str:
    """Commit and tag the builds in order; the address of the repository."""
    folder.mkdir(parents=True)
    git(folder, "init", "-q")
    git(folder, "config", "uploadpack.allowAnySHA1InWant", "true")
    for name in (*FILES, SERVER):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("a\n")
    program = folder / SERVER
    for number in builds:
        found = {*faults(number)}
        program.write_text(program_of(number, *sorted(found - {BROKEN_BUILD})))
        program.chmod(0o755)
        text = BROKEN if BROKEN_BUILD in found else CMAKE
        (folder / "CMakeLists.txt").write_text(text)
        git(folder, "add", "-A")
        git(
            folder,
            "commit",
            "-q",
            "-m",
            f"server : change {number} (#{number + 10000})",
        )
        git(folder, "tag", f"b{number}")
    return folder.as_uri()


def program_of(number: int, *faults: str) -> str:
    """The program of a build, as it is committed."""
    return f"{PROGRAM.replace('FAULTS', ' '.join(faults))}# b{number}\n"


def serve(number: int, named: str, words: list[str]) -> None:
    """Be the llama-server of a build, until somebody ends it."""
    faults, options = {*named.split()}, dict(pairwise(words))
    if NO_MMAP in faults and "--no-mmap" in words:
        sys.exit("error: invalid argument: --no-mmap")
    if "--version" in words:
        sys.stderr.write(f"version: {number} (7e4c0a9)\n")
        return
    if COARSE in faults and Path(options["--model"]).name[-8] < "4":
        faults.add(SILENT)
    script = Script(
        key=Path(options["--api-key-file"]).read_text().strip(),
        says=_unlimited if UNLIMITED in faults else usual_answer,
        routes={
            **({"GET /v1/models": _closed} if CLOSED in faults else {}),
            **({"POST /v1/chat/completions": _silent} if SILENT in faults else {}),
        },
    )
    with fake_server(script, int(options["--port"])) as server:
        server.stopped.wait()


def _unlimited(body: Body) -> Said:
    return usual_answer({**body, "thinking_budget_tokens": 10**6})


def _closed(request: Request) -> Reply:
    if request.headers.get("Authorization") is None:
        return error(401, "Invalid API Key", "authentication_error")
    return models(request)


def _silent(_request: Request) -> Reply:
    return as_json({"error": {"message": "no", "code": 500}}, 500)
