"""`deployer server run` keeps the released server up, whatever ends it.

DEPLOYER_LONG=1 kills it 200 times, and reboots 20 times.  Counts are printed:
`pytest -s`.
"""

import ctypes
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

import pytest

from tests.cli.clients import chat, clients
from tests.cli.project import (
    KEY,
    LIMIT,
    STACK,
    Project,
    finished,
    gone,
    read_until,
)

pytestmark = [pytest.mark.real, pytest.mark.trust]

DEMO = "stacks/demo.yaml"
WIDER = STACK.replace("1024", "2048")
KILLS = 200 if os.environ.get("DEPLOYER_LONG") else 3
SEED = 26
REBOOTS = 20 if os.environ.get("DEPLOYER_LONG") else 2
FLAT = "--fall-back-after=0"


@contextmanager
def kept(project: Project, *words: str) -> Iterator["subprocess.Popen[str]"]:
    """Run `deployer server run` beside the test, from when its server is proven."""
    limit = LIMIT + 15 * KILLS
    with project.running("server", "run", DEMO, *words, limit=limit) as process:
        read_until(process, "demo/server: serves")
        yield process


def end(process: "subprocess.Popen[str]") -> str:
    """End it as a container does; returns the rest of what it said."""
    process.terminate()
    done = finished(process)
    assert done.code == 0, done.err
    return done.out


def test_a_killed_server_is_back_and_term_ends_it_cleanly(live: Project) -> None:
    before = live.server()
    with kept(live) as process:
        assert live.server() == before  # what runs is not started again
        os.kill(before, signal.SIGKILL)
        told = read_until(process, "demo/server: serves")
        assert "crashed or was killed" in told
        os.kill(live.server(), signal.SIGKILL)  # a child of `run` tells how it ended
        assert "ended by signal 9" in read_until(process, "demo/server: serves")
        assert chat(live.port, KEY) == "The answer is 42."
        status = live.run("status", DEMO)
        (told_json,) = live.run("status", DEMO, "--json").results()
        said = end(process)
    restarts = told_json["server"]["facts"]["restarts"]

    assert "  restarts 2, the last " in status.out
    assert (restarts["count"], len(restarts["last"])) == (2, 2)
    assert said.endswith(f"stopped; `deployer server run {DEMO}` starts it again\n")
    assert live.servers() == set()
    assert "✖ stopped on request" in live.run("status", DEMO).out


def test_a_hung_server_is_ended_and_started_again(live: Project) -> None:
    hung = live.server()
    with kept(live) as process:
        os.kill(hung, signal.SIGSTOP)
        told = read_until(process, "demo/server: serves")
        end(process)

    assert f"pid {hung} hangs: no answer on /health for 8 s" in told
    assert gone(hung)


def test_a_server_whose_loop_stands_still_is_noticed(live: Project) -> None:
    """Other threads still answer `/health`."""
    hung = live.server()
    with kept(live) as process, stopped_thread(hung):
        told = read_until(process, "started again")
        read_until(process, "demo/server: serves")
        end(process)

    assert f"pid {hung} hangs: no answer on /slots for 8 s" in told


@contextmanager
def stopped_thread(thread: int) -> Iterator[None]:
    """Stop one thread of another process, as a deadlock does (ptrace(2))."""
    kernel = ctypes.CDLL(None, use_errno=True)
    for request in (0x4206, 0x4207):  # PTRACE_SEIZE, PTRACE_INTERRUPT
        if kernel.ptrace(request, thread, None, None):
            pytest.skip("this system lets no test stop a thread of another process")
    yield


def test_stop_and_start_from_outside_are_followed(live: Project) -> None:
    with kept(live) as process:
        assert live.run("stop", DEMO).code == 0
        time.sleep(3)
        assert live.servers() == set()
        assert live.run("start", DEMO).code == 0
        os.kill(live.server(), signal.SIGKILL)
        read_until(process, "demo/server: serves")
        end(process)


