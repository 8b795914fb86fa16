"""What `render --monitoring` writes, judged by Grafana's types and real Prometheus.

The tests with Prometheus are there where it is installed: `.ci/run` sees to it where it
may, and says so where it may not.
"""

import json
import re
import shutil
import subprocess
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard, Panel
from grafana_foundation_sdk.models.prometheus import Dataquery
from grafana_foundation_sdk.models.timeseries import Options
from pydantic import ConfigDict, TypeAdapter, ValidationError

from deployer.show.monitor import Monitored, alert_rules, dashboard
from tests.cli.project import KEY, Project
from tests.cli.prometheus import PROMETHEUS, configured, prometheus, served, until
from tests.cli.test_watching import DEMO, MODAL

PROMTOOL = shutil.which("promtool")
LOCAL = Monitored(
    "demo", "http://127.0.0.1:8080", "K", {"server.metrics": True, "gpu": "L40S"}
)
WATCH = "deployer_probe_"
OF = {"stack": "demo"}
RESTORE = {**OF, "path": "restore"}
WARM = {**OF, "path": "warm"}
JOB = {"job": "deployer-demo"}
Labels = dict[str, str]
ALERTS: dict[str, tuple[Labels, list[tuple[str, Labels, str]]]] = {
    "DeployerRestoreFails": (RESTORE, [(f"{WATCH}failures_total", RESTORE, "0+1x120")]),
    "DeployerRestoreSlow": (RESTORE, [(f"{WATCH}ttft_seconds", RESTORE, "31x120")]),
    "DeployerWarmSlow": (WARM, [(f"{WATCH}ttft_seconds", WARM, "6x120")]),
    "DeployerServerErrors": (WARM, [(f"{WATCH}http_5xx_total", WARM, "0+1x120")]),
    "DeployerNotWatched": (OF, [(f"{WATCH}last_timestamp_seconds", OF, "-9000x120")]),
    "DeployerNoData": (JOB, [("up", JOB, "0x120")]),
    "DeployerQueueDeep": (OF, [("llamacpp:requests_deferred", OF, "9x120")]),
    "DeployerGpuHeadroom": (
        {"gpu": "0"},
        [
            ("DCGM_FI_DEV_FB_FREE", {"gpu": "0"}, "1x120"),
            ("DCGM_FI_DEV_FB_USED", {"gpu": "0"}, "99x120"),
        ],
    ),
}
"""Labels of every alert, and series that raise it of a stack without own limits."""
WELL: list[tuple[str, Labels, str]] = [
    ("up", JOB, "1x120"),
    (f"{WATCH}last_timestamp_seconds", OF, "0+60x120"),
]
"""What else is there where all is well."""


def test_grafana_has_a_place_for_all_that_a_dashboard_says() -> None:
    """Read into the types that Grafana publishes and back, nothing is lost."""
    register_default_plugins()
    for it in (MODAL, LOCAL):
        written = dashboard(it)
        read = Dashboard.from_json(written)
        back = json.loads(JSONEncoder().encode(read))
        assert [*lost(written, back)] == []
        assert [*misfits(read)] == []
        for panel in read.panels or []:
            assert isinstance(panel, Panel)
            assert isinstance(panel.options, Options)
            assert all(isinstance(it, Dataquery) for it in panel.targets or [])


def test_those_types_find_what_grafana_would_not_take() -> None:
    register_default_plugins()
    written = dashboard(LOCAL)
    first = written["panels"][0]
    first["options"]["legend"]["displayMode"] = "lust"
    first["gridPos"]["w"] = "wide"
    first["fieldConfig"]["defaults"]["colour"] = "red"
    read = Dashboard.from_json(written)
    assert [*misfits(read)] == ["w: wide", "display_mode: lust"]
    back = json.loads(JSONEncoder().encode(read))
    assert [*lost(written, back)] == [".panels[0].fieldConfig.defaults.colour"]


def lost(before: Any, after: Any, at: str = "") -> Iterator[str]:
    """Places of a value that another has not, or has otherwise."""
    match before, after:
        case dict(), dict():
            for key, value in before.items():
                yield from lost(value, after.get(key), f"{at}.{key}")
        case list(), list() if len(before) == len(after):
            for number, (one, other) in enumerate(zip(before, after, strict=True)):
                yield from lost(one, other, f"{at}[{number}]")
        case _:
            if before != after:
                yield at


def misfits(value: Any) -> Iterator[str]:
    """What a model of the SDK holds against its own types; it checks none itself."""
    if isinstance(value, list):
        for below in value:
            yield from misfits(below)
    if not type(value).__module__.startswith("grafana_foundation_sdk.models"):
        return
    anything = ConfigDict(arbitrary_types_allowed=True)
    hints = typing.get_type_hints(type(value))
    for name, held in vars(value).items():
        if name not in hints:  # the insides of an enumeration
            continue
        try:
            TypeAdapter(hints[name], config=anything).validate_python(held)
        except ValidationError:
            yield f"{name}: {held}"
        yield from misfits(held)


