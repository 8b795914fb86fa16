"""What programs around a stack read: Prometheus and Grafana (as values), systemd.

`llamacpp:` series come from llama-server's `/metrics`, `deployer_` series from
`deployer watch --textfile`, `DCGM_` series from NVIDIA's exporter.  A server that
scales to zero is not scraped: each scrape would wake it and bill.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from deployer.stack.fields.values import Flat, JsonValue, seconds, show_seconds

TTFT = "deployer_probe_ttft_seconds"
FAILURES = "deployer_probe_failures_total"
REFUSALS = "deployer_probe_http_5xx_total"
LAST = "deployer_probe_last_timestamp_seconds"
WARM = "warm"
RESTORE = "restore"
WARM_LIMIT = 5.0
"""Seconds to the first token where the stack states no `gates.stream.ttft`."""
RESTORE_LIMIT = 30.0
"""Seconds to the first token after idle where it states no `gates.restore.within`."""
SILENCE = 3 * 3600
"""Seconds without a probe that mean nobody watches."""


@dataclass(frozen=True, slots=True)
class Monitored:
    """A server to watch."""

    stack: str
    url: str
    api_key_env: str | None
    fields: Flat

    @property
    def sleeps(self) -> bool:
        """True where it scales to zero, so that a scrape would wake it."""
        return self.fields.get("scaling.min_containers") == 0

    @property
    def scraped(self) -> bool:
        """True where Prometheus may ask it."""
        return self.fields.get("server.metrics") is True and not self.sleeps

    @property
    def warm_limit(self) -> float:
        """Longest time to the first token of a server that is awake."""
        stated = self.fields.get(
            "gates.stream.ttft", self.fields.get("gates.speed.ttft")
        )
        return WARM_LIMIT if stated is None else seconds(stated)

    @property
    def restore_limit(self) -> float:
        """Longest time to the first token after the server was idle."""
        stated = self.fields.get("gates.restore.within")
        return RESTORE_LIMIT if stated is None else seconds(stated)

    @property
    def slots(self) -> int:
        """How many requests it answers at once; llama-server's default is 4."""
        stated = self.fields.get("server.parallel")
        return stated if isinstance(stated, int) else 4


def scrape_config(it: Monitored) -> dict[str, Any]:
    """A configuration of Prometheus with one job, or none for a server that sleeps."""
    jobs: list[dict[str, Any]] = []
    if it.scraped:
        scheme, _, address = it.url.partition("://")
        target = {"targets": [address.partition("/")[0]], "labels": {"stack": it.stack}}
        job: dict[str, Any] = {
            "job_name": f"deployer-{it.stack}",
            "scheme": scheme,
            "scrape_interval": "15s",
            "static_configs": [target],
        }
        if it.api_key_env is not None:
            file = f"/etc/prometheus/secrets/{it.api_key_env}"
            job["authorization"] = {"type": "Bearer", "credentials_file": file}
        jobs.append(job)
    return {
        "rule_files": [f"{it.stack}.rules.yml"],
        "scrape_configs": jobs,
    }


def alert_rules(it: Monitored) -> dict[str, Any]:
    """Alerts with the limits of the stack."""
    return {"groups": [{"name": f"deployer-{it.stack}", "rules": [*_rules(it)]}]}


def _rules(it: Monitored) -> Iterator[dict[str, Any]]:
    of = f'stack="{it.stack}"'
    restore, warm = f'{of},path="{RESTORE}"', f'{of},path="{WARM}"'
    yield _alert(
        "DeployerRestoreFails",
        f"increase({FAILURES}{{{restore}}}[6h]) >= 2",
        "0m",
        "critical",
        f"`{it.stack}` failed its first request after idle, again and again",
        "deployer logs; a redeploy captures a damaged snapshot again",
    )
    yield _alert(
        "DeployerRestoreSlow",
        f"{TTFT}{{{restore}}} > {it.restore_limit:g}",
        "0m",
        "warning",
        f"`{it.stack}` took longer than {show_seconds(it.restore_limit)} after idle",
        "a cold start instead of a restore? deployer logs says which",
    )
    yield _alert(
        "DeployerWarmSlow",
        f"{TTFT}{{{warm}}} > {it.warm_limit:g}",
        "5m",
        "warning",
        f"`{it.stack}` is slower than {show_seconds(it.warm_limit)} though awake",
        "look at the queue; deployer check runs the gates",
    )
    yield from _probed_rules(of)
    if it.scraped:
        yield from _scraped_rules(it, of)
    if it.fields.get("gpu") is not None:
        yield _gpu_rule()


