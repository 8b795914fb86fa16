"""Release after release, `deployer` killed in between, under clients that never pause.

DEPLOYER_LONG=1 makes 140 switches.  Counts are printed: `pytest -s`.
"""

import os
import random
import subprocess
import sys
from contextlib import suppress

import pytest

from tests.cli.clients import clients
from tests.cli.project import KEY, STACK, Project

pytestmark = [pytest.mark.real, pytest.mark.trust]

SWITCHES = 140 if os.environ.get("DEPLOYER_LONG") else 8
SEED = 15
DEMO = "stacks/demo.yaml"
LONGEST = 6.0
"""Seconds within which a run is killed; a whole one takes about four."""


def test_no_request_is_lost_over_many_switches_with_kills(live: Project) -> None:
    choose = random.Random(SEED)  # noqa: S311 - the same kills every time
    kills = 0
    with clients(live.port, KEY) as tally:
        for number in range(SWITCHES):
            before = live.servers()
            live.write(STACK.replace("1024", str(1024 if number % 2 else 2048)))
            if choose.random() < 0.7:
                kills += killed(live, choose.uniform(0, LONGEST))
            done = live.run("apply", DEMO, "--yes")
            assert done.code == 0, done.out + done.err
            assert len(live.servers()) == 1
            assert live.servers() != before
            assert tally.failures == [], (number, kills)

    sys.stdout.write(
        f"\n{SWITCHES} switches, {kills} kills, {tally.answered} requests answered,"
        f" {len(tally.failures)} lost, slowest {tally.slowest:.2f} s\n"
    )
    assert tally.failures == []


def killed(project: Project, after: float) -> int:
    """Begin an apply and kill it; return 1 where it had not ended by itself."""
    with project.running("apply", DEMO, "--yes") as process:
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=after)
            return 0
        process.kill()
        process.wait()
        return 1
