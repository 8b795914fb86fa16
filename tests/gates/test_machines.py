"""The device of the weights and free memory; the machine may say nothing."""

from pathlib import Path

import pytest

from deployer.gates.checks.hardware import (
    Device,
    Free,
    Gpu,
    Gpus,
    Memory,
    free_memory,
)
from deployer.gates.harness.client import Process, Target
from deployer.planning.events import Outcome
from deployer.stack.fields import gate_options as asked
from deployer.stack.fields.values import JsonValue
from tests.gates.breaking import FAIL, UNCLEAR
from tests.gates.checking import PROCESS, check, section
from tests.gates.fake_http import Script
from tests.gates.faults.machines import OLD_ON_CPU

PASS = Outcome.PASS


GIB = 2**30


ON_CPU = """\
0.00.064.091 I load_tensors: offloaded 3/3 layers to GPU
0.00.064.120 I load_tensors:   CPU_Mapped model buffer size =     1.94 MiB
0.00.067.714 I llama_kv_cache:        CPU KV buffer size =     2.50 MiB
"""
"""b10434 with `--n-gpu-layers 99` on a machine without a GPU."""


ON_GPU = """\
load_tensors: offloaded 49/49 layers to GPU
load_tensors:        CUDA0 model buffer size =  4321.00 MiB
load_tensors:    CUDA_Host model buffer size =   512.00 MiB
"""


ON_HOST = """\
load_tensors:    CUDA_Host model buffer size =   512.00 MiB
load_tensors:          AMX model buffer size =  4321.00 MiB
load_tensors:        CUDA0 model buffer size =     0.00 MiB
"""


IN_PART = """\
load_tensors: offloaded 20/49 layers to GPU
load_tensors:   CPU_Mapped model buffer size =  2321.00 MiB
load_tensors:      Vulkan0 model buffer size =  2000.00 MiB
"""


QUIET = "srv  llama_server: model loaded\n"
"""b10434 and later, unless more is asked for."""


def target(
    log: str = "", *, gpu: JsonValue = None, memory: int | None = 5, **server: JsonValue
) -> Target:
    expects: dict[str, JsonValue] = {"model.path": "tiny.gguf"}
    expects |= {f"server.{n}": v for n, v in server.items()}
    if gpu is not None:
        expects["gpu"] = gpu
    process = Process(pid=7, memory=memory, log=log)
    return Target("http://127.0.0.1:1", expects=expects, process=process)


def gpus(free: int, *pids: int) -> Gpus:
    one = Gpu("GPU-1", "NVIDIA L4", 24 * GIB, free)
    other = Gpu("GPU-2", "NVIDIA L4", 24 * GIB, GIB)
    return Gpus((one, other), frozenset(("GPU-1", pid) for pid in pids))


@pytest.mark.parametrize(
    ("seen", "found", "outcome", "because"),
    [
        (target(ON_CPU, gpu="L4"), Gpus(), FAIL, "the weights are in main memory"),
        (target(OLD_ON_CPU, gpu="L4"), Gpus(), FAIL, "(`gpu: L4`)"),
        (target("no usable GPU found", n_gpu_layers=9), Gpus(), FAIL, "layers: 9"),
        (target(ON_CPU, n_gpu_layers="all"), Gpus(), FAIL, "n_gpu_layers: all"),
        (target(ON_CPU, gpu=["L4", "H100"]), gpus(GIB, 7), FAIL, "[L4, H100]"),
        (target(ON_HOST, gpu="L4"), Gpus(), FAIL, "the weights are in main memory"),
        (target(QUIET, gpu="L4"), Gpus(), UNCLEAR, "set `server.verbosity: 4`"),
        (target(QUIET, gpu="L4"), gpus(GIB, 8), UNCLEAR, "nor the driver tells"),
        (target(IN_PART, n_gpu_layers="all"), Gpus(), FAIL, "only 20 of 49 layers"),
        (target(IN_PART, n_gpu_layers=30), Gpus(), FAIL, "`server.n_gpu_layers: 30`"),
        (target(IN_PART, n_gpu_layers=20), Gpus(), PASS, "20 of 49 layers are on `V"),
        (target(IN_PART, gpu="L4"), Gpus(), PASS, "20 of 49"),
        (target(ON_GPU, n_gpu_layers=99), Gpus(), PASS, "49 of 49 layers are on `CUDA"),
        (target(QUIET, gpu="L4"), gpus(GIB, 7), PASS, "are on `NVIDIA L4`"),
        (target(ON_CPU), Gpus(), PASS, "asks for no GPU: it runs on the CPU"),
        (target(ON_GPU), Gpus(), PASS, "asks for no GPU: it runs on `CUDA0`"),
        (target(ON_CPU, n_gpu_layers=0), Gpus(), PASS, "no GPU"),
        (target(ON_CPU, n_gpu_layers="auto"), Gpus(), PASS, "no GPU"),
        (target(ON_CPU, gpu="L4", device=["none"]), Gpus(), PASS, "no GPU"),
        (target(QUIET), Gpus(), PASS, "which is not seen to use one"),
    ],
)
def test_the_device_is_that_of_the_weights(
    seen: Target, found: Gpus, outcome: Outcome, because: str
) -> None:
    judged = Device(asked.Device(), seen).judgement(found)
    assert (judged.outcome, because in judged.because) == (outcome, True), judged