def _probed_rules(of: str) -> Iterator[dict[str, Any]]:
    yield _alert(
        "DeployerServerErrors",
        f"increase({REFUSALS}{{{of}}}[30m]) >= 2",
        "0m",
        "critical",
        "the server of {{ $labels.stack }} answers with 5xx",
        "deployer logs",
    )
    yield _alert(
        "DeployerNotWatched",
        f"(time() - {LAST}{{{of}}} > {SILENCE}) or absent({LAST}{{{of}}})",
        "15m",
        "warning",
        "no probe of {{ $labels.stack }} for 3 hours",
        "run deployer watch on a timer, with --textfile",
    )


def _gpu_rule() -> dict[str, Any]:
    share = "DCGM_FI_DEV_FB_FREE / (DCGM_FI_DEV_FB_FREE + DCGM_FI_DEV_FB_USED)"
    return _alert(
        "DeployerGpuHeadroom",
        f"{share} < 0.03",
        "10m",
        "warning",
        "less than 3 % of a GPU's memory is free",
        "a smaller context, fewer slots, or quantised KV",
    )


def _scraped_rules(it: Monitored, of: str) -> Iterator[dict[str, Any]]:
    job = f'job="deployer-{it.stack}"'
    yield _alert(
        "DeployerNoData",
        f"(up{{{job}}} == 0) or absent(up{{{job}}})",
        "5m",
        "critical",
        f"Prometheus gets nothing from `{it.stack}`",
        "deployer status; deployer server start",
    )
    yield _alert(
        "DeployerQueueDeep",
        f"llamacpp:requests_deferred{{{of}}} > {2 * it.slots}",
        "5m",
        "warning",
        f"more than {2 * it.slots} requests wait for {it.slots} slots of `{it.stack}`",
        "more servers, or a lower concurrency of the clients",
    )


def _alert(
    name: str, expr: str, lasting: str, severity: str, summary: str, runbook: str
) -> dict[str, Any]:
    return {
        "alert": name,
        "expr": expr,
        "for": lasting,
        "labels": {"severity": severity},
        "annotations": {"summary": summary, "runbook": runbook},
    }


_SERIES = (
    ("Time to first token", "s", f"{TTFT}{{OF}}", "{{path}}"),
    (
        "Failed probes in an hour",
        "short",
        f"increase({FAILURES}{{OF}}[1h])",
        "{{path}}",
    ),
    ("5xx in an hour", "short", f"increase({REFUSALS}{{OF}}[1h])", "{{path}}"),
    ("Active requests", "short", "llamacpp:requests_processing{OF}", "active"),
    ("Queued requests", "short", "llamacpp:requests_deferred{OF}", "queued"),
    (
        "Tokens a second",
        "short",
        "rate(llamacpp:tokens_predicted_total{OF}[1m])",
        "generated",
    ),
    (
        "Prompt tokens a second",
        "short",
        "rate(llamacpp:prompt_tokens_total{OF}[1m])",
        "read",
    ),
    ("Free GPU memory", "decmbytes", "DCGM_FI_DEV_FB_FREE", "{{gpu}}"),
)


