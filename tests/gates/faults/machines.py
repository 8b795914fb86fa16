"""No server on the wrong device or without room passes; the machine may say nothing."""

import pytest

from deployer.gates.harness.client import Process
from deployer.planning.events import Outcome
from deployer.stack.fields.values import JsonValue
from tests.gates.breaking import FAIL, UNCLEAR
from tests.gates.checking import PROCESS, check
from tests.gates.fake_http import Script
from tests.gates.registry import broken

LAYERS = "server.n_gpu_layers"
OLD_ON_CPU = """\
warning: no usable GPU found, --gpu-layers option will be ignored
load_tensors:   CPU_Mapped model buffer size =     1.94 MiB
"""
"""b8672 there."""


ON_CPU = """\
load_tensors: offloaded 3/3 layers to GPU
load_tensors:   CPU_Mapped model buffer size =     1.94 MiB
"""
"""b10434 with `--n-gpu-layers 99` on a machine without a GPU."""
IN_PART = """\
load_tensors: offloaded 20/49 layers to GPU
load_tensors:   CPU_Mapped model buffer size =  2321.00 MiB
load_tensors:      Vulkan0 model buffer size =  2000.00 MiB
"""
IN_MAIN = "the weights are in main memory"


@broken(
    "device",
    ("log", "stated", "outcome", "because"),
    [
        pytest.param(OLD_ON_CPU, {"gpu": "L4"}, FAIL, IN_MAIN, id="fell back"),
        pytest.param(ON_CPU, {"gpu": "L4"}, FAIL, IN_MAIN, id="log boasts"),
        pytest.param(ON_CPU, {LAYERS: 9}, FAIL, "n_gpu_layers: 9`", id="layers"),
        pytest.param(IN_PART, {LAYERS: "all"}, FAIL, "only 20 of 49", id="in part"),
        pytest.param(IN_PART, {LAYERS: 30}, FAIL, "only 20 of 49", id="too few"),
        pytest.param("loaded\n", {"gpu": "L4"}, UNCLEAR, "nor the driver", id="quiet"),
        pytest.param("", {"gpu": ["L4"]}, UNCLEAR, "nor the driver", id="no log"),
        pytest.param(
            "load_tensors: CUDA0 model buffer size = NaN MiB",
            {"gpu": "L4"},
            UNCLEAR,
            "nor the driver",
            id="NaN",
        ),
    ],
)
def a_server_on_the_wrong_device(
    log: str, stated: dict[str, JsonValue], outcome: Outcome, because: str
) -> None:
    seen = Process(pid=PROCESS.pid, log=log)
    check("device", Script(), outcome, because, stated=stated, process=seen)


@broken(
    "memory",
    ("process", "stated", "headroom", "outcome", "because"),
    [
        pytest.param(Process(), {}, None, UNCLEAR, "a URL cannot", id="elsewhere"),
        pytest.param(Process(pid=7), {}, None, UNCLEAR, "not", id="engine is silent"),
        pytest.param(Process(7, 0), {}, "1GiB", UNCLEAR, "not", id="nothing taken"),
        pytest.param(
            Process(memory=5), {}, "1GiB", UNCLEAR, "does not tell", id="no machine"
        ),
        pytest.param(
            Process(memory=5),
            {"gpu": "L4"},
            "1B",
            UNCLEAR,
            "how much of GPU memory is free",
            id="no driver",
        ),
        pytest.param(PROCESS, {}, "900TiB", FAIL, "less than `headroom", id="full"),
    ],
)
def a_machine_without_room(
    process: Process,
    stated: dict[str, JsonValue],
    headroom: str | None,
    outcome: Outcome,
    because: str,
) -> None:
    check(
        "memory",
        Script(),
        outcome,
        because,
        stated=stated,
        process=process,
        headroom=headroom,
    )
