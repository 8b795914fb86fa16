"""Servers that come from snapshots, with the real llama-server and the real CRIU."""

import re
import stat
from pathlib import Path

import pytest

from tests.cli.clients import chat
from tests.cli.frozen import ANSWER, DEMO, SNAPSHOT, Frozen
from tests.cli.project import KEY, STACK, Project
from tests.ports import quiet_port

pytestmark = [pytest.mark.real, pytest.mark.criu]


@pytest.fixture(scope="module")
def live(deployed: Frozen) -> Frozen:
    """A stack that is live from its snapshot; every test leaves it so."""
    return deployed


@pytest.fixture
def fresh(project: Project, criu: Path) -> Frozen:
    """A stack that asks for a snapshot and is not deployed."""
    made = Frozen(project, criu)
    made.write()
    return made


def test_stop_frees_everything_and_start_restores(live: Frozen) -> None:
    assert live.run("stop", DEMO).code == 0
    assert live.pids() == []

    done = live.run("start", DEMO)
    assert "restored from its snapshot" in done.out
    assert live.answer() == ANSWER
    assert "restored from its snapshot" in live.run("status", DEMO).out


def test_restore_brings_the_server_back_at_once(live: Frozen) -> None:
    before = live.project.servers()
    done = live.run("restart", DEMO, "--from-snapshot")

    assert (done.code, done.err) == (0, "")
    assert "\nrestored in " in done.out
    assert live.answer() == ANSWER
    assert live.project.servers().isdisjoint(before)


def test_the_release_says_what_each_start_took(live: Frozen) -> None:
    took = r"[0-9.]+ s"
    line = rf"starts +plain start {took} · capture {took} · restore {took}\n"
    for command in ("history", "status", "plan"):
        done = live.run(command, DEMO)
        assert re.search(line, done.out), done.out + done.err


def test_the_second_apply_touches_nothing(live: Frozen) -> None:
    before = live.pids()
    done = live.run("apply", DEMO)

    assert "No changes: what is live is what the stack says." in done.out
    assert live.pids() == before


def test_an_image_is_private(live: Frozen) -> None:
    """It holds prompts and keys."""
    assert stat.S_IMODE(live.image().stat().st_mode) == 0o700
    modes = {stat.S_IMODE(p.stat().st_mode) for p in live.image().glob("*.img")}
    modes.add(stat.S_IMODE((live.image() / "manifest.json").stat().st_mode))
    assert modes == {0o400}
    written = [*live.home.rglob("*.json"), *live.project.folder.rglob("*.json")]
    assert not [p for p in written if KEY in p.read_text(encoding="utf-8")]


def test_a_copy_is_looked_at_beside_the_live_server(live: Frozen) -> None:
    before = live.pids()
    done = live.run("check", DEMO, "--gate", "restore")

    assert done.code == 0, done.out
    assert "pass  restore" in done.out
    assert live.pids() == before
    assert not list((live.home / "run").glob("*/copy-*"))


def test_another_port_is_served_from_the_same_image(live: Frozen) -> None:
    image = live.image()
    free = quiet_port()
    text = STACK.replace("PORT", str(free))
    live.write(text + SNAPSHOT)
    done = live.apply()

    assert "local.port" in done.out
    assert "re-snapshot" not in done.out
    assert live.image() == image
    assert chat(free, KEY) == ANSWER
    live.write()
    assert "restored from its snapshot" in live.apply().out


def test_a_candidate_that_passes_is_a_restored_one_on_the_shared_port(
    live: Frozen,
) -> None:
    changed = STACK.replace("ctx_size: 1024", "ctx_size: 2048") + SNAPSHOT
    live.write(changed + "\ngates: {chat: {}, restore: {within: 60s}}\n")
    text = (
        (live.project.stack)
        .read_text()
        .replace("gates:\n  health: {}\n  chat: {}\n", "")
    )
    live.project.stack.write_text(text)
    done = live.apply()

    assert "takes the new connections on port" in done.out
    assert "pass: restored in" in done.out
    assert live.answer() == ANSWER
    assert "No changes" in live.run("apply", DEMO).out
    live.write()
    live.apply()
    assert live.run("store", "gc", "--yes").code == 0


def test_destroy_removes_server_and_images(fresh: Frozen) -> None:
    fresh.apply()
    assert list((fresh.home / "snapshot").iterdir())

    done = fresh.run("destroy", DEMO, "--yes")
    assert "Snapshots are removed" in done.out
    assert list((fresh.home / "snapshot").iterdir()) == []
    assert fresh.pids() == []


def test_what_is_replaced_makes_room_before_the_snapshot(fresh: Frozen) -> None:
    replaces = STACK + SNAPSHOT + "\nrollout: {strategy: replace}\n"
    fresh.write(replaces)
    fresh.apply()
    fresh.write(replaces.replace("ctx_size: 1024", "ctx_size: 2048"))
    steps = [
        line.split()[1]
        for line in fresh.apply().out.splitlines()
        if line.startswith("  ✔ ") and "demo/" in line
    ]
    assert steps == ["stop", "snapshot", "stage", "check", "promote", "retire"]
    assert fresh.answer() == ANSWER


def test_an_idle_server_sleeps_and_wakes_with_the_next_request(
    fresh: Frozen,
) -> None:
    """The time that the image lay on the disk is not idleness."""
    fresh.write(STACK + SNAPSHOT + "  idle: 1s\n")
    fresh.apply()
    for _ in range(100):
        if "asleep: the next request wakes it" in fresh.run("status", DEMO).out:
            break
    else:
        raise AssertionError("it never slept")
    assert fresh.answer() == ANSWER


def test_a_prompt_that_was_warmed_is_not_read_again_after_a_restore(
    fresh: Frozen,
) -> None:
    """Two slots forget it while the restored server is proven, without their cache."""
    (fresh.project.stack.parent / "agent.md").write_text("word " * 60, encoding="utf-8")
    gates = "  prompt_cache: {file: agent.md, at_least: 0.9}\n"
    text = (STACK + gates + SNAPSHOT).replace("{prompt: Hello,", "{file: agent.md,")
    fresh.write(text)
    assert "tokens of the prompt were read from the cache; " in fresh.apply().out

    fresh.write(text.replace("mmap: false", "mmap: false\n  cache_ram: 0"))
    done = fresh.run("apply", DEMO, "--yes")
    assert done.code == 6
    assert "tokens of the prompt were read from the cache, less than" in done.out
