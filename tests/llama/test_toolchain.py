"""What this machine can build with, and what it says where something lacks."""

import shutil
import sys
from pathlib import Path

import pytest

from deployer.errors import EngineError
from deployer.llama.build.compile import find_toolchain


def program(folder: Path, name: str, text: str = "exit 0") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def machine(folder: Path, *names: str) -> dict[str, str]:
    """A machine that has these programs only."""
    bare = folder / "bin"
    for name in names:
        program(bare, name)
    for name in ("sh",):
        found = shutil.which(name)
        assert found
        (bare / name).symlink_to(found)
    return {"PATH": str(bare)}


@pytest.fixture(autouse=True)
def _nothing_beside_the_interpreter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))


def test_everything_that_lacks_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(EngineError) as caught:
        find_toolchain(machine(tmp_path, "cc"), cuda=None)
    assert caught.value.message == (
        "building llama-server needs `cmake`, a C++ compiler (`c++`) and `ninja` or "
        "`make`, not found here"
    )
    assert "apt install build-essential cmake ninja-build" in caught.value.hint


def test_ninja_is_taken_where_it_is(tmp_path: Path) -> None:
    found = find_toolchain(
        machine(tmp_path, "cmake", "cc", "c++", "ninja", "make"), cuda=None
    )
    assert (found.generator, found.ccache) == ("Ninja", False)


def test_make_does_without_ninja(tmp_path: Path) -> None:
    found = find_toolchain(machine(tmp_path, "cmake", "cc", "c++", "make"), cuda=None)
    assert found.generator == "Unix Makefiles"


def test_tools_of_the_package_index_lie_beside_the_interpreter(tmp_path: Path) -> None:
    program(tmp_path, "cmake")
    program(tmp_path, "ninja")
    found = find_toolchain(machine(tmp_path, "cc", "c++"), cuda=None)
    assert (found.cmake, found.generator) == (str(tmp_path / "cmake"), "Ninja")


def test_a_compiler_that_the_user_chose_must_be_there(tmp_path: Path) -> None:
    here = machine(tmp_path, "cmake", "cc", "c++", "ninja")
    with pytest.raises(EngineError, match=r"a C\+\+ compiler"):
        find_toolchain({**here, "CXX": "g++-14 -m64"}, cuda=None)


def test_ccache_is_taken_where_it_works(tmp_path: Path) -> None:
    here = machine(tmp_path, "cmake", "cc", "c++", "ninja", "ccache")
    assert find_toolchain(here, cuda=None).ccache


def test_a_broken_ccache_is_not_used_and_told(tmp_path: Path) -> None:
    here = machine(tmp_path, "cmake", "cc", "c++", "ninja")
    program(tmp_path / "bin", "ccache", "echo 'ccache: error: Read-only' >&2; exit 1")
    found = find_toolchain(here, cuda=None)
    assert not found.ccache
    assert "does not work and is not used" in found.notes[0]


def test_flags_of_the_users_shell_do_not_reach_the_build(tmp_path: Path) -> None:
    here = machine(tmp_path, "cmake", "cc", "c++", "ninja")
    given = {"CFLAGS": "-O0", "LDFLAGS": "-s", "CMAKE_GENERATOR": "X", "LANG": "de"}
    kept = find_toolchain({**here, **given, "HTTP_PROXY": "p"}, cuda=None).environment
    assert kept.keys() == {"PATH", "HTTP_PROXY", "LC_ALL"}


def make_folder(toolkit: Path) -> Path:
    toolkit.mkdir()
    return toolkit / "bin"


def nvcc(folder: Path, release: str) -> None:
    program(folder, "nvcc", f"echo 'Cuda compilation tools, release {release}, V1'")


def test_the_toolkit_of_the_stack_is_found(tmp_path: Path) -> None:
    here = machine(tmp_path, "cmake", "cc", "c++", "ninja")
    nvcc(tmp_path / "cuda", "12.8")
    place = str(tmp_path / "cuda" / "nvcc")
    given = {**here, "CUDACXX": place}
    found = find_toolchain(given, cuda="12.8.1", toolkits=tmp_path)
    assert (found.nvcc, found.environment["CUDACXX"]) == (place, place)


def test_another_toolkit_is_not_taken_for_it(tmp_path: Path) -> None:
    here = machine(tmp_path, "cmake", "cc", "c++", "ninja")
    nvcc(tmp_path / "bin", "12.4")
    with pytest.raises(EngineError) as caught:
        find_toolchain(here, cuda="12.8.1", toolkits=tmp_path)
    assert caught.value.message == "this machine has no CUDA toolkit 12.8, only 12.4"
    assert caught.value.hint == "install it, or set `llama_cpp.cuda` to `12.4`"


def test_of_several_toolkits_the_one_of_the_stack_is_taken(tmp_path: Path) -> None:
    here = machine(tmp_path, "cmake", "cc", "c++", "ninja")
    for release in ("12.8", "13.0"):
        nvcc(make_folder(tmp_path / f"cuda-{release}"), release)
    found = find_toolchain(here, cuda="13.0.2", toolkits=tmp_path)
    assert found.nvcc == str(tmp_path / "cuda-13.0" / "bin" / "nvcc")


def test_no_toolkit_at_all(tmp_path: Path) -> None:
    here = machine(tmp_path, "cmake", "cc", "c++", "ninja")
    with pytest.raises(EngineError, match=r"this machine has no CUDA toolkit 12\.8$"):
        find_toolchain(here, cuda="12.8.1", toolkits=tmp_path)
