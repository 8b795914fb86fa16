"""Whatever becomes of an apply, production that was serving serves on.

Each story runs under a loop of requests, with real containers of the emulated
platform, which rolls out as Modal does.
"""

import re
import signal
from typing import Any

import pytest

from tests.cli.project import finished, read_until
from tests.modal.client_loop import Counts, clients
from tests.modal.project import Project

APPLY = ("apply", "stacks/tiny.yaml", "--yes")


@pytest.fixture
def live(lasting: Project) -> Project:
    """A project whose stack is live, with a change of it that is not applied."""
    lasting.cloud.faults()
    found = re.search(r"ctx_size: (\d+)", lasting.stack.read_text(encoding="utf-8"))
    assert found is not None
    lasting.write()
    lasting.change("ctx_size: 1024", f"ctx_size: {int(found[1]) + 256}")
    return lasting


def _serves(project: Project, before: dict[str, Any], counts: Counts) -> None:
    """What was live is what serves, and no request found anything else."""
    print(f"clients: {counts}")  # noqa: T201 - a failure shows them
    app = project.cloud.app("tiny") or {}
    print(f"app: {app}")  # noqa: T201
    assert counts.failed == 0, str(counts)
    assert app["state"] == "APP_STATE_DEPLOYED"
    assert app["tags"]["deployer-server"] == before["key"][:16]
    assert project.ask(before["outputs"]["url"])["model"] == "tiny"
    stops = [name for name, _ in project.cloud.requests() if name == "AppStop"]
    ids = {it["id"] for it in project.cloud.seen()["apps"] if it["name"] == "tiny"}
    assert (len(stops) <= 1, len(ids)) == (True, 1), "only the candidate is stopped"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_promotion_that_is_interrupted(live: Project, number: signal.Signals) -> None:
    before = live.live()
    live.cloud.forget()
    with live.running(*APPLY) as process:
        read_until(process, "→ promote tiny/server")
        live.cloud.faults(capacity_seconds=2)
        read_until(process, "deploys app `tiny`")
        with clients(before["outputs"]["url"]) as counts:
            process.send_signal(number)
            done = finished(process)
    assert done.code == (8 if number != signal.SIGKILL else -9), done.err
    live.cloud.faults()
    if number == signal.SIGKILL:
        assert counts.failed == 0, str(counts)
        assert (live.cloud.app("tiny") or {})["state"] == "APP_STATE_DEPLOYED"
    else:
        _serves(live, before, counts)
    live.apply()
    assert live.ask(live.live()["outputs"]["url"])["model"] == "tiny"
    assert live.live()["key"] != before["key"]


def test_a_new_version_that_cannot_start(live: Project) -> None:
    before = live.live()
    live.ask(before["outputs"]["url"])
    live.cloud.forget()
    live.cloud.faults(unmounted="tiny")
    with clients(before["outputs"]["url"]) as counts:
        done = live.run(*APPLY)
    assert done.code == 1, done.out + done.err
    assert "error: app `tiny` did not come up: llama-server did not start" in done.err
    assert live.live() == before
    live.cloud.faults()
    _serves(live, before, counts)
    live.apply()


def test_priming_leaves_the_limits_of_production_alone(live: Project) -> None:
    live.change("  enabled: true\n", "  enabled: true\n  prime: 2\n")
    live.cloud.forget()
    with clients(live.live()["outputs"]["url"]) as counts:
        done = live.apply()
    assert counts.failed == 0, done.out + str(counts)
    app = live.cloud.app("tiny") or {}
    changed = [
        content["function_id"]
        for name, content in live.cloud.requests()
        if name == "FunctionUpdateSchedulingParams"
    ]
    assert app["scaling"]["LlamaServer.*"]["max_containers"] == 2
    assert app["functions"]["LlamaServer.*"] not in changed
    assert changed, "the candidate was let scale to zero"
    assert "cold start for snapshot 2 of 2" in done.out
