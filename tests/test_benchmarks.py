"""The command that measures everything, on what is cheap; no time is asserted."""

import json
import platform
import re
import signal
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import psutil
import pytest

from benchmarks.cases import CASES
from benchmarks.machine import machine
from benchmarks.plots import draw
from benchmarks.processes import Command, Launcher, MeasureError, floor
from benchmarks.result import Bar, Bars, Line, Lines, Plot
from benchmarks.serving import interval

ROOT = Path(__file__).parent.parent
MIB = 2**20


def bench(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    places = ("--into", str(folder / "out"), "--cache", str(folder / "cache"))
    argv = (sys.executable, "-m", "benchmarks", *places, "--peers", "none", *words)
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_case_writes_a_table_a_plot_and_every_measurement(tmp_path: Path) -> None:
    done = bench(tmp_path, "--only", "helps", "--rounds", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of 1 cases measured" in done.stdout
    out = tmp_path / "out"
    assert {file.name for file in out.iterdir()} == {
        *("helps.md", "helps.json", "helps.svg"),
    }
    text = (out / "helps.md").read_text(encoding="utf-8")
    row = r"\| deployer --help \|  \| \d+ \(\d+\) \| \d+ \| \d+ \| [\d.]+ \| [\d.]+ \|"
    assert re.search(row, text), text
    assert "![--help: what a tool costs" in text
    assert "- processor: " in text
    content = json.loads((out / "helps.json").read_bytes())
    (turn,) = content["samples"]["deployer --help"]
    assert set(turn) == {"floor", "ours", "it"}
    assert set(turn["it"]) == {"cpu", "wall", "peak"}
    words = "".join(ET.parse(out / "helps.svg").getroot().itertext())  # noqa: S314 - ours
    assert "deployer --help" in words


def test_results_name_no_machine_and_no_folder(tmp_path: Path) -> None:
    done = bench(tmp_path, "--only", "render", "--rounds", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    text = "".join(f.read_text("utf-8") for f in (tmp_path / "out").iterdir())
    assert platform.node() not in " ".join(machine().values())
    assert [
        word for word in (str(ROOT), str(tmp_path), str(Path.home())) if word in text
    ] == []


def test_a_case_that_takes_too_long_is_ended_and_told(tmp_path: Path) -> None:
    done = bench(tmp_path, "--only", "helps", "--limit", "0")
    assert done.returncode == 1
    assert "ended: not done within 0 s" in done.stdout
    assert "again: python -m benchmarks --only helps" in done.stdout
    assert not (tmp_path / "out").exists()


def test_ctrl_c_ends_the_case_and_all_that_it_started(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "benchmarks", "--cache", str(tmp_path / "cache")]
    argv += ["--into", str(tmp_path / "out"), "--peers", "none", "--only", "helps"]
    with subprocess.Popen(
        [*argv, "--rounds", "100000"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        said = next(line for line in process.stdout if "100000 rounds" in line)
        below = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130, said
    assert len(below) >= 2
    gone, alive = psutil.wait_procs(below, timeout=10)
    assert alive == [], gone
    assert not (tmp_path / "out").exists()


def test_the_list_names_every_case(tmp_path: Path) -> None:
    lines = bench(tmp_path, "--list").stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(CASES)


def test_a_large_process_measures_small_ones_as_small(tmp_path: Path) -> None:
    """Linux counts the memory of whoever forks as the first peak of the child."""
    large = bytearray(200 * MIB)
    held = "import sys; b = bytearray(64 * 2**20)"
    argv = (sys.executable, "-c", held)
    with Launcher.started() as launcher:
        small = launcher.run(floor(tmp_path))
        allocating = launcher.run(Command("allocates", argv, tmp_path, {}))
    assert len(large) == 200 * MIB
    assert small.peak < 40 * MIB
    assert 64 * MIB < allocating.peak < 140 * MIB
    assert small.cpu > 0


def test_what_children_cost_is_counted(tmp_path: Path) -> None:
    program = (
        "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
    )
    busy = "for _ in range(3_000_000): pass"
    argv = (sys.executable, "-c", program)
    with Launcher.started() as launcher:
        idle = launcher.run(Command("idle", (*argv, "pass"), tmp_path, {}))
        work = launcher.run(Command("busy", (*argv, busy), tmp_path, {}))
    assert work.cpu > idle.cpu


@pytest.mark.parametrize(
    ("code", "expects", "why"),
    [
        ("raise SystemExit(3)", "", "exit code 3"),
        ("print('else')", "No changes", "exit code 0: …else"),
    ],
)
def test_a_program_that_did_otherwise_is_no_measurement(
    tmp_path: Path, code: str, expects: str, why: str
) -> None:
    command = Command("it", (sys.executable, "-c", code), tmp_path, {}, expects=expects)
    with Launcher.started() as launcher, pytest.raises(MeasureError, match=why):
        launcher.run(command)


def test_an_interval_is_that_of_students_t() -> None:
    found = interval([1.00, 1.02, 0.98, 1.01, 0.99])
    assert f"{found}" == "1.000 (0.980-1.020)"


@pytest.mark.parametrize(
    "plot",
    [
        Bars("p", "Title", "ms", (Bar("a", (1.0, 2.0), ours=True), Bar("b", (9.0,)))),
        Bars("p", "Title", "times", (Bar("a", (1.0,)), Bar("b", (90.0,))), log=True),
        Bars("p", "Title", "times", (Bar("a", (1.0,)),), limits={"b": 3.0}),
        Lines("p", "Title", "a", "b", (Line("l", ((1, 1.0), (9, 4.0)), ours=True),)),
        Lines("p", "Title", "a", "b", (Line("l", ((1, 1.0), (9, 4.0))),), log=True),
    ],
)
def test_a_plot_is_the_same_bytes_on_no_ground_of_its_own(
    tmp_path: Path, plot: Plot
) -> None:
    draw(plot, tmp_path / "one.svg")
    draw(plot, tmp_path / "two.svg")
    text = (tmp_path / "one.svg").read_text(encoding="utf-8")
    assert text == (tmp_path / "two.svg").read_text(encoding="utf-8")
    words = "".join(ET.fromstring(text).itertext())  # noqa: S314 - ours
    assert {"Title", "a", "b"} <= set(words.split())
    assert "white" not in text
    assert "#ffffff" not in text
