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
from tests.modal.emulated import wait_until
from tests.modal.project import KEY, SECRET, Project

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


RESTART = ("server", "restart", "stacks/tiny.yaml")
NEW_KEY = {"LLAMA_API_KEY": "sk-new"}


def test_fresh_containers_take_a_rotated_secret_without_an_outage(
    live: Project,
) -> None:
    before, app = live.live(), (live.cloud.app("tiny") or {})["id"]
    live.cloud.secret(SECRET, NEW_KEY)
    live.cloud.forget()
    with clients(before["outputs"]["url"]) as counts:
        done = live.run(*RESTART)
    assert done.code == 0, done.out + done.err
    assert f"running at {before['outputs']['url']}; no request failed" in done.out
    assert counts.failed == 0, str(counts)
    found = live.cloud.calls()
    assert (found["AppRollover"], found.get("AppStop", 0)) == (1, 0)
    assert ((live.cloud.app("tiny") or {})["id"], live.live()) == (app, before)
    check = live.run("check", "stacks/tiny.yaml", "--gate", "auth", env=NEW_KEY)
    assert check.code == 0, check.out + check.err
    seen = live.run("status", "stacks/tiny.yaml")
    assert seen.code == 0, seen.out + seen.err

    # A secret without its key, and containers that do not come up, take nothing over.
    with clients(before["outputs"]["url"]) as counts:
        live.cloud.secret(SECRET, {"ANOTHER": KEY})
        done = live.run(*RESTART)
        assert (done.code, live.cloud.calls()["AppRollover"]) == (4, 1)
        assert "has no key `LLAMA_API_KEY`" in done.err
        live.cloud.secret(SECRET, {"LLAMA_API_KEY": KEY})
        live.cloud.faults(unmounted="tiny")
        done = live.run(*RESTART)
        live.cloud.faults()
    assert done.code == 1, done.out + done.err
    assert "containers of before serve on" in done.err
    assert live.run(*RESTART).code == 0
    _serves(live, before, counts)


def test_containers_are_scaled_for_a_while_and_back(live: Project) -> None:
    """One call each way; a plan names what is scaled by hand, and apply undoes it."""
    live.change("ctx_size: ", "ctx_size: 1024 # ")

    def limits() -> dict[str, int]:
        found: dict[str, int] = (live.cloud.app("tiny") or {})["scaling"]
        return found["LlamaServer.*"]  # type: ignore[return-value]

    scale = ("scale", "stacks/tiny.yaml")
    live.cloud.forget()
    done = live.run(*scale, "min=1", "--for", "1s")
    assert done.code == 0, done.out + done.err
    assert "min=1 for 1.0 s; Ctrl-C ends it" in done.out
    assert "scaled as before" in done.out
    assert live.cloud.calls()["FunctionUpdateSchedulingParams"] == 2
    assert limits().get("min_containers", 0) == 0

    for words, hint in (
        (("min=3",), "`max` is below `min` (2 < 3)"),
        (("most=3",), "`most=3` is no number of containers"),
    ):
        done = live.run(*scale, *words)
        assert done.code == 3, done.out + done.err
        assert hint in done.err
    assert live.run(*scale, "min=1", "max=3").code == 0
    assert (limits()["min_containers"], limits()["max_containers"]) == (1, 3)
    plan = live.run("plan", "stacks/tiny.yaml")
    assert "scaling.max_containers   3 → 2" in plan.out
    live.apply()
    assert (limits().get("min_containers", 0), limits()["max_containers"]) == (0, 2)


def _figures(project: Project) -> dict[str, float]:
    done = project.run("status", "stacks/tiny.yaml", "--metrics", "--json")
    assert done.code == 0, done.out + done.err
    found: dict[str, float] = done.results()[0]["samples"]
    return found


def test_the_figures_of_a_server_that_sleeps_do_not_wake_it(live: Project) -> None:
    """Modal's own are shown, and those of the server only while it is awake."""
    live.ask(live.live()["outputs"]["url"])
    awake = _figures(live)
    assert awake["platform:containers"] >= 1
    assert awake["llamacpp:prompt_tokens_total"] > 0
    live.cloud.preempt("tiny")
    wait_until(lambda: not any(it["runs"] for it in live.cloud.seen()["containers"]))
    started = live.cloud.seen()["started"]
    asleep = _figures(live)
    assert live.cloud.seen()["started"] == started
    assert {
        "platform:containers": 0,
        "platform:requests": 4,
        "platform:requests_failed": 1,
        "platform:start_seconds_p50": 12.5,
        "platform:start_seconds_p99": 41.0,
    }.items() <= asleep.items()
    assert not any(name.startswith("llamacpp:") for name in asleep)
    live.cloud.faults(refused={"FunctionGetTimeRangeStats": "not for this plan"})
    assert _figures(live) == {"platform:containers": 0}
