"""Broken answers by subject; importing them fills the registry."""

from tests.gates.faults import (  # noqa: F401 - they register what they hold
    agents,
    answers,
    custom,
    everywhere,
    limits,
    machines,
    models,
    offered,
    over_time,
    plain,
    restores,
    tools,
)
