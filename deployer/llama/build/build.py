"""From a pinned source to llama-server in a folder: what an engine calls."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from deployer.errors import EngineError
from deployer.llama.build.compile import Compiled, Job, compile_server
from deployer.llama.build.recipe import System, Target, refusals
from deployer.llama.build.toolchain import find_toolchain
from deployer.llama.build.trees import Surroundings, fetch_patched
from deployer.llama.patches.patch_file import Patch
from deployer.planning.facts import Pin
from deployer.planning.keys import digest
from deployer.system.cores import cores


@dataclass(frozen=True, slots=True)
class Settings:
    """What a stack says about a build, beside its source."""

    cuda: str | None
    architectures: tuple[str, ...]
    """Compute capabilities of the GPUs that the stack names."""
    cmake: tuple[str, ...]
    system: System
    """Of the machine that builds."""


def target_of(pin: Pin, settings: Settings) -> Target:
    """Return what the recipe needs to know of a pinned source."""
    number, commit = pin.about.get("number"), pin.about.get("commit")
    return Target(
        number=number if isinstance(number, int) else None,
        commit=commit if isinstance(commit, str) else None,
        system=settings.system,
        cuda=settings.cuda,
        architectures=settings.architectures,
        cmake=settings.cmake,
    )


def build_from_source(
    pin: Pin,
    settings: Settings,
    patches: Sequence[Patch],
    into: Path,
    *,
    work: Path,
    around: Surroundings,
    say: Callable[[str], None],
) -> Compiled:
    """Build the pinned source into ``into``; ``work`` keeps what builds share.

    Raises EngineError, SourceError and StoreError; running it again carries on.
    """
    target = target_of(pin, settings)
    if refused := refusals(target):
        raise EngineError(refused[0].what, hint=refused[0].hint)
    job = Job(
        name=f"llama-server {_called(target, pin)}",
        source=digest(
            {name: x for name, x in pin.identity.items() if name != "patches"}
        ),
        lay_out=lambda folder: fetch_patched(pin, patches, folder, around),
        target=target,
        jobs=cores(),
    )
    work.mkdir(parents=True, exist_ok=True, mode=0o700)
    return compile_server(
        job,
        into,
        work=work,
        tools=find_toolchain(around.environment, cuda=settings.cuda),
        progress=around.progress,
        say=say,
    )


def _called(target: Target, pin: Pin) -> str:
    if target.number is not None:
        return f"b{target.number}"
    return (target.commit or str(pin.where.get("path", "")))[:9]
