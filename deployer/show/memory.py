"""A fit in words: one line for a plan, a few for those who ask."""

from collections.abc import Iterator

from deployer.planning.fit import Fit, Parts

_MIB, _GIB = 1024**2, 1024**3
_TOGETHER = {"output": "compute", "context": "compute", "process": "compute"}
"""Parts that one line adds to another."""


def fit_line(fit: Fit) -> str:
    """What is needed, of what: ``L40S 48 GB: weights 16.7 + … = 19.6 GiB (44 %)``."""
    joined: dict[str, int] = {}
    for name, size in fit.parts:
        name = _TOGETHER.get(name, name)  # noqa: PLW2901 - the name it is told by
        joined[name] = joined.get(name, 0) + size
    number = gib if fit.total >= _GIB else mib
    unit = "GiB" if fit.total >= _GIB else "MiB"
    parts = " + ".join(f"{name} {number(size)}" for name, size in joined.items())
    share = f" ({percent(fit)})" if fit.capacity else ""
    doubt = ", and what could not be told" if fit.unsure else ""
    return f"{fit.where}: {parts} = {number(fit.total)} {unit}{share}{doubt}"


def fit_text(fit: Fit) -> Iterator[str]:
    """Every part on a line of its own."""
    yield f"{fit.where}: {_verdict(fit)}"
    yield from _parts(fit.parts)
    if fit.host:
        yield f"host memory beside it: {sized(_sum(fit.host))} at the start"
        yield from _parts(fit.host)
    if fit.grows:
        held = _sum(fit.host or fit.parts)
        yield (
            f"host memory under load: up to {sized(held + _sum(fit.grows))},"
            f" {sized(_sum(fit.grows))} of it for"
        )
        yield from _parts(fit.grows)
    for note in fit.unsure:
        yield f"not in the figures: {note}"


def gib(size: int) -> str:
    """A size in GiB, without the unit."""
    return f"{size / _GIB:.1f}"


def mib(size: int) -> str:
    """A size in MiB, without the unit."""
    return f"{size / _MIB:.0f}" if size >= 10 * _MIB else f"{size / _MIB:.1f}"


def sized(size: int) -> str:
    """A size in the unit that shows it."""
    return f"{gib(size)} GiB" if size >= _GIB else f"{mib(size)} MiB"


def percent(fit: Fit) -> str:
    """The share of what there is."""
    return f"{100 * fit.total / fit.capacity:.0f} %"


def _verdict(fit: Fit) -> str:
    if not fit.capacity:
        return f"needs {sized(fit.total)}"
    word = "fits" if fit.holds else "does not fit"
    return f"{word}, {sized(fit.total)} of {sized(fit.capacity)} ({percent(fit)})"


def _parts(parts: Parts) -> Iterator[str]:
    for name, size in parts:
        yield f"  {name:<16}{sized(size):>12}"


def _sum(parts: Parts) -> int:
    return sum(size for _, size in parts)