def dashboard(it: Monitored) -> dict[str, Any]:
    """A dashboard of Grafana, for import or provisioning."""
    of = f'{{stack="{it.stack}"}}'
    wanted = [
        series
        for series in _SERIES
        if it.scraped or "llamacpp:" not in series[2]
        if it.fields.get("gpu") is not None or "DCGM" not in series[2]
    ]
    return {
        "uid": f"deployer-{it.stack}"[:40],
        "title": f"deployer: {it.stack}",
        "tags": ["deployer", "llama.cpp"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "",
        "templating": {"list": [_DATA_SOURCE]},
        "annotations": {"list": []},
        "panels": [
            _panel(number, title, unit, expr.replace("{OF}", of), legend)
            for number, (title, unit, expr, legend) in enumerate(wanted)
        ],
    }


_DATA_SOURCE: dict[str, JsonValue] = {
    "name": "source",
    "label": "Data source",
    "type": "datasource",
    "query": "prometheus",
}


def _panel(
    number: int, title: str, unit: str, expr: str, legend: str
) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${source}"}
    target = {"refId": "A", "datasource": source, "expr": expr, "legendFormat": legend}
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": title,
        "datasource": source,
        "gridPos": {"h": 8, "w": 12, "x": 12 * (number % 2), "y": 8 * (number // 2)},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "options": {
            "legend": {
                "displayMode": "list",
                "placement": "bottom",
                "showLegend": True,
            },
            "tooltip": {"mode": "multi", "sort": "none"},
        },
        "targets": [target],
    }


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit of systemd that runs `deployer server run`."""

    stack: str
    command: tuple[str, ...]
    user: str
    """Who it runs as; empty for a unit of the user's own manager."""
    folder: str
    """Folder of the project, which is read."""
    home: str
    """The store, `DEPLOYER_HOME`."""
    reads: tuple[str, ...]
    """Further folders that it reads."""
    writes: tuple[str, ...]
    """Folders that it writes."""
    fields: Flat


_WATCHDOG = 120
"""Seconds within which `deployer server run` says that it is alive."""
_SECCOMP = """\
NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictNamespaces=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
SystemCallArchitectures=native
SystemCallFilter=@system-service
"""
_MOUNTS = """\
CapabilityBoundingSet=
ProtectSystem=strict
ProtectHome=tmpfs
PrivateTmp=yes
ProtectClock=yes
ProtectHostname=yes
ProtectControlGroups=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
RemoveIPC=yes
"""


def unit_text(it: Unit) -> str:
    """Return the text of a unit (systemd.service(5), systemd.exec(5)).

    It is ready once the short gates of the release have passed.  Devices stay visible:
    llama-server takes the GPUs that it finds.  Restoring a snapshot needs what the
    hardening takes away, so a stack that has one goes without.
    """
    start = seconds(it.fields.get("local.start_timeout", "5m"))
    drain = seconds(it.fields.get("local.drain", "30s"))
    target = "multi-user.target" if it.user else "default.target"
    user = f"User={it.user}\n" if it.user else ""
    return f"""\
[Unit]
Description=llama-server of {_plain(it.stack)}, kept up by deployer
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
{user}WorkingDirectory={_plain(it.folder)}
Environment={_word(f"DEPLOYER_HOME={it.home}")}
ExecStart={" ".join(map(_word, it.command))}
Restart=on-failure
RestartSec=5
TimeoutStartSec={2 * start + 60:.0f}
TimeoutStopSec={drain + 30:.0f}
WatchdogSec={_WATCHDOG}
KillMode=mixed
OOMPolicy=continue
UMask=0077
{_hardening(it)}
[Install]
WantedBy={target}
"""


def _hardening(it: Unit) -> str:
    if "snapshot.enabled" in it.fields:
        return "# not hardened: to restore a snapshot takes namespaces and privileges\n"
    if not it.user:
        return f"# a manager of a user cannot make mounts\n{_SECCOMP}"
    reads = " ".join(map(_path, dict.fromkeys((it.folder, *it.reads))))
    writes = " ".join(map(_path, dict.fromkeys(it.writes)))
    return f"{_SECCOMP}{_MOUNTS}BindReadOnlyPaths={reads}\nBindPaths={writes}\n"


def _plain(text: str) -> str:
    return text.replace("%", "%%")


def _word(text: str) -> str:
    """Quote a word; `%` and `$` would be replaced (systemd.syntax(7))."""
    if re.fullmatch(r"[\w./=-]+", text):
        return text
    text = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{_plain(text).replace("$", "$$")}"'


def _path(path: str) -> str:
    """Quote a path; a colon would end it, and one that is gone is left out (`-`)."""
    escaped = path.replace("\\", "\\\\").replace('"', '\\"').replace(":", "\\:")
    return f'"-{_plain(escaped)}"'
