"""metrics, watch and monitor on a live stack; Prometheus itself reads what is written.

The tests with the real Prometheus are there where it is installed: `.ci/run` sees to
it where it may, and says so where it may not.
"""

import json
import shutil
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from deployer.core.monitor import Monitored, alert_rules, dashboard, scrape_config
from deployer.engines.local.ports import free_port
from tests.cli.project import KEY, LIMIT, Project

DEMO = "stacks/demo.yaml"
PROMETHEUS = shutil.which("prometheus")
PROMTOOL = shutil.which("promtool")
MODAL = Monitored(
    "prod",
    "https://org--prod.modal.run",
    "LLAMA_API_KEY",
    {
        "server.metrics": True,
        "scaling.min_containers": 0,
        "gpu": "L40S",
        "gates.restore.within": "15s",
        "gates.stream.ttft": "2s",
    },
)


def test_metrics_are_told_in_words_of_people(live: Project) -> None:
    out = live.run("metrics", DEMO).out
    assert "requests at work " in out
    assert "tokens generated " in out
    _, line = live.run("metrics", DEMO, "--json").lines()
    assert line["samples"]["llamacpp:requests_processing"] == 0


def test_a_watch_tells_restore_and_warm_apart_and_remembers(live: Project) -> None:
    words = ("watch", DEMO, "--idle", "0s", "--textfile", "demo.prom")
    done = live.run(*words, "--rounds", "2")
    assert done.code == 0, done.err
    signs = [line.split()[:2] for line in done.out.splitlines()]
    assert signs == [["✔", "restore"], ["✔", "warm"]] * 2
    record = live.stack.parent / ".deployer" / "watch" / "demo.jsonl"
    assert len(record.read_text().splitlines()) == 4
    text = (live.folder / "demo.prom").read_text()
    assert 'deployer_probe_ttft_seconds{stack="demo",path="restore"} 0.' in text
    assert 'deployer_probe_failures_total{stack="demo",path="warm"} 0\n' in text
    assert KEY not in text + record.read_text() + done.out


def test_a_watch_exits_6_where_nothing_answers(live: Project) -> None:
    live.end()
    done = live.run("watch", DEMO, "--idle", "0s", "--json")
    assert done.code == 6
    probes = [line for line in done.lines() if line["type"] == "probe"]
    assert [probe["breach"] for probe in probes] == [True, True]
    assert [probe["failures_total"] for probe in probes] == [1, 1]


def test_a_server_that_sleeps_is_not_scraped() -> None:
    """A scrape would wake it, and bill."""
    assert scrape_config(MODAL)["scrape_configs"] == []
    assert "llamacpp:" not in json.dumps([alert_rules(MODAL), dashboard(MODAL)])


def test_the_limits_of_alerts_are_those_of_the_stack() -> None:
    (group,) = alert_rules(MODAL)["groups"]
    exprs = {rule["alert"]: rule["expr"] for rule in group["rules"]}
    assert exprs["DeployerRestoreSlow"].endswith('path="restore"} > 15')
    assert exprs["DeployerWarmSlow"].endswith('path="warm"} > 2')
    assert "DeployerGpuHeadroom" in exprs


def test_a_dashboard_has_a_panel_a_question_and_no_overlap() -> None:
    for it in (MODAL, Monitored("s", "http://127.0.0.1:1", None, {})):
        panels = dashboard(it)["panels"]
        places = {(p["gridPos"]["x"], p["gridPos"]["y"]) for p in panels}
        assert len(places) == len(panels) >= 3
        for panel in panels:
            assert "{OF}" not in panel["targets"][0]["expr"]


if PROMETHEUS and PROMTOOL:

    def test_promtool_takes_the_rules_of_both_kinds(tmp_path: Path) -> None:
        local = {"server.metrics": True, "server.parallel": 2}
        for it in (MODAL, Monitored("demo", "http://127.0.0.1:8080", "K", local)):
            rules = tmp_path / f"{it.stack}.rules.yml"
            rules.write_text(yaml.safe_dump(alert_rules(it)))
            checked([str(PROMTOOL), "check", "rules", "--lint-fatal", str(rules)])

    def test_prometheus_scrapes_a_live_stack_with_its_rules(live: Project) -> None:
        assert live.run("monitor", "render", DEMO, "--out", "mon").code == 0
        config = live.folder / "mon" / "demo.prometheus.yml"
        key = live.folder / "key"
        key.write_text(KEY)
        text = config.read_text()
        assert KEY not in text
        text = text.replace("/etc/prometheus/secrets/LLAMA_API_KEY", str(key))
        config.write_text(text.replace("15s", "1s"))
        checked([str(PROMTOOL), "check", "config", str(config)])
        with prometheus(config, live.folder / "tsdb") as url:
            targets = until(f"{url}/api/v1/targets", lambda d: d["activeTargets"])
            assert targets["activeTargets"][0]["labels"]["stack"] == "demo"
            query = f"{url}/api/v1/query?query=llamacpp:requests_deferred"
            (sample,) = until(query, lambda d: d["result"])["result"]
            assert sample["metric"]["stack"] == "demo"
            rules = until(f"{url}/api/v1/rules", lambda d: d["groups"])
            names = {rule["name"] for rule in rules["groups"][0]["rules"]}
            assert {"DeployerNoData", "DeployerQueueDeep"} <= names


def checked(argv: list[str]) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def prometheus(config: Path, data: Path) -> Iterator[str]:
    """A real Prometheus on loopback, which ends with the test."""
    address = f"127.0.0.1:{free_port('127.0.0.1')}"
    argv = [
        str(PROMETHEUS),
        f"--config.file={config}",
        f"--storage.tsdb.path={data}",
        f"--web.listen-address={address}",
    ]
    with (data.parent / "prometheus.log").open("w") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log)
        try:
            yield f"http://{address}"
        finally:
            process.terminate()
            process.wait(timeout=LIMIT)


def until(url: str, wanted: Any) -> dict[str, Any]:
    """Ask Prometheus until what is wanted is there."""
    deadline = time.monotonic() + LIMIT
    found: dict[str, Any] = {}
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - ours
                found = json.load(answer)["data"]
        except OSError:
            found = {}
        if found and wanted(found):
            return found
        threading.Event().wait(0.1)
    raise AssertionError(f"{url} never had it: {found}")
