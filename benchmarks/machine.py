"""What was measured on: the machine, without its name and without any path."""

import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import psutil

from deployer import __version__


def machine() -> Mapping[str, str]:
    """Date, processor, cores, memory, systems, and how busy it was."""
    return {
        "date": datetime.now(tz=UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "deployer": __version__,
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{_system()}, Linux {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "load": f"{os.getloadavg()[0]:.1f} in the minute before the end",
    }


def _processor() -> str:
    found = {
        name.strip(): value.strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        for name, _, value in [line.partition(":")]
    }
    name = found.get("model name", platform.machine())
    return f"{name}, family {found.get('cpu family')}, model {found.get('model')}"


def _system() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    except OSError:
        return "Linux"
