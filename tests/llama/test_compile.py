"""Builds of a small project: what is compiled, collected, kept, and said in trouble."""

import os
import select
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from deployer.errors import CancelledError, EngineError
from deployer.llama.build.compile import Job, compile_server, find_toolchain
from deployer.llama.build.recipe import Target
from deployer.planning.progress import Progress
from tests.llama.small_source import (
    CHAT,
    CMAKE,
    SERVER,
    answer,
    compiled,
    write_tree,
)

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "tree")


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return tmp_path / "work"


def test_a_server_knows_its_build(source: Path, work: Path, tmp_path: Path) -> None:
    compiled(source, tmp_path / "into", work, number=8672, commit="d7ff0741f0aaa")
    said = answer(tmp_path / "into/bin/llama-server")
    assert said == "version: 8672 (d7ff0741f)\n30 layers, thinks without end\n"


def test_a_build_runs_where_it_is_moved_to(
    source: Path, work: Path, tmp_path: Path
) -> None:
    compiled(source, tmp_path / "into", work)
    shutil.rmtree(work)
    (tmp_path / "into").rename(tmp_path / "moved")
    assert "30 layers" in answer(tmp_path / "moved/bin/llama-server")


def test_server_libraries_and_templates_are_collected(
    source: Path, work: Path, tmp_path: Path
) -> None:
    into = tmp_path / "into"
    compiled(source, into, work)
    assert sorted(x.relative_to(into).as_posix() for x in into.rglob("*.*")) == [
        "bin/libllama.so",
        "bin/libllama.so.0",
        "bin/libllama.so.0.0.1",
        "templates/google-gemma-4.jinja",
    ]
    assert (into / "bin/libllama.so.0").is_symlink()


def test_only_the_server_is_built(source: Path, work: Path, tmp_path: Path) -> None:
    """The other program of the tree does not compile at all."""
    assert compiled(source, tmp_path / "into", work).files == 3


def test_a_patch_recompiles_only_what_it_touches(
    source: Path, work: Path, tmp_path: Path
) -> None:
    compiled(source, tmp_path / "first", work)
    patched = CHAT.replace("start_tag = 0", 'start_tag = "until told"')
    write_tree(source, {"common/chat.c": patched})
    assert compiled(source, tmp_path / "second", work).files == 1
    assert "until told" in answer(tmp_path / "second/bin/llama-server")
    assert "without end" in answer(tmp_path / "first/bin/llama-server")


def test_going_back_recompiles_only_what_changed(
    source: Path, work: Path, tmp_path: Path
) -> None:
    compiled(source, tmp_path / "first", work)
    write_tree(source, {"common/chat.c": CHAT.replace("without end", "briefly")})
    compiled(source, tmp_path / "second", work)
    write_tree(source)
    assert compiled(source, tmp_path / "third", work).files == 1
    assert "without end" in answer(tmp_path / "third/bin/llama-server")


def test_a_work_folder_that_was_copied_does_not_build_what_lies_elsewhere(
    source: Path, work: Path, tmp_path: Path
) -> None:
    """cmake writes absolute paths: the copy would compile the tree it came from."""
    compiled(source, tmp_path / "first", work)
    copy = tmp_path / "copy"
    shutil.copytree(work, copy, symlinks=True)
    write_tree(source, {"common/chat.c": CHAT.replace("without end", "briefly")})
    compiled(source, tmp_path / "second", copy)
    assert "briefly" in answer(tmp_path / "second/bin/llama-server")
    assert "without end" in answer(tmp_path / "first/bin/llama-server")


def test_the_same_source_compiles_nothing(
    source: Path, work: Path, tmp_path: Path
) -> None:
    compiled(source, tmp_path / "first", work)
    assert compiled(source, tmp_path / "second", work).files == 0


def test_a_file_that_a_patch_removes_is_gone(
    source: Path, work: Path, tmp_path: Path
) -> None:
    compiled(source, tmp_path / "first", work)
    shutil.rmtree(source / "models")
    compiled(source, tmp_path / "second", work)
    assert not (tmp_path / "second" / "templates").exists()


def test_other_definitions_do_not_share_objects(
    source: Path, work: Path, tmp_path: Path
) -> None:
    compiled(source, tmp_path / "first", work)
    done = compiled(source, tmp_path / "second", work, cmake=("CMAKE_C_FLAGS=-O0",))
    assert done.files == 3


