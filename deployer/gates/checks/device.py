"""Gate device: the server runs on the device that the stack asks for.

llama-server falls back to the CPU without an error when it finds no GPU: it only
becomes slow.  Two witnesses tell, and neither is asked of the server.  Its log names
the memory that the weights were put into; `offloaded N/M layers to GPU` proves nothing,
for b10434 says so on a machine without one.  The NVIDIA driver names the processes
that compute.  From b10434 on the log holds these lines with `server.verbosity: 4`.
"""

import re
from dataclasses import dataclass
from typing import Final

from deployer.gates.harness.answers import Judgement, failed, passed, unclear
from deployer.gates.harness.client import Client
from deployer.gates.harness.machine import Gpus, gpus
from deployer.gates.harness.target import Target
from deployer.stack.fields.gate_options import Device
from deployer.stack.fields.values import JsonValue

_WEIGHTS_IN: Final = re.compile(r"load_tensors:\s+(\S+) model buffer size = +([0-9.]+)")
_OFFLOADED: Final = re.compile(r"offloaded (\d+)/(\d+) layers to GPU")
_NO_GPU: Final = "no usable GPU found"
_LAYERS: Final = "server.n_gpu_layers"


@dataclass(frozen=True, slots=True)
class Measurement:
    """What the NVIDIA driver says; the log stands in the target."""

    gpus: Gpus


@dataclass(frozen=True, slots=True)
class Witness:
    """Where the weights are, as a log or a driver says."""

    devices: tuple[str, ...]
    """GPUs in use; none on the CPU."""
    layers: tuple[int, int] | None = None
    """Layers on the GPUs, and layers of the model."""


async def measure(_client: Client, _parameters: Device, target: Target) -> Measurement:
    """Ask the driver, if the server runs on this machine."""
    return Measurement(Gpus() if target.process.pid is None else await gpus())


def judge(measurement: Measurement, _parameters: Device, target: Target) -> Judgement:
    """A GPU that was asked for has to hold the weights."""
    witness = seen_in(target.process.log)
    driven = measurement.gpus.of(target.process.pid)
    if witness is None and driven:
        witness = Witness(tuple(gpu.name for gpu in driven))
    asked = asked_for_gpu(target)
    if not asked:
        where = ", which is not seen to use one"
        if witness is not None:
            where = f": it runs on {_named(witness)}"
        return passed(f"the stack asks for no GPU{where}")
    if witness is None:
        return unclear(
            f"the stack asks for a GPU (`{asked}`), and neither a log nor the driver "
            f"tells where the server runs; set `server.verbosity: 4`"
        )
    if not witness.devices:
        return failed(
            f"the stack asks for a GPU (`{asked}`), and the weights are in main "
            f"memory: is llama-server built for this GPU, and does its driver answer?"
        )
    return _on_gpu(witness, target.expects.get(_LAYERS))


def asked_for_gpu(target: Target) -> str:
    """Return what in the stack asks for a GPU; empty when nothing does."""
    layers = target.expects.get(_LAYERS)
    if target.expects.get("server.device") == ["none"]:
        return ""
    if isinstance(gpu := target.expects.get("gpu"), str):
        return f"gpu: {gpu}"
    if isinstance(gpu, list):
        return f"gpu: [{', '.join(map(str, gpu))}]"
    if layers == "all" or (target.whole(_LAYERS) or 0) > 0:
        return f"{_LAYERS}: {layers}"
    return ""


def seen_in(log: str) -> Witness | None:
    """Return what a log tells; None when it holds no such line."""
    found = [name for name, size in _WEIGHTS_IN.findall(log) if float(size) > 0]
    if not found:
        return Witness(()) if _NO_GPU in log else None
    devices = tuple(dict.fromkeys(name for name in found if not _is_main(name)))
    layers = _OFFLOADED.search(log)
    counted = (int(layers[1]), int(layers[2])) if layers and devices else None
    return Witness(devices, counted)


def _is_main(buffer: str) -> bool:
    """Return whether llama.cpp means main memory by the name of a buffer."""
    return buffer.startswith(("CPU", "AMX")) or buffer.endswith("_Host")


def _on_gpu(witness: Witness, wanted: JsonValue) -> Judgement:
    on = _named(witness)
    if witness.layers is None:
        return passed(f"the weights are on {on}")
    held, whole = witness.layers
    figures = {"gpu_layers": float(held), "layers": float(whole)}
    least = whole if wanted == "all" else wanted
    if isinstance(least, int) and held < min(least, whole):
        because = f"only {held} of {whole} layers are on {on}"
        return failed(f"{because}, `{_LAYERS}: {wanted}`", **figures)
    return passed(f"{held} of {whole} layers are on {on}", **figures)


def _named(witness: Witness) -> str:
    return ", ".join(f"`{name}`" for name in witness.devices) or "the CPU"
