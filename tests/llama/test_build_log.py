"""Progress and errors in what build tools print."""

import pytest

from deployer.llama.build.compile import Step, first_error, step_of


@pytest.mark.parametrize(
    ("line", "step"),
    [
        (
            "[12/251] Building CXX object src/llama.cpp.o",
            Step(12, 251, compiled=True, unit="objects"),
        ),
        (
            "[250/251] Linking CXX executable bin/llama-server",
            Step(250, 251, compiled=False, unit="objects"),
        ),
        (
            "[  7%] Building CUDA object ggml/fattn.cu.o",
            Step(7, 100, compiled=True, unit="%"),
        ),
        ("-- Configuring done", None),
        ("note: array[3/4] is fine", None),
    ],
)
def test_progress(line: str, step: Step | None) -> None:
    assert step_of(line) == step


def check(log: str, *expected: str) -> None:
    assert first_error(log.splitlines(keepends=True)) == list(expected)


def test_the_first_error_of_a_compiler_and_its_lines() -> None:
    check(
        """\
[3/9] Building CXX object common/chat.o
FAILED: common/chat.o
/usr/bin/c++ -O3 -Werror=format -c common/chat.cpp
common/chat.cpp: In function 'void f()':
common/chat.cpp:7:5: error: 'x' was not declared in this scope
    7 |     x = 1;
      |     ^
[4/9] Building CXX object common/arg.o
common/arg.cpp:9:1: error: something else
ninja: build stopped: subcommand failed.
""",
        "common/chat.cpp:7:5: error: 'x' was not declared in this scope",
        "    7 |     x = 1;",
        "      |     ^",
    )


def test_cmake_says_why_on_the_lines_below() -> None:
    check(
        """\
-- The C compiler identification is GNU 12.2.0
CMake Error at CMakeLists.txt:2 (project):
  No CMAKE_CUDA_COMPILER could be found.

-- Configuring incomplete, errors occurred!
""",
        "CMake Error at CMakeLists.txt:2 (project):",
        "  No CMAKE_CUDA_COMPILER could be found.",
    )


def test_a_compiler_that_was_killed_comes_before_what_followed() -> None:
    check(
        "a.cpp:1:1: error: x\nc++: fatal error: Killed signal terminated program cc1\n",
        "c++: fatal error: Killed signal terminated program cc1",
    )


def test_a_linker_that_misses_something() -> None:
    check(
        "FAILED: bin/llama-server\n/usr/bin/ld: x.so: undefined reference to `cuMem'\n",
        "/usr/bin/ld: x.so: undefined reference to `cuMem'",
    )


def test_ninja_itself() -> None:
    check(
        "ninja: error: loading 'build.ninja': No such file or directory\n",
        "ninja: error: loading 'build.ninja': No such file or directory",
    )


def test_a_log_without_error() -> None:
    check("[1/2] Building C object errors.c.o\nwarning: no error here\n")