def test_dashboard_and_alerts_ask_only_for_what_is_exported(live: Project) -> None:
    """By the real server, by `watch`, by Prometheus itself, by NVIDIA's exporter."""
    words = ("watch", DEMO, "--idle", "0s", "--textfile", "demo.prom")
    assert live.run(*words).code == 0
    (counted,) = live.run("status", DEMO, "--metrics", "--json").results()
    probed = (live.folder / "demo.prom").read_text()
    exported = {*counted["samples"], *re.findall(r"(?m)^# TYPE (\S+)", probed)}
    gpu = {"DCGM_FI_DEV_FB_FREE", "DCGM_FI_DEV_FB_USED"}
    panels = [target["expr"] for it in panels_of(LOCAL) for target in it["targets"]]
    alerts = [rule["expr"] for rule in alert_rules(LOCAL)["groups"][0]["rules"]]
    asked = {name for expr in (*panels, *alerts) for name in series_in(expr)}
    assert len(asked) >= 10
    assert asked - exported - gpu == {"up"}


def panels_of(it: Monitored) -> list[dict[str, Any]]:
    return list(dashboard(it)["panels"])


def series_in(expr: str) -> set[str]:
    """The names of series in a query: words that are no function, label or unit."""
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]|\bor\b", " ", expr)
    return set(re.findall(r"\b[a-zA-Z_][\w:]*\b(?!\s*\()", bare))


if PROMETHEUS and PROMTOOL:

    def test_promtool_takes_the_rules_of_both_kinds(tmp_path: Path) -> None:
        for it in (MODAL, LOCAL):
            rules = tmp_path / f"{it.stack}.rules.yml"
            rules.write_text(yaml.safe_dump(alert_rules(it)))
            checked([str(PROMTOOL), "check", "rules", "--lint-fatal", str(rules)])

    def test_every_alert_fires_on_its_own_series_and_on_no_other(
        tmp_path: Path,
    ) -> None:
        """Judged by promtool, over two hours of made-up samples."""
        rules = alert_rules(LOCAL)
        assert {it["alert"] for it in rules["groups"][0]["rules"]} == ALERTS.keys()
        (tmp_path / "rules.yml").write_text(yaml.safe_dump(rules))
        tests = [
            {
                "interval": "1m",
                "input_series": [*series_of(bad)],
                "alert_rule_test": [expected(it, fires=it == alert) for it in ALERTS],
            }
            for alert, (_, bad) in ALERTS.items()
        ]
        file = tmp_path / "tests.yml"
        file.write_text(yaml.safe_dump({"rule_files": ["rules.yml"], "tests": tests}))
        checked([str(PROMTOOL), "test", "rules", str(file)])

    def test_every_query_of_the_dashboard_and_the_rules_is_answered(
        live: Project,
    ) -> None:
        """By Prometheus, over series of the real server and of `watch`."""
        assert live.run("render", DEMO, "--monitoring", "--out", "mon").code == 0
        words = ("watch", DEMO, "--idle", "0s", "--textfile", "mon/metrics")
        assert live.run(*words).code == 0
        with served(live.folder / "mon") as exporter:
            config = configured(live.folder / "mon/demo.prometheus.yml", KEY, exporter)
            checked([str(PROMTOOL), "check", "config", str(config)])
            with prometheus(config, live.folder / "tsdb") as url:
                found = {e: results(url, e) for e in expressions(live)}
                rules = until(f"{url}/api/v1/rules", evaluated)
        paths = {it["metric"]["path"] for it in found[TTFT]}
        assert paths == {"restore", "warm"}
        told = {r["name"]: r["state"] for r in rules["groups"][0]["rules"]}
        assert "DeployerNoData" in told
        assert set(told.values()) == {"inactive"}


TTFT = 'deployer_probe_ttft_seconds{stack="demo"}'


def series_of(bad: list[tuple[str, Labels, str]]) -> Iterator[dict[str, str]]:
    """Series for promtool: bad ones, and good ones in the place of none of them."""
    known = {name for name, _, _ in bad}
    for name, labels, values in [*bad, *(it for it in WELL if it[0] not in known)]:
        told = ",".join(f'{key}="{value}"' for key, value in labels.items())
        yield {"series": f"{name}{{{told}}}", "values": values}


def expected(alert: str, *, fires: bool) -> dict[str, Any]:
    """What promtool expects of an alert, with the words that people get."""
    rules = {rule["alert"]: rule for rule in alert_rules(LOCAL)["groups"][0]["rules"]}
    rule = rules[alert]
    notes = {
        name: text.replace("{{ $labels.stack }}", "demo")
        for name, text in rule["annotations"].items()
    }
    labels = {**ALERTS[alert][0], **rule["labels"]}
    told = [{"exp_labels": labels, "exp_annotations": notes}] if fires else []
    return {"alertname": alert, "eval_time": "2h", "exp_alerts": told}


def expressions(project: Project) -> list[str]:
    """What the panels of a rendered dashboard ask."""
    file = project.folder / "mon" / "demo.dashboard.json"
    panels = json.loads(file.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


def results(url: str, expr: str) -> list[dict[str, Any]]:
    """What Prometheus answers once it has scraped enough; it refuses what is wrong."""
    answer = until(f"{url}/api/v1/query?query={quote(expr)}", lambda d: d["result"])
    return list(answer["result"])


def evaluated(answer: dict[str, Any]) -> bool:
    """Whether every rule was evaluated without an error."""
    rules = [rule for group in answer["groups"] for rule in group["rules"]]
    return bool(rules) and all(rule["health"] == "ok" for rule in rules)


def checked(argv: list[str]) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
