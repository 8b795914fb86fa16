"""metrics, watch and monitor on a live stack."""

import json

from deployer.show.monitor import Monitored, alert_rules, dashboard, scrape_config
from tests.cli.project import KEY, Project

DEMO = "stacks/demo.yaml"
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
    out = live.run("status", DEMO, "--metrics").out
    assert "active requests " in out
    assert "tokens generated " in out
    (line,) = live.run("status", DEMO, "--metrics", "--json").results()
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


def test_what_monitors_read_is_not_written_through_a_link(live: Project) -> None:
    victim = live.folder / "victim"
    (live.folder / "out").mkdir()
    (live.folder / "out/demo.rules.yml").symlink_to(victim)
    done = live.run("render", DEMO, "--monitoring", "--out", "out")
    assert done.code == 1
    assert "leads out of the folder" in done.err
    assert not victim.exists()


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
