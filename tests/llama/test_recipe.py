"""The definitions that cmake gets, and what is refused before."""

from pathlib import Path

import pytest

from deployer.llama.build.recipe import (
    ARCHITECTURES,
    Target,
    options,
    refusals,
)
from deployer.runtime.compile import build_command, configure_command
from deployer.stack.fields.model import GPUS

L40S = Target(9763, "d7ff0741f0aaa", cuda="12.8.1", architectures=("89",))


def given(target: Target, *, ccache: bool = True) -> dict[str, str]:
    return dict(option.split("=", 1) for option in options(target, ccache=ccache))


def what(target: Target) -> list[str]:
    return [f"{refusal.path}: {refusal.what}" for refusal in refusals(target)]


def test_the_recipe_of_a_cpu_build() -> None:
    assert options(Target(8672), ccache=False) == (
        "CMAKE_BUILD_TYPE=Release",
        "BUILD_SHARED_LIBS=ON",
        "CMAKE_BUILD_WITH_INSTALL_RPATH=ON",
        "GGML_NATIVE=OFF",
        "LLAMA_BUILD_TESTS=OFF",
        "LLAMA_BUILD_EXAMPLES=OFF",
        "LLAMA_BUILD_SERVER=ON",
        "LLAMA_OPENSSL=OFF",
        "CMAKE_INSTALL_RPATH=$ORIGIN",
        "GGML_CCACHE=OFF",
        "GGML_CUDA=OFF",
        "LLAMA_BUILD_NUMBER=8672",
        "LLAMA_BUILD_COMMIT=unknown",
    )


def test_a_cuda_build_names_exactly_one_architecture() -> None:
    assert given(L40S)["CMAKE_CUDA_ARCHITECTURES"] == "89"


def test_gpus_of_one_architecture_are_built_for_once() -> None:
    target = Target(9763, cuda="12.8.1", architectures=("89", "86", "89"))
    assert given(target)["CMAKE_CUDA_ARCHITECTURES"] == "89;86"


def test_a_cuda_build_answers_questions_where_there_is_no_gpu() -> None:
    assert given(L40S)["GGML_BACKEND_DL"] == "ON"
    assert "allow-shlib-undefined" in given(L40S)["CMAKE_EXE_LINKER_FLAGS"]


def test_number_and_commit_are_passed_in() -> None:
    assert given(L40S)["LLAMA_BUILD_NUMBER"] == "9763"
    assert given(L40S)["LLAMA_BUILD_COMMIT"] == "d7ff0741f"


def test_an_unknown_number_is_not_made_up() -> None:
    assert "LLAMA_BUILD_NUMBER" not in given(Target(None))


@pytest.mark.parametrize(("number", "fetches"), [(8929, False), (9246, True)])
def test_nothing_is_downloaded_for_the_interface(number: int, *, fetches: bool) -> None:
    """Before b8930 the files are in the tree, and the option is not known."""
    off = {"LLAMA_USE_PREBUILT_UI", "LLAMA_BUILD_UI"}
    assert (off <= given(Target(number)).keys()) == fetches


def test_an_unknown_number_is_taken_for_the_newest() -> None:
    assert given(Target(None))["LLAMA_USE_PREBUILT_UI"] == "OFF"


def test_what_the_user_says_comes_last() -> None:
    target = Target(8672, cmake=("GGML_NATIVE=ON",))
    assert options(target, ccache=True)[-1] == "GGML_NATIVE=ON"
    assert given(target)["GGML_NATIVE"] == "ON"


def test_libraries_lie_beside_the_server_on_macos_too() -> None:
    assert given(Target(1, system="Darwin"))["CMAKE_INSTALL_RPATH"] == "@loader_path"


@pytest.mark.parametrize("gpu", GPUS)
def test_every_gpu_that_a_stack_may_name_can_be_built_for(gpu: str) -> None:
    architecture = GPUS[gpu].architecture
    assert architecture in ARCHITECTURES
    assert what(Target(1, cuda="12.9.1", architectures=(architecture,))) == []


@pytest.mark.parametrize(
    ("cuda", "architecture", "expected"),
    [
        ("12.6.3", "100", "CUDA 12.6.3 cannot build for compute capability 100"),
        ("12.8.1", "103", "CUDA 12.8.1 cannot build for compute capability 103"),
        ("12.8.1", "121", "CUDA 12.8.1 cannot build for compute capability 121"),
        ("13.0.2", "70", "CUDA 13.0.2 cannot build for compute capability 70 any more"),
        (
            "14.0",
            "89",
            "CUDA 14.0 is not a toolkit that this version of deployer knows",
        ),
        (
            "10.2",
            "75",
            "CUDA 10.2 is not a toolkit that this version of deployer knows",
        ),
    ],
)
def test_a_toolkit_that_does_not_fit_the_gpu(
    cuda: str, architecture: str, expected: str
) -> None:
    target = Target(9763, cuda=cuda, architectures=(architecture,))
    assert what(target) == [f"llama_cpp.cuda: {expected}"]


@pytest.mark.parametrize("cuda", ["12.8", "12.9.1", "13.0.2", "13.1", "13.3"])
def test_good_toolkits(cuda: str) -> None:
    assert what(Target(9763, cuda=cuda, architectures=("100",))) == ([])


def test_cuda_13_2_is_refused_with_the_reason() -> None:
    (refusal,) = refusals(Target(9763, cuda="13.2.0", architectures=("90",)))
    assert "must not be used" in refusal.what
    assert "gibberish" in refusal.what
    assert refusal.hint == "use `12.8.1`, `13.0.2` or `13.3`"


def test_an_unknown_architecture_is_refused() -> None:
    target = Target(9763, cuda="12.8.1", architectures=("87",))
    assert what(target) == [
        "gpu: compute capability 87 is not one that deployer can build for"
    ]


def test_a_cuda_build_without_gpu_is_refused() -> None:
    (refusal,) = refusals(Target(9763, cuda="12.8.1"))
    assert refusal.hint == "add `gpu:`, such as `gpu: L40S`"


def test_there_is_no_cuda_on_macos() -> None:
    target = Target(1, system="Darwin", cuda="12.8.1", architectures=("89",))
    assert what(target) == ["llama_cpp.cuda: there is no CUDA on macOS"]


def test_a_definition_that_is_none_is_refused_with_the_right_form() -> None:
    refused = refusals(Target(1, cmake=("GGML_X=1", "-DGGML_Y=ON", "fast please")))
    assert [(x.path, x.hint) for x in refused] == [
        ("llama_cpp.cmake[1]", "write `GGML_Y=ON`"),
        ("llama_cpp.cmake[2]", "write `NAME=VALUE`"),
    ]


def test_the_commands() -> None:
    assert configure_command(Path("s"), Path("b"), ("A=1",)) == [
        "cmake",
        "-S",
        "s",
        "-B",
        "b",
        "-G",
        "Ninja",
        "-DA=1",
    ]
    assert build_command(Path("b"), 4) == [
        *("cmake", "--build", "b", "--target", "llama-server", "--parallel", "4")
    ]
