"""Where llama-server comes from: whole, and from one place."""

from typing import Any

import pytest

from tests.planning.test_checks import check


@pytest.mark.parametrize(
    ("llama", "expect"),
    [
        ({"source": "git", "repo": "https://example.org/x"}, []),
        ({"source": "path", "source_path": "../x"}, []),
        ({"source": "release", "backend": "vulkan"}, []),
        ({"source": ["release", "pypi", "git"], "backend": "vulkan"}, []),
        ({"source": ["pypi", "git"], "repo": "https://example.org/x"}, []),
        (
            {"source": ["pypi", "git", "pypi"]},
            ["llama_cpp.source: `source` names one source twice | keep the first"],
        ),
        (
            {"source": ["release", "pypi"], "cuda": "12.8.1"},
            [
                (
                    "llama_cpp.cuda: `cuda` needs a build from source, and "
                    "`source: release` is ready-made"
                    " | leave `cuda` out, or `source: release`"
                )
            ],
        ),
        (
            {"source": "pypi", "repo": "x"},
            [
                (
                    "llama_cpp.repo: `repo` means something for `source: git` alone"
                    " | leave `repo` out"
                )
            ],
        ),
        (
            {"source": "path"},
            [
                (
                    "llama_cpp.source: nothing says which folder the source is in"
                    " | add `source_path: ../llama.cpp`"
                )
            ],
        ),
        (
            {"source": "release", "patches": ["x"]},
            [
                (
                    "llama_cpp.patches: `patches` needs a build from source, and "
                    "`source: release` is ready-made"
                    " | leave `patches` out, or `source: release`"
                )
            ],
        ),
        (
            {"source": "git", "binary": "x"},
            [
                (
                    "llama_cpp.source: `source` and `binary` both say where "
                    "llama-server comes from | keep one of them"
                )
            ],
        ),
    ],
)
def test_a_source_is_whole_and_alone(llama: dict[str, Any], expect: list[str]) -> None:
    check(expect, llama_cpp={"tag": "b9763", **llama})