def test_without_ninja_make_builds(
    source: Path, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = tmp_path / "bin"
    bare.mkdir()
    monkeypatch.setattr(sys, "executable", str(bare / "python"))
    for folder in os.environ["PATH"].split(os.pathsep):
        for program in Path(folder).glob("*"):
            there = bare / program.name
            if "ninja" not in program.name and not there.is_symlink():
                there.symlink_to(program)
    tools = find_toolchain({"PATH": str(bare)}, cuda=None)
    assert tools.generator == "Unix Makefiles"
    assert compiled(source, tmp_path / "into", work, tools=tools).files == 3


def test_the_first_error_is_shown_with_the_log(source: Path, work: Path) -> None:
    broken = {"common/chat.c": CHAT.replace("static const", "statik const")}
    write_tree(source, broken)
    with pytest.raises(EngineError) as caught:
        compiled(source, work.parent / "into", work)
    lines = caught.value.message.splitlines()
    assert lines[0].startswith("llama-server b1 could not be compiled: ")
    assert "common/chat.c:3:" in lines[0]
    assert "statik" in lines[1]
    log = Path(caught.value.hint.split("`")[1])
    assert "FAILED: " in log.read_text()


def test_what_cmake_complains_about_is_shown(source: Path, work: Path) -> None:
    write_tree(source, {"CMakeLists.txt": CMAKE + 'message(FATAL_ERROR "no luck")\n'})
    with pytest.raises(EngineError) as caught:
        compiled(source, work.parent / "into", work)
    assert "could not be configured: CMake Error" in caught.value.message
    assert "no luck" in caught.value.message


def test_a_toolkit_without_its_libraries_is_named(source: Path, work: Path) -> None:
    rule = "target_link_libraries(llama PRIVATE CUDA::cublas)\n"
    write_tree(source, {"CMakeLists.txt": CMAKE + rule})
    with pytest.raises(EngineError) as caught:
        compiled(source, work.parent / "into", work)
    assert "install `libcublas-dev`" in caught.value.hint


def test_a_full_disk_in_the_compiler_is_named(source: Path, work: Path) -> None:
    text = f"{SERVER}\n#error x: No space left on device\n"
    write_tree(source, {"tools/server/server.c": text})
    with pytest.raises(EngineError) as caught:
        compiled(source, work.parent / "into", work)
    assert caught.value.hint.startswith("free space with `deployer store gc`; ")


def test_after_a_failure_only_the_rest_is_compiled(
    source: Path, work: Path, tmp_path: Path
) -> None:
    write_tree(source, {"common/chat.c": "statik\n"})
    tools = find_toolchain(os.environ, cuda=None)
    with pytest.raises(EngineError):
        compiled(source, tmp_path / "first", work, tools=tools)
    write_tree(source)
    assert compiled(source, tmp_path / "second", work, tools=tools).files < 3


def test_a_build_that_is_stopped_leaves_no_compiler_and_carries_on(
    source: Path, work: Path, tmp_path: Path
) -> None:
    def stop(progress: Progress) -> None:
        if progress.unit == "objects":
            raise CancelledError("stopped")

    for folder in (work, tmp_path / "into"):
        folder.mkdir()
    job = Job(
        "llama-server b1", "small", lambda into: _copy(source, into), Target(1), 1
    )
    with pytest.raises(CancelledError):
        compile_server(
            job,
            tmp_path / "into",
            work=work,
            tools=find_toolchain(os.environ, cuda=None),
            progress=stop,
            say=lambda _: None,
        )
    assert compiled(source, tmp_path / "second", work).files <= 3
    assert "30 layers" in answer(tmp_path / "second/bin/llama-server")


HANG = """\
import os, pathlib, sys
sys.path[:0] = [{root!r}]
from tests.llama.small_source import compiled
compiled(pathlib.Path({source!r}), pathlib.Path({into!r}), pathlib.Path({work!r}))
"""


def test_a_build_that_was_killed_is_waited_for_and_carried_on(
    source: Path, work: Path, tmp_path: Path
) -> None:
    """The compiler that outlives its deployer keeps the folder until it ends."""
    for name in ("started", "release"):
        os.mkfifo(tmp_path / name)
    rule = (
        "add_custom_target(slow COMMAND sh ${CMAKE_SOURCE_DIR}/slow.sh)\n"
        "add_dependencies(llama-server slow)\n"
    )
    slow = f"echo > {tmp_path}/started; read line < {tmp_path}/release\n"
    write_tree(source, {"CMakeLists.txt": CMAKE + rule, "slow.sh": slow})
    # Opened for both, neither end waits for the other, nor sees it gone.
    started, release = (
        os.open(tmp_path / name, os.O_RDWR) for name in ("started", "release")
    )
    text = HANG.format(
        root=str(Path(__file__).parents[2]),
        source=str(source),
        into=str(tmp_path / "into"),
        work=str(work),
    )
    first = subprocess.Popen([sys.executable, "-c", text])
    in_the_middle, _, _ = select.select([started], [], [], 60)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert in_the_middle

    said: list[str] = []
    waiting = threading.Event()

    def hear(line: str) -> None:
        said.append(line)
        waiting.set()

    write_tree(source, {"CMakeLists.txt": CMAKE})
    second = threading.Thread(target=_build, args=(source, work, tmp_path, hear))
    second.start()
    told = waiting.wait(60)
    os.write(release, b"go on\n")
    second.join(60)
    for end in (started, release):
        os.close(end)
    assert told
    assert said == ["waiting for another build of `llama-server b1` in the same folder"]
    assert "30 layers" in answer(tmp_path / "second/bin/llama-server")


def _build(source: Path, work: Path, tmp_path: Path, hear: object) -> None:
    (tmp_path / "second").mkdir()
    assert callable(hear)
    compile_server(
        Job("llama-server b1", "small", lambda into: _copy(source, into), Target(1), 2),
        tmp_path / "second",
        work=work,
        tools=find_toolchain(os.environ, cuda=None),
        progress=lambda _: None,
        say=hear,
    )


def _copy(source: Path, into: Path) -> None:
    shutil.copytree(source, into, dirs_exist_ok=True)
