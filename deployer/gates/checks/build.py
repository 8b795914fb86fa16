"""Gate build: the running server is the build that the stack pins.

llama-server reports `build_info` as `b<number>-<commit>`.  The number counts the
commits of the clone it was built from, so a shallow clone or a source archive reports
1 or 0; only the commit proves such a binary.
"""

import re
from dataclasses import dataclass

from deployer.gates.harness.answers import (
    Answer,
    Judgement,
    Shape,
    excerpt,
    failed,
    passed,
    read,
    unclear,
)
from deployer.gates.harness.client import Client
from deployer.gates.harness.target import Target
from deployer.stack.fields.gate_options import Build

_BUILD_INFO = re.compile(r"b(\d+)-(\S+)")
_COMMIT = re.compile(r"[0-9a-f]{7,40}")
_UNCOUNTED = 1
"""Highest number that a clone without history reports."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """What /props said."""

    answer: Answer


@dataclass(frozen=True, slots=True)
class Reported:
    """The build that a server says it is."""

    number: int
    commit: str


class BuildProps(Shape):
    """The part of /props that names the build."""

    build_info: str


async def measure(client: Client, _parameters: Build, _target: Target) -> Measurement:
    """Ask for /props."""
    return Measurement(await client.get("/props"))


def judge(measurement: Measurement, _parameters: Build, target: Target) -> Judgement:
    """Compare the number and the commit with what the stack states."""
    match read(measurement.answer, BuildProps):
        case Judgement() as broken:
            return broken
        case BuildProps(build_info=text):
            pass
    found = _BUILD_INFO.fullmatch(text)
    if found is None:
        return failed(f"`build_info` is `{excerpt(text)}`, not `b<number>-<commit>`")
    reported = Reported(int(found[1]), found[2])
    tag = target.text("llama_cpp.tag") or ""
    commit = target.text("llama_cpp.commit")
    if _COMMIT.fullmatch(tag):
        return _by_commit(reported, tag, "llama_cpp.tag")
    wanted = int(tag[1:]) if re.fullmatch(r"b\d+", tag) else target.build
    if wanted is None and commit is None:
        return unclear(
            f"the server is `{text}`, and no build is stated to compare it with"
        )
    if reported.number <= _UNCOUNTED or wanted is None:
        return _uncounted(reported, tag or f"b{wanted}", commit)
    if reported.number != wanted:
        return failed(f"the server is `{text}`, the stack pins `{tag or f'b{wanted}'}`")
    if commit is not None and not _same_commit(reported.commit, commit):
        return _by_commit(reported, commit, "llama_cpp.commit")
    return passed(f"the server is `{text}`, as the stack pins it")


def _uncounted(reported: Reported, tag: str, commit: str | None) -> Judgement:
    """The number says nothing: the commit has to."""
    if commit is None:
        return unclear(
            f"the server reports build {reported.number}, commit `{reported.commit}`: "
            f"it was built without the history that numbers builds; "
            f"state `llama_cpp.commit` to prove that it is `{tag}`"
        )
    return _by_commit(reported, commit, "llama_cpp.commit")


def _by_commit(reported: Reported, wanted: str, path: str) -> Judgement:
    if not _COMMIT.fullmatch(reported.commit):
        return unclear(
            f"the server reports no commit (`{excerpt(reported.commit)}`), "
            f"so `{path}: {wanted}` cannot be proved"
        )
    if not _same_commit(reported.commit, wanted):
        return failed(
            f"the server is commit `{reported.commit}`, `{path}` says `{wanted}`"
        )
    return passed(
        f"the server is commit `{reported.commit}`, as `{path}` says "
        f"(it reports build {reported.number})"
    )


def _same_commit(one: str, other: str) -> bool:
    """Whether one is an abbreviation of the other, long enough to mean something."""
    shorter, longer = sorted((one, other), key=len)
    return len(shorter) >= 7 and longer.startswith(shorter)
