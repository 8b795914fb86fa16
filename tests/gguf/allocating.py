"""What a real llama-server allocates, compared with what is predicted for it."""

import os
import re
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from deployer.gguf.facts import Model
from deployer.gguf.memory import Serving, cache_layers, compute_size, output_size
from deployer.gguf.reading import facts_of_files

MIB = 1024 * 1024
_BUFFER = r"(KV|compute|output) *buffer size = *([\d.]+)"
PLAIN = Serving(build=10434, ctx_size=4096)

CONFIGURATIONS: Mapping[str, Serving] = {
    "": PLAIN,
    "-c 16384": replace(PLAIN, ctx_size=16384),
    "-ub 256": replace(PLAIN, ubatch_size=256),
    "-np 1": replace(PLAIN, parallel=1),
    "-np 2 -ub 1024": replace(PLAIN, parallel=2, ubatch_size=1024),
    "-np 3 -kvu": replace(PLAIN, parallel=3, kv_unified=True),
    "-np 2 --swa-full": replace(PLAIN, parallel=2, swa_full=True),
    "-ctk q8_0 -ctv q8_0": replace(PLAIN, cache_type_k="q8_0", cache_type_v="q8_0"),
    "-ctk f32 -ctv f32 -np 1": replace(
        PLAIN, cache_type_k="f32", cache_type_v="f32", parallel=1
    ),
    "-fa off -np 1": replace(PLAIN, flash_attn=False, parallel=1),
}


def allocated(binary: Path, model: Path, options: str) -> dict[str, float]:
    """MiB of each kind of buffer, from the log of a start."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    argv = [
        *(str(binary), "--model", str(model), "--host", "127.0.0.1", "--port", port),
        *("--fit", "off", "--no-warmup", "-t", "1", "-lv", "4", "-c", "4096"),
        *options.split(),
    ]
    server = subprocess.Popen(
        argv,
        env={"PATH": os.environ["PATH"], "HOME": os.environ["HOME"]},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    found = {"KV": 0.0, "compute": 0.0, "output": 0.0}
    assert server.stdout is not None
    seen = []
    try:
        for line in server.stdout:
            seen.append(line)
            if match := re.search(
                r"(KV|compute|output) *buffer size = *([\d.]+)", line
            ):
                found[match[1]] += float(match[2])
            if "listening on http" in line:
                break
    finally:
        server.kill()
        server.wait()
        server.stdout.close()
    assert found["KV"] and found["compute"], "".join(seen[-20:])  # noqa: PT018
    return found


def predicted(model: Model, serving: Serving) -> dict[str, float]:
    return {
        "KV": sum(cache_layers(model, serving)) / MIB,
        "compute": compute_size(model, serving) / MIB,
        "output": output_size(model, serving) / MIB,
    }


def compared(
    binary: Path, file: Path, options: str, *, above: float, build: int = 10434
) -> None:
    """Predicted is what was allocated; of compute buffers up to ``above`` more."""
    serving = replace(CONFIGURATIONS[options], build=build)
    ours = predicted(facts_of_files([file]).model, serving)
    real = allocated(binary, file, options)
    print(f"{file.stem[:14]:<15}{options:<26}", end="")  # noqa: T201 - docs/fit.md
    for name in ("KV", "compute"):
        off = 100 * (ours[name] / real[name] - 1)
        print(f"{name} {real[name]:8.2f} {ours[name]:8.2f} {off:+5.1f} %  ", end="")  # noqa: T201
    print()  # noqa: T201
    assert ours["KV"] == pytest.approx(real["KV"], rel=0.02)
    assert ours["output"] == pytest.approx(real["output"], rel=0.02, abs=0.011)
    assert 0.98 < ours["compute"] / real["compute"] < above
