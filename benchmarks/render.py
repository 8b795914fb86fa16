"""How long lowering and rendering of one stack for Modal takes, without any import.

The stack is `stacks/gemma4-prod.yaml`, its facts are made up; reading the stack is
not counted, nor are imports and the first use of the templates.
"""

import statistics
import sys
import time
from pathlib import Path

from benchmarks.result import Result, Run, Table
from deployer.engines.modal.lower import lower
from deployer.engines.modal.render import render as app_files
from deployer.engines.registry import ENGINES
from deployer.llama.patches import load_patches
from deployer.planning.facts import Facts, Pin
from deployer.planning.graph import expand
from deployer.stack.load import load

ROOT = Path(__file__).parent.parent
RENDERINGS = 40
"""In a round."""


def render(run: Run) -> Result:
    """Median, best and worst of many renderings."""
    stack = load(ROOT / "stacks" / "gemma4-prod.yaml").stack
    patches = load_patches(ROOT / "patches", stack.llama_cpp.patches or ())
    picture = (ROOT / "stacks" / "red.png").read_bytes()
    facts = Facts(
        Pin(
            "source-git",
            {"commit": "1" * 40, "patches": [patch.digest for patch in patches]},
            {"repo": "https://github.com/ggml-org/llama.cpp", "tag": "b9763"},
            {"number": 9763, "commit": "1" * 40},
        ),
        Pin(
            "hub",
            {"model": ["2" * 64], "mmproj": "3" * 64},
            {
                "repo": str(stack.model.repo),
                "revision": "4" * 40,
                "model": ["model.gguf"],
                "mmproj": "mmproj-F16.gguf",
            },
            {"model": ["model.gguf"], "mmproj": "mmproj-F16.gguf", "size": 18 * 10**9},
        ),
        {},
    )
    times = []
    for _ in range(run.rounds * RENDERINGS + 1):
        begun = time.perf_counter()
        graph = expand(stack, facts, ENGINES["modal"].abilities)
        files = app_files(lower(graph, patches, {"red.png": picture}))
        times.append((time.perf_counter() - begun) * 1000)
    first, *later = times
    size = sum(len(content) for content in files.values())
    row = (
        *(f"{statistics.median(later):.2f}", f"{min(later):.2f}"),
        *(f"{max(later):.2f}", f"{first:.1f}"),
    )
    return Result(
        title="Rendering a stack for Modal",
        about=(
            (
                f"`expand`, `lower` and `render` of `stacks/gemma4-prod.yaml` to"
                f" {len(files)} files of {size} bytes, {len(later)} times."
            ),
            "Its facts are made up; reading the stack and imports are not counted.",
        ),
        tables=(
            Table(
                ("", "median ms", "best ms", "worst ms", "the first ms"),
                (("a rendering", *row),),
            ),
        ),
        notes=(
            "The first one compiles the templates.",
            f"Modal's client was{' ' if 'modal' in sys.modules else ' not '}imported.",
        ),
        samples=[*times],
    )