def test_the_release_that_another_run_promotes_is_kept_up(live: Project) -> None:
    with kept(live) as process:
        live.write(WIDER)
        assert live.run("apply", DEMO, "--yes").code == 0
        read_until(process, "demo/server: serves")
        os.kill(live.server(), signal.SIGKILL)
        read_until(process, "demo/server: serves")
        command = live.server()
        assert "2048" in " ".join(_words(command))
        end(process)


def test_a_release_that_crashes_again_and_again_falls_back_once(live: Project) -> None:
    live.write(WIDER)
    assert live.run("apply", DEMO, "--yes").code == 0
    with kept(live, "--fall-back-after", "2") as process:
        os.kill(live.server(), signal.SIGKILL)
        read_until(process, "demo/server: serves")
        os.kill(live.server(), signal.SIGKILL)
        told = read_until(process, "fell back to release 1")
        read_until(process, "demo/server: serves")
        assert "1024" in _words(live.server())
        for _ in range(3):  # and not from there to one before
            os.kill(live.server(), signal.SIGKILL)
            read_until(process, "demo/server: serves")
        end(process)
    history = live.run("history", DEMO).out

    assert "release 2 crashed 2 times in a row: fell back to release 1" in told
    assert "rollback to 1: release 2 crashed 2 times in a row" in history
    # The stack still asks for what crashed: it comes back only where that is asked for.
    assert live.run("apply", DEMO, "--yes").code == 3


def test_a_promotion_that_a_reboot_cut_is_settled(live: Project) -> None:
    live.write(WIDER)
    with live.running("apply", DEMO, "--yes") as process:
        read_until(process, "✔ chat")
        process.kill()
        process.wait()
    live.end()  # all processes are gone, as after a reboot
    with kept(live) as process:
        unfinished = live.run("status", DEMO, "--json").results()[0]["unfinished"]
        end(process)

    assert unfinished == []


def test_after_reboots_no_hand_is_needed(live: Project) -> None:
    """All processes are gone at once, and the machine is of another boot."""
    for _ in range(REBOOTS):
        with kept(live) as process:
            assert chat(live.port, KEY) == "The answer is 42."
            process.kill()
            process.wait()
        live.end()
        for file in live.home.glob("run/*/*/process.json"):
            known = json.loads(file.read_text("utf-8"))
            known["began"] = f"an-earlier-boot:{known['began'].rpartition(':')[2]}"
            file.write_text(json.dumps(known), "utf-8")
        assert "not running since this machine was" in live.run("status", DEMO).out
    with kept(live) as process:
        end(process)


def test_two_do_not_keep_one_stack_up(live: Project) -> None:
    with kept(live) as process:
        second = live.run("run", DEMO)
        end(process)

    assert second.code == 5
    assert f"kept up by another `deployer server run`, pid {process.pid}" in second.err


def test_nothing_that_no_release_names_is_started(project: Project) -> None:
    assert project.run("run", DEMO).code == 3
    assert project.servers() == set()


def test_a_destroyed_stack_ends_it(live: Project) -> None:
    with kept(live) as process:
        assert live.run("destroy", DEMO, "--yes").code == 0
        done = finished(process)

    assert done.code == 0
    assert done.out.endswith("nothing of `demo` is live any more\n")


def test_kills_under_load_bring_back_the_right_release(live: Project) -> None:
    choose = random.Random(SEED)  # noqa: S311 - the same kills every time
    took = []
    with kept(live, FLAT) as process, clients(live.port, KEY) as tally:
        for _ in range(KILLS):
            time.sleep(choose.uniform(3.2, 5))
            begun = time.monotonic()
            os.kill(live.server(), signal.SIGKILL)
            read_until(process, "demo/server: serves")
            took.append(time.monotonic() - begun)
            assert chat(live.port, KEY) == "The answer is 42."
            assert "1024" in _words(live.server())
        answered = tally.answered
        end(process)
    sys.stdout.write(
        f"\n{KILLS} kills while {answered} requests were answered: until the short"
        f" gates had passed again {median(took):.2f} s, at most {max(took):.2f} s\n"
    )
    assert answered
    assert live.servers() == set()


def _words(pid: int) -> list[str]:
    with open(f"/proc/{pid}/cmdline", encoding="utf-8") as stream:  # noqa: PTH123
        return stream.read().split("\0")
