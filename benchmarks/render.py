"""How long lowering and rendering of one stack for Modal takes, without any import.

    python -m benchmarks.render

The stack is `stacks/gemma4-prod.yaml`, its facts are made up; reading the stack is
not counted, nor are imports and the first use of the templates.
"""

import statistics
import sys
import time
from pathlib import Path

from deployer.core.facts import Facts, Pin
from deployer.core.graph import expand
from deployer.engines import ABILITIES
from deployer.engines.modal.lower import lower
from deployer.engines.modal.render import render
from deployer.llama.patch_file import load_patches
from deployer.load.stack import load

ROOT = Path(__file__).parent.parent
ROUNDS = 200


def main() -> None:
    """Print median, best and worst of many rounds."""
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
    for _ in range(ROUNDS + 1):
        begun = time.perf_counter()
        graph = expand(stack, facts, ABILITIES["modal"])
        files = render(lower(graph, patches, {"red.png": picture}))
        times.append((time.perf_counter() - begun) * 1000)
    first, *later = times
    size = sum(len(content) for content in files.values())
    print(f"expand, lower and render {len(files)} files, {size} bytes:")
    print(f"  first  {first:6.1f} ms, with compiling the templates")
    print(f"  median {statistics.median(later):6.2f} ms of {ROUNDS}")
    print(f"  best   {min(later):6.2f} ms, worst {max(later):.2f} ms")
    print(f"  modal imported: {'modal' in sys.modules}")


if __name__ == "__main__":
    main()