@pytest.mark.parametrize(
    ("headroom", "seen", "measured", "outcome", "because"),
    [
        (None, target(memory=None), (Gpus(), GIB), UNCLEAR, "its engine does not"),
        (None, target(memory=0), (Gpus(), GIB), UNCLEAR, "nothing tells how much"),
        (None, target(), (Gpus(), GIB), PASS, "1.1 GB of main memory are free"),
        (None, target(), (Gpus(), None), PASS, "this machine does not tell"),
        ("1GiB", target(), (Gpus(), None), UNCLEAR, "this machine does not tell"),
        ("1GiB", target(), (Gpus(), GIB), PASS, "the server takes 5 B"),
        ("1GiB", target(), (Gpus(), GIB - 1), FAIL, "less than `headroom: 1GiB`"),
        (GIB + 1, target(), (Gpus(), GIB), FAIL, "less than `headroom:"),
        ("2GiB", target(), (gpus(3 * GIB, 7), 0), PASS, "3.2 GB of GPU memory"),
        ("4GiB", target(), (gpus(3 * GIB, 7), 0), FAIL, "3.2 GB of GPU memory"),
        ("2GiB", target(gpu="L4"), (gpus(3 * GIB), 0), FAIL, "1.1 GB of GPU memory"),
        ("1GiB", target(gpu="L4"), (Gpus(), 9 * GIB), UNCLEAR, "of GPU memory is"),
        ("1GiB", target(), (gpus(0, 8), 9 * GIB), PASS, "of main memory are free"),
    ],
)
def test_memory_has_to_stay_free(
    headroom: JsonValue,
    seen: Target,
    measured: tuple[Gpus, int | None],
    outcome: Outcome,
    because: str,
) -> None:
    options = section("memory", headroom=headroom)
    assert isinstance(options, asked.Memory)
    judged = Memory(options, seen).judgement(Free(*measured))
    assert (judged.outcome, because in judged.because) == (outcome, True), judged


def test_memory_is_recorded() -> None:
    gate = Memory(asked.Memory(), target(memory=123))
    judged = gate.judgement(Free(gpus(3 * GIB, 7), GIB))
    assert judged.figures == {
        "process_bytes": 123,
        "free_bytes": GIB,
        "gpu_free_bytes": 3 * GIB,
        "gpu_total_bytes": 24 * GIB,
    }


DRIVER = """\
#!/bin/sh
case "$1" in
  *memory*) printf 'GPU-1, NVIDIA L4, 23034, 1024\\nGPU-2, NVIDIA L4, [N/A], 9\\n' ;;
  *) printf 'GPU-1, {pid}\\nGPU-9, [N/A]\\n' ;;
esac
exit {code}
"""


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of a program that stands in for nvidia-smi; the test writes it."""
    program = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return program


def written(program: Path, text: str) -> None:
    program.write_text(text, encoding="utf-8")
    program.chmod(0o755)


def test_the_driver_is_asked_for_gpus_and_their_processes(driver: Path) -> None:
    written(driver, DRIVER.format(pid=PROCESS.pid, code=0))
    stated = {"gpu": "L4"}
    check("device", Script(), PASS, "are on `NVIDIA L4`", stated=stated)
    verdict = check("memory", Script(), FAIL, "1.1 GB of GPU", headroom="2GiB")
    assert verdict.figures["gpu_total_bytes"] == 23034 * 2**20


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(DRIVER.format(pid=PROCESS.pid, code=9), id="no driver loaded"),
        pytest.param("#!/bin/sh\necho Failed to initialize NVML\n", id="broken"),
        pytest.param("#!/bin/sh\nprintf '\\377,,,\\n'\n", id="noise"),
    ],
)
def test_a_driver_that_does_not_answer_tells_nothing(driver: Path, text: str) -> None:
    written(driver, text)
    check("device", Script(), UNCLEAR, "nor the driver", stated={"gpu": "L4"})


@pytest.mark.parametrize(
    ("text", "free"),
    [
        ("MemTotal: 9 kB\nMemAvailable:   2048 kB\n", 2 * 2**20),
        ("MemTotal: 9 kB\n", None),
        ("MemAvailable:\n", None),
        (None, None),
    ],
)
def test_free_memory_is_what_linux_says(
    text: str | None, free: int | None, tmp_path: Path
) -> None:
    meminfo = tmp_path / "meminfo"
    if text is not None:
        meminfo.write_text(text, encoding="utf-8")
    assert free_memory(meminfo) == free
