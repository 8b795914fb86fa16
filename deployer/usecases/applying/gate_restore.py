"""What brings a server back from its snapshot while a gate looks on."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from deployer.engines.contract import Engine
from deployer.gates.harness.target import Comeback, Target
from deployer.planning.events import Say
from deployer.planning.resources import Kind
from deployer.planning.state import Record
from deployer.stack.fields.values import Flat

Needs = Callable[[Record], Mapping[str, Flat]]
"""The outputs of what a server is made from, by kind."""


@contextmanager
def restorable(
    target: Target,
    engine: Engine,
    record: Record,
    needs: Needs,
    say: Say,
    *,
    candidate: bool,
) -> Iterator[Target]:
    """The target with what brings its server back, where there is a snapshot.

    A candidate is put away and restored in its place.  A live server serves on: a copy
    is restored beside it, and retired in the end.
    """
    if Kind.SNAPSHOT not in record.needs:
        why = "this server was started without a snapshot"
        yield replace(target, why_no_snapshot=why)
        return
    copies: list[Record] = []

    def bring_back(idle: float) -> Comeback:
        if candidate:
            engine.idle(record, idle, say)
        found = engine.restore(record, needs(record), say, beside=not candidate)
        if not candidate:
            copies.append(found.record)
        there = engine.endpoint(found.record, candidate=candidate)
        detail, source = found.detail, there.source_address
        return Comeback(found.really, found.seconds, detail, there.url, source)

    try:
        yield replace(target, bring_back=bring_back)
    finally:
        for copy in copies:
            engine.retire(copy, say)
