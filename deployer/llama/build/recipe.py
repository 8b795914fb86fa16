"""The cmake definitions of a build: pure, from what a stack says to `NAME=VALUE`.

Facts: CMakeLists.txt and ggml/CMakeLists.txt of b8672 and b11434, NVIDIA's release
notes of the CUDA toolkit, and the issues named below.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from deployer.diagnostics import Diagnostic

System: TypeAlias = Literal["Linux", "Darwin"]
Version: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Target:
    """The target of a build: number, system, toolkit, GPUs."""

    number: int | None
    """Upstream's number of the build; ``None`` is taken for the newest."""
    commit: str | None = None
    """Commit to report in ``/props``; any length."""
    system: System = "Linux"
    cuda: str | None = None
    """Version of the CUDA toolkit; ``None`` builds for the CPU."""
    architectures: tuple[str, ...] = ()
    """Compute capabilities without the point, of all GPUs that must be served."""
    cmake: tuple[str, ...] = ()
    """The user's own definitions."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """The toolkits that support a compute capability."""

    since: Version
    before: Version | None = None
    """First toolkit that cannot build for it any more."""


ARCHITECTURES: Mapping[str, Architecture] = {
    "60": Architecture((8, 0), before=(13, 0)),
    "61": Architecture((8, 0), before=(13, 0)),
    "70": Architecture((9, 0), before=(13, 0)),
    "75": Architecture((10, 0)),
    "80": Architecture((11, 0)),
    "86": Architecture((11, 1)),
    "89": Architecture((11, 8)),
    "90": Architecture((11, 8)),
    "100": Architecture((12, 8)),
    "103": Architecture((12, 9)),
    "110": Architecture((13, 0)),
    "120": Architecture((12, 8)),
    "121": Architecture((12, 9)),
}
"""Compute capabilities, with the toolkits that know them (NVIDIA's release notes)."""

OLDEST_TOOLKIT: Version = (11, 8)
FIRST_UNKNOWN_TOOLKIT: Version = (14, 0)

BROKEN_TOOLKITS: Mapping[Version, str] = {
    (13, 2): "its compiler turns models quantised as IQ3_S and below into gibberish "
    "(llama.cpp issues 21255, 21371, 28581)",
}
"""Toolkits that must not be used, and why."""


@dataclass(frozen=True, slots=True)
class Dated:
    """A definition that only some builds know."""

    option: str
    since: int = 0
    until: int | None = None
    """Last build that knows it."""


# Interface files are part of the tree up to b8929; by b9246 they are not, and the
# build would fetch or make them (LLAMA_BUILD_UI then means: with npm).
_INTERFACE = (
    Dated("LLAMA_USE_PREBUILT_UI=OFF", since=8930),
    Dated("LLAMA_BUILD_UI=OFF", since=8930),
)

_EVERYWHERE = (
    "CMAKE_BUILD_TYPE=Release",
    "BUILD_SHARED_LIBS=ON",
    # The files move from the build folder to the store: they look beside themselves.
    "CMAKE_BUILD_WITH_INSTALL_RPATH=ON",
    # What this machine's processor can do is not what the next one can.
    "GGML_NATIVE=OFF",
    "LLAMA_BUILD_TESTS=OFF",
    "LLAMA_BUILD_EXAMPLES=OFF",
    "LLAMA_BUILD_SERVER=ON",
    # Weights come from the store, never over the network of the server.
    "LLAMA_OPENSSL=OFF",
)

_BESIDE: Mapping[System, str] = {
    "Linux": "CMAKE_INSTALL_RPATH=$ORIGIN",
    "Darwin": "CMAKE_INSTALL_RPATH=@loader_path",
}

_CUDA = (
    "GGML_CUDA=ON",
    # Loaded at run time: `--version` and `--help` then work where there is no GPU.
    "GGML_BACKEND_DL=ON",
    # The driver's libcuda is not there where images are built (issue 23357).
    "CMAKE_EXE_LINKER_FLAGS=-Wl,--allow-shlib-undefined",
    "CMAKE_SHARED_LINKER_FLAGS=-Wl,--allow-shlib-undefined",
    # Whether it is used must not depend on what is installed on the builder.
    "GGML_CUDA_NCCL=OFF",
)

_DEFINITION = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(:[A-Z]+)?=.*", re.DOTALL)


def refusals(target: Target) -> list[Diagnostic]:
    """Everything that speaks against building for the target."""
    return [*_wrong_definitions(target), *_wrong_toolkit(target)]


def options(target: Target, *, ccache: bool) -> tuple[str, ...]:
    """The definitions of the build, in the order that cmake gets them.

    The user's come last, so they win.  The target must have no refusals.
    """
    number = target.number
    known = [
        dated.option
        for dated in _INTERFACE
        if number is None
        or (dated.since <= number and (dated.until is None or number <= dated.until))
    ]
    return (
        *_EVERYWHERE,
        _BESIDE[target.system],
        f"GGML_CCACHE={'ON' if ccache else 'OFF'}",
        *known,
        *_cuda(target),
        # A shallow clone or an archive would report build 1 or 0.
        *([f"LLAMA_BUILD_NUMBER={number}"] if number is not None else []),
        f"LLAMA_BUILD_COMMIT={(target.commit or 'unknown')[:9]}",
        *target.cmake,
    )


def toolkit(version: str) -> Version:
    """Major and minor number of a toolkit: ``12.8.1`` is (12, 8)."""
    return tuple(int(part) for part in version.split(".")[:2])


def _cuda(target: Target) -> tuple[str, ...]:
    if target.cuda is None:
        return ("GGML_CUDA=OFF",)
    wanted = ";".join(dict.fromkeys(target.architectures))
    return (*_CUDA, f"CMAKE_CUDA_ARCHITECTURES={wanted}")


def _wrong_definitions(target: Target) -> Iterator[Diagnostic]:
    for number, definition in enumerate(target.cmake):
        if not _DEFINITION.fullmatch(definition):
            bare = definition.removeprefix("-D")
            better = bare if _DEFINITION.fullmatch(bare) else "NAME=VALUE"
            yield Diagnostic(
                f"llama_cpp.cmake[{number}]",
                f"`{definition}` is not a cmake definition",
                f"write `{better}`",
            )


def _wrong_toolkit(target: Target) -> Iterator[Diagnostic]:
    if target.cuda is None:
        return
    path = "llama_cpp.cuda"
    version = toolkit(target.cuda)
    if target.system == "Darwin":
        yield Diagnostic(
            path, "there is no CUDA on macOS", "leave `llama_cpp.cuda` out"
        )
    if not OLDEST_TOOLKIT <= version < FIRST_UNKNOWN_TOOLKIT:
        yield Diagnostic(
            path,
            f"CUDA {target.cuda} is not a toolkit that this version of deployer knows",
            f"use {_text(OLDEST_TOOLKIT)} or later, below "
            f"{_text(FIRST_UNKNOWN_TOOLKIT)}; `12.8.1` serves most GPUs",
        )
        return
    if why := BROKEN_TOOLKITS.get(version):
        yield Diagnostic(
            path,
            f"CUDA {target.cuda} must not be used: {why}",
            "use `12.8.1`, `13.0.2` or `13.3`",
        )
    if not target.architectures:
        yield Diagnostic(
            path,
            "a CUDA build needs to know for which GPU it is",
            "add `gpu:`, such as `gpu: L40S`",
        )
    for name in target.architectures:
        yield from _wrong_architecture(name, target.cuda)


def _wrong_architecture(name: str, cuda: str) -> Iterator[Diagnostic]:
    known = ARCHITECTURES.get(name)
    version = toolkit(cuda)
    if known is None:
        yield Diagnostic(
            "gpu",
            f"compute capability {name} is not one that deployer can build for",
            f"known are {', '.join(ARCHITECTURES)}",
        )
    elif version < known.since:
        yield Diagnostic(
            "llama_cpp.cuda",
            f"CUDA {cuda} cannot build for compute capability {name}",
            f"use {_text(known.since)} or later",
        )
    elif known.before is not None and version >= known.before:
        yield Diagnostic(
            "llama_cpp.cuda",
            f"CUDA {cuda} cannot build for compute capability {name} any more",
            f"use a toolkit before {_text(known.before)}, such as `12.8.1`",
        )


def _text(version: Version) -> str:
    return ".".join(str(part) for part in version)
