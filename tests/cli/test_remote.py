"""The command line on an object store: what it asks for, and two of it at once."""

import os
import re
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace

import pytest

from deployer.state.files import from_json, to_json
from deployer.state.objects import ObjectStateStore
from tests.applying import GATED, Desk
from tests.cli.project import COMMAND, STACK, Done, Project, finished, read_until
from tests.state.s3 import REGION, Proxy, bucket_at

DEMO = "stacks/demo.yaml"
KEYS = {"AWS_ACCESS_KEY_ID": "of-the-tests", "AWS_SECRET_ACCESS_KEY": "of-the-tests"}


class Remote:
    """A project whose states lie in a bucket of its own."""

    def __init__(self, project: Project, proxy: Proxy, url: str) -> None:
        self.project = project
        self.proxy = proxy
        self.folder = project.folder.parent.name.replace("_", "-")
        where = f"s3://states/{self.folder}?endpoint={url}&region={REGION}"
        self.env: Mapping[str, str] = {**KEYS, "DEPLOYER_STATE_URL": where}
        self.bucket = bucket_at(url, self.folder)

    def run(self, *words: str) -> Done:
        return self.project.run(*words, env=self.env)

    def asked(self, *words: str) -> Counter[str]:
        """What a command that ends well asks the bucket for."""
        self.proxy.seen.clear()
        done = self.run(*words)
        assert done.code == 0, done.out + done.err
        return Counter(line.split()[0] for line in self.proxy.seen)

    def start(self, *words: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [*COMMAND, *words],
            cwd=self.project.folder,
            env=self.project.environment(self.env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture
def remote(project: Project, s3: tuple[Proxy, str]) -> Iterator[Remote]:
    yield Remote(project, *s3)
    project.end()


@pytest.fixture
def planned(remote: Remote) -> Remote:
    """A stack that is live, and two plans of the same change."""
    assert remote.run("apply", DEMO, "--yes").code == 0
    remote.project.write(STACK.replace("1024", "2048"))
    assert remote.run("plan", DEMO, "--out", "one.plan").code == 0
    shutil.copy(remote.project.folder / "one.plan", remote.project.folder / "two.plan")
    return remote


def kept(remote: Remote) -> tuple[list[int], int]:
    """The serials of all versions, and the number of the newest release."""
    found = remote.bucket.get("demo.state.json")
    assert found is not None
    state = from_json(found.content, "stored")
    names = sorted(remote.bucket.names("history/demo"))
    return [*(int(name.partition(".")[0]) for name in names), state.serial], (
        state.released
    )


@pytest.mark.real
def test_a_merge_that_waits_is_carried_out_and_the_next_one_is_stale(
    planned: Remote,
) -> None:
    store = ObjectStateStore(planned.bucket, "demo")
    with store.lock(operation="apply"):
        held = planned.run("apply", "two.plan")
        waiting = planned.start("apply", "one.plan", "--lock-timeout", "80s")
        read_until(waiting, ": waiting, for 1 min 20 s at most\n")
    assert finished(waiting).code == 0
    assert held.code == 5
    assert held.err.startswith("error: `demo` is locked by ")
    assert f"(pid {os.getpid()}) since " in held.err
    hint = "hint: if it runs no more: `deployer state unlock stacks/demo.yaml"
    assert hint in held.err
    late = planned.run("apply", "two.plan")
    assert late.code == 7
    assert late.err.startswith("error: the plan is stale: the state was at serial ")
    assert "plan again: `deployer plan stacks/demo.yaml --out FILE`" in late.err
    serials, released = kept(planned)
    assert released == 2
    assert serials == list(range(serials[0], serials[-1] + 1))
    assert planned.asked("plan", DEMO) == {"GET": 1}
    assert planned.asked("apply", DEMO) == {"GET": 2, "PUT": 2}  # nothing to do


@pytest.mark.real
def test_of_two_that_start_together_one_wins(planned: Remote) -> None:
    both = [planned.start("apply", plan) for plan in ("one.plan", "two.plan")]
    done = [finished(process) for process in both]
    codes = sorted(it.code for it in done)
    assert codes in ([0, 5], [0, 7]), [it.err for it in done]
    serials, released = kept(planned)
    assert released == 2
    assert serials == list(range(serials[0], serials[-1] + 1))


@pytest.mark.real
def test_an_apply_asks_for_two_writes_a_change_of_the_state(planned: Remote) -> None:
    then = kept(planned)[0][-1]
    asked = planned.asked("apply", "one.plan")
    changes = kept(planned)[0][-1] - then
    # The lock; the state for the plan, and before it begins; the log, and its end.
    assert asked["GET"] == 5
    assert asked["PUT"] == 2 * changes + 3  # a version, the state; the lock; the log


@pytest.fixture
def stacks(paper: Project, s3: tuple[Proxy, str]) -> Remote:
    """Twenty stacks, each with a state, none of which can run."""
    remote = Remote(paper, *s3)
    paper.stack.unlink()
    desk = Desk()
    desk.apply(GATED)
    for number in range(20):
        name = f"s{number:02}"
        paper.write(STACK.replace("name: demo", f"name: {name}"), name)
        state = replace(desk.state, stack=name, file=f"{name}.yaml")
        remote.bucket.put(f"{name}.state.json", to_json(state).encode(), None)
    assert remote.run("lock", "stacks").code == 0
    return remote


@pytest.mark.parametrize("form", ["text", "json", "markdown"])
def test_a_plan_of_many_asks_once_for_each_in_its_order(
    stacks: Remote, form: str
) -> None:
    stacks.proxy.seen.clear()
    stacks.proxy.connections = 0
    done = stacks.run("plan", "stacks", "--format", form)
    assert done.code == 0, done.err
    assert len(stacks.proxy.seen) == len(set(stacks.proxy.seen)) == 20
    assert stacks.proxy.connections > 1
    names = re.findall(r"\bs\d\d\b", done.out)
    assert [*dict.fromkeys(names)] == [f"s{number:02}" for number in range(20)]


def test_looking_for_drift_asks_once_for_each(stacks: Remote) -> None:
    """Each drifted, which is recorded once; and the folder is listed for others."""
    assert stacks.asked("refresh", "stacks") == {"GET": 81, "PUT": 20}
    assert stacks.asked("refresh", "stacks") == {"GET": 61}


def test_a_state_that_is_damaged_hides_no_other_stack(stacks: Remote) -> None:
    whole = stacks.bucket.get("s03.state.json")
    stacks.bucket.put("s03.state.json", b"{", whole)
    done = stacks.run("plan", "stacks")
    assert done.code == 1
    assert done.err.count("error: ") == 1
    assert "s03.state.json` is damaged" in done.err
    assert "s19 on local" in done.out


@pytest.mark.parametrize("command", ["apply", "rollback", "destroy"])
def test_how_long_to_wait_is_a_duration(paper: Project, command: str) -> None:
    done = paper.run(command, DEMO, "--lock-timeout", "soon")
    assert done.code == 3
    assert "hint: write `90s` or `5m`" in done.err
    told = paper.run(command, DEMO, env={"DEPLOYER_LOCK_TIMEOUT": "soon"})
    assert told.err == done.err


def test_ctrl_c_ends_the_waiting(paper: Project, s3: tuple[Proxy, str]) -> None:
    remote = Remote(paper, *s3)
    store = ObjectStateStore(remote.bucket, "demo")
    with store.lock(operation="rollback"):
        waiting = remote.start("apply", DEMO, "--yes", "--lock-timeout", "80s")
        seen = read_until(waiting, "waiting")
        waiting.send_signal(signal.SIGINT)
        done = finished(waiting)
        held = store.holder()
    assert re.search(
        r"demo: `demo` is locked by \S+ \(pid \d+\) since .* UTC for rollback:"
        r" waiting, for 1 min 20 s at most",
        seen,
    )
    assert done.code == 8
    assert "stopped at your request" in done.err
    assert held is not None
    assert held.operation == "rollback"


def test_waiting_is_part_of_the_stream_of_events(
    paper: Project, s3: tuple[Proxy, str]
) -> None:
    remote = Remote(paper, *s3)
    with ObjectStateStore(remote.bucket, "demo").lock(operation="rollback"):
        done = remote.run("apply", DEMO, "--yes", "--json", "--lock-timeout", "1s")
    assert done.code == 5
    first, *lines, last = done.lines()
    assert (first["type"], last["type"]) == ("version", "summary")
    assert any("waiting, for 1.0 s at most" in str(line) for line in lines)
    assert "for rollback, still after 1.0 s" in done.err
