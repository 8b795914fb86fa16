"""The rendered dashboard of a stack that is live: `python -m scripts.docs.dashboard`.

Grafana does not draw it.  A real Prometheus scrapes the live server, and the file of
`deployer watch`, while clients ask; the queries of the panels are then drawn as it
answers them.  The stack is the argument; its key is in LLAMA_API_KEY.
"""

import json
import math
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from urllib.parse import urlencode

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.plots import INK, OURS, styled
from scripts.docs.pictures import FOLDER
from tests.cli.prometheus import configured, prometheus, served

LOAD: Final = ((30, 0), (50, 1), (50, 5), (40, 0))
"""Seconds, and how many clients ask all the while."""
_PATHS: Final = {"restore": "#d29922"}
"""Lines that are drawn in a colour of their own."""


def main() -> None:
    """Scrape the stack of the command line for as long as the load takes, and draw."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m scripts.docs.dashboard STACK")
    stack = sys.argv[1]
    with TemporaryDirectory() as made:
        folder = Path(made, "mon")
        _deployer("render", stack, "--monitoring", "--out", str(folder))
        (rendered,) = folder.glob("*.prometheus.yml")
        (file,) = folder.glob("*.dashboard.json")
        dashboard = json.loads(file.read_text(encoding="utf-8"))
        with served(folder) as exporter:
            key = os.environ["LLAMA_API_KEY"]
            config = configured(rendered, key, exporter)
            with prometheus(config, Path(made, "tsdb")) as url:
                begun = time.time()
                _load(stack, folder / "metrics")
                answers = {
                    panel["title"]: _asked(url, panel, begun)
                    for panel in dashboard["panels"]
                }
    _draw(dashboard, answers, begun, FOLDER / "dashboard.svg")


def _deployer(*words: str) -> str:
    argv = (sys.executable, "-m", "deployer", *words)
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout


def _load(stack: str, textfile: Path) -> None:
    """Let clients ask, and `watch` probe every ten seconds."""
    (status,) = json.loads(_deployer("status", stack, "--json"))["results"]
    url = status["url"]
    rounds = sum(seconds for seconds, _ in LOAD) // 15
    words = ("--idle", "10s", "--rounds", str(rounds), "--textfile", str(textfile))
    argv = (sys.executable, "-m", "deployer", "watch", stack, *words)
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL) as watching:
        for seconds, clients in LOAD:
            end = time.time() + seconds
            with ThreadPoolExecutor(max(clients, 1)) as pool:
                [*pool.map(_client, repeat(url), range(clients), repeat(end))]
            time.sleep(max(0.0, end - time.time()))
        watching.terminate()


def _client(url: str, number: int, end: float) -> None:
    """Ask one question after the other."""
    asked = 0
    while time.time() < end:
        asked += 1
        question = f"Question {number}.{asked}: what is a rainbow, and why is it seen?"
        body = {
            "messages": [{"role": "user", "content": question}],
            "max_tokens": 24,
        }
        request = urllib.request.Request(  # noqa: S310 - loopback
            f"{url}/v1/chat/completions",
            data=json.dumps(body).encode(),
            headers={
                "Content-Type": "application/json",
                "Authorization": f"Bearer {os.environ['LLAMA_API_KEY']}",
            },
        )
        urllib.request.urlopen(request, timeout=600).close()  # noqa: S310 - loopback


def _asked(url: str, panel: Mapping[str, Any], begun: float) -> list[dict[str, Any]]:
    """What Prometheus answers to the query of a panel over the whole run."""
    (target,) = panel["targets"]
    query = {"query": target["expr"], "start": begun, "end": time.time(), "step": 1}
    with urllib.request.urlopen(  # noqa: S310 - loopback
        f"{url}/api/v1/query_range?{urlencode(query)}", timeout=30
    ) as answer:
        found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    return found


def _draw(
    dashboard: Mapping[str, Any],
    answers: Mapping[str, list[dict[str, Any]]],
    begun: float,
    file: Path,
) -> None:
    """Every panel in its place of the grid."""
    panels = dashboard["panels"]
    rows = (len(panels) + 1) // 2
    with styled():
        figure = Figure(figsize=(10, 2.1 * rows), layout="constrained")
        grid = figure.add_gridspec(rows, 2)
        for panel in panels:
            at = panel["gridPos"]
            axes = figure.add_subplot(grid[at["y"] // at["h"], at["x"] // at["w"]])
            _panel(axes, panel, answers[panel["title"]], begun)
        figure.savefig(
            file, transparent=True, bbox_inches="tight", metadata={"Date": None}
        )


def _panel(
    axes: Axes, panel: Mapping[str, Any], found: list[dict[str, Any]], begun: float
) -> None:
    legend, end = panel["targets"][0]["legendFormat"], 1.0
    for series in found:
        label = legend
        for name, value in series["metric"].items():
            label = label.replace("{{" + name + "}}", value)
        end = max(end, *(at - begun for at, _ in series["values"]))
        known = {round(at - begun): float(value) for at, value in series["values"]}
        across = range(max(known) + 1)  # what was not measured is a gap
        up = [known.get(second, math.nan) for second in across]
        colour = _PATHS.get(label, OURS)
        axes.plot(across, up, color=colour, lw=1.4, label=label)
    unit = " (s)" if panel["fieldConfig"]["defaults"]["unit"] == "s" else ""
    axes.set_title(panel["title"] + unit, loc="left", fontsize=10.5, fontweight="bold")
    axes.set_xlim(0, end)
    top = max(axes.get_ylim()[1], 1.0)
    axes.set_ylim(-0.03 * top, top)  # a line at zero is seen, too
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:.0f} s")
    axes.grid(visible=True, color=INK, alpha=0.2, lw=0.8)
    axes.legend(
        loc="lower right",
        bbox_to_anchor=(1, 1),
        ncols=2,
        borderaxespad=0,
        frameon=False,
        fontsize=9,
        labelcolor=INK,
    )
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.patch.set_alpha(0)


if __name__ == "__main__":
    main()
