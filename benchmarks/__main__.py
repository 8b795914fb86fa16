"""Measure everything, and write tables and plots.

    python -m benchmarks                     everything, with the other tools
    python -m benchmarks --only plans        one case; again for more
    python -m benchmarks --list              which cases there are

Needs the packages of `pip install -e '.[dev]'`.  Each case is a process of its own and
writes its results when it ends, so a run that was cut short goes on with `--only`.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from benchmarks import peers, summary
from benchmarks.applied import prepare, prepare_criu
from benchmarks.cases import CASES
from benchmarks.processes import MeasureError

ROOT = Path(__file__).parents[1]
ROUNDS = 5
LIMIT = 600
"""Seconds for a case."""
_GRACE = 30
"""Seconds that a case may take to clean up."""


def main() -> int:
    """Run the chosen cases one after the other; 1 where one failed."""
    options = _options()
    if options.list:
        for name, case in CASES.items():
            print(f"{name:<14} {case.about}")
        return 0
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    chosen = options.only or list(CASES)
    begun = time.monotonic()
    _prepare(chosen, options)
    failed = [name for name in chosen if not _one(name, options)]
    print(f"\n{len(chosen) - len(failed)} of {len(chosen)} cases measured", end="")
    print(f" in {(time.monotonic() - begun) / 60:.1f} min, written to {options.into}")
    if options.into == summary.RESULTS:
        summary.main()
    if failed:
        again = " ".join(f"--only {name}" for name in failed)
        print(f"again: python -m benchmarks {again}")
    return 1 if failed else 0


def _prepare(chosen: Sequence[str], options: argparse.Namespace) -> None:
    """All that needs a network, before anything is measured."""
    options.cache.mkdir(parents=True, exist_ok=True)
    if options.peers and any(CASES[name].peers for name in chosen):
        peers.install(peers.PEERS, options.peers, _say)
    if any(CASES[name].stacks for name in chosen):
        _say("llama-server and a model into the store")
        try:
            prepare(options.cache)
        except MeasureError as error:
            sys.exit(f"error: {error}")
    if any(CASES[name].snapshots for name in chosen):
        _say("a CRIU, for snapshots")
        if why := prepare_criu(options.cache):
            _say(f"there is none: {why}")


def _one(name: str, options: argparse.Namespace) -> bool:
    """Run a case to its end, or end it; whether it wrote its results."""
    print(f"\n{name}: {CASES[name].about}", flush=True)
    argv = [sys.executable, "-m", "benchmarks.one", name]
    argv += ["--rounds", str(options.rounds), "--into", str(options.into)]
    argv += ["--cache", str(options.cache)]
    if options.peers:
        argv += ["--peers", str(options.peers)]
    begun = time.monotonic()
    with subprocess.Popen(argv, cwd=ROOT, env=_outside(), start_new_session=True) as it:
        try:
            code = it.wait(timeout=options.limit)
        except subprocess.TimeoutExpired:
            print(f"  ended: not done within {options.limit} s")
            code = _end(it)
        except KeyboardInterrupt:
            print("\nending what runs", flush=True)
            _end(it)
            _end_left(options.cache)
            sys.exit(130)
    _end_left(options.cache)
    _say(f"{'done' if code == 0 else 'failed'} after {time.monotonic() - begun:.0f} s")
    return code == 0


def _outside() -> dict[str, str]:
    """The environment of a case: no proxy, and the same paths."""
    return {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}


def _end(case: "subprocess.Popen[bytes]") -> int:
    """Let a case clean up, then kill it and all below it."""
    below = psutil.Process(case.pid).children(recursive=True)
    case.terminate()
    with suppress(subprocess.TimeoutExpired):
        case.wait(timeout=_GRACE)
    for process in below:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    case.kill()
    return case.wait() or 1


def _end_left(cache: Path) -> None:
    """Kill servers of stacks that outlived their case."""
    for process in _servers(cache / "home"):
        _say(f"ending a server that was left, pid {process.pid}")
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)


def _servers(home: Path) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            folder = process.environ().get("DEPLOYER_RUN_DIR", "")
            ended = process.status() == psutil.STATUS_ZOMBIE
            if folder.startswith(f"{home}/") and not ended:
                yield process


def _say(text: str) -> None:
    print(f"  {text}", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cache /= "deployer-bench"
    only = "this case alone; again for more"
    parser.add_argument(
        *("--only",), action="append", choices=list(CASES), metavar="CASE", help=only
    )
    parser.add_argument(
        "--rounds", type=int, default=ROUNDS, help=f"of a case ({ROUNDS})"
    )
    parser.add_argument(
        "--limit", type=int, default=LIMIT, help=f"seconds a case ({LIMIT})"
    )
    parser.add_argument(
        *("--peers",),
        default=str(cache / "peers"),
        help="folder of the other tools' environments, made there; `none`: ours alone",
    )
    parser.add_argument("--cache", type=Path, default=cache, help="kept between runs")
    parser.add_argument("--into", type=Path, default=summary.RESULTS, help="results")
    parser.add_argument("--list", action="store_true", help="list the cases")
    options = parser.parse_args()
    options.peers = None if options.peers == "none" else Path(options.peers).absolute()
    options.cache, options.into = options.cache.absolute(), options.into.absolute()
    return options


if __name__ == "__main__":
    sys.exit(main())
