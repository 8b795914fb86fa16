"""Programs that deployer starts: where they are found, what they see, how to wait.

Here is the one list of variables.  A program gets those that it needs and no others:
what a job holds besides (tokens, keys of a cloud) is nobody else's business, and a
variable such as ``PYTHONPATH`` or ``LD_PRELOAD`` would bring code along.
"""

import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Final

COMMON: Final = (
    *("PATH", "LD_LIBRARY_PATH", "HOME", "USER", "LOGNAME"),
    *("LANG", "LANGUAGE", "LC_*", "TZ", "TMPDIR"),
)
"""For every program; names may be patterns."""
NETWORK: Final = (
    *("http_proxy", "https_proxy", "no_proxy", "all_proxy"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR"),
)
GIT: Final = (*NETWORK, "SSH_AUTH_SOCK", "XDG_CONFIG_HOME")
PIP: Final = (
    *NETWORK,
    *("PIP_*", "NETRC", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
    *("XDG_CONFIG_HOME", "XDG_CONFIG_DIRS", "XDG_CACHE_HOME"),
)
MODAL: Final = (*NETWORK, "MODAL_*", "GRPC_*")
NVIDIA: Final = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "NVIDIA_*")
COMPILERS: Final = (
    *NETWORK,
    *("CC", "CXX", "CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH", "LIBRARY_PATH"),
    *("CUDACXX", "CUDAHOSTCXX", "CUDA_*", "NVCC_*", "HIP*", "ROCM_*", "VULKAN_SDK"),
    *("VK_*", "ONEAPI_ROOT", "MKLROOT", "CMPLR_ROOT", "PKG_CONFIG*", "CCACHE_*"),
    *("SDKROOT", "DEVELOPER_DIR", "MACOSX_DEPLOYMENT_TARGET", "XDG_CACHE_HOME"),
)
_FOLDERS: Final = {"PATH", "LD_LIBRARY_PATH"}
"""Lists of folders that code is taken from."""


def find_program(name: str, environment: Mapping[str, str]) -> str | None:
    """The program of this name on PATH; never one of the working directory."""
    return shutil.which(name, path=_absolute(environment.get("PATH", os.defpath)))


def python_command(*words: str) -> tuple[str, ...]:
    """The command of this Python: no working directory, no ``PYTHON*`` variables."""
    return sys.executable, "-E", "-P", *words


def variables(environment: Mapping[str, str], *more: str) -> dict[str, str]:
    """The variables of a program: ``COMMON`` and ``more``, as far as they are set."""
    wanted = (*COMMON, *more)
    return {
        name: _absolute(value) if name in _FOLDERS else value
        for name, value in {"PATH": os.defpath, **environment}.items()
        if any(fnmatchcase(name, pattern) for pattern in wanted)
    }


def search_path(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The folders that programs are looked for in."""
    return tuple(_absolute(environment.get("PATH", os.defpath)).split(os.pathsep))


def _absolute(folders: str) -> str:
    """Without relative and empty entries, which stand for the working directory."""
    here = os.path.realpath(os.curdir)
    found = folders.split(os.pathsep)
    kept = (f for f in found if os.path.isabs(f) and os.path.realpath(f) != here)  # noqa: PTH117 - as `which` reads it
    return os.pathsep.join(kept)


def growing(first: float, longest: float, factor: float = 1.5) -> Iterator[float]:
    """Seconds to pause, again and again, each ``factor`` times the one before.

    So nothing is noticed later than by ``factor`` - 1 of the time that it took, or
    by ``longest``.
    """
    pause = first
    while True:
        yield pause
        pause = min(pause * factor, longest)


def cores() -> int:
    """Cores that this process may use; fewer than there are inside a container."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
