"""A restored server is proven or replaced, and an image that is not at fault stays."""

import json
import os
import resource
import sys
from pathlib import Path

import psutil
import pytest

from tests.cli.frozen import ANSWER, DEMO, SNAPSHOT, Frozen, processes_below
from tests.cli.project import STACK

pytestmark = [pytest.mark.real, pytest.mark.criu]

MEGABYTE = 1 << 20


@pytest.mark.parametrize(
    "words",
    [("start", DEMO), ("restart", DEMO, "--from-snapshot"), ("apply", DEMO, "--yes")],
)
@pytest.mark.parametrize("at", ["_identity", "prove"])
def test_what_a_killed_run_restored_is_replaced(
    crashed: Frozen, at: str, words: tuple[str, ...]
) -> None:
    """Killed before the process is recorded, and between the restore and the proof."""
    crashed.dies(at, "start", DEMO)
    before = crashed.pids()
    assert before, "it runs"
    assert crashed.unproven()
    assert "unproven: restored, and its answers" in crashed.run("status", DEMO).out

    done = crashed.run(*words)
    assert done.code == 0, done.out + done.err
    assert not set(before) & set(crashed.pids()), "none of it was taken over"
    assert not crashed.unproven()
    status = crashed.run("status", DEMO).out
    assert "healthy, pid" in status
    assert "restored from its snapshot" in status
    assert crashed.answer() == ANSWER


def test_a_changed_stack_replaces_what_was_never_recorded(crashed: Frozen) -> None:
    """Its port counts as the stack's own, though no file names the process."""
    crashed.dies("_identity", "start", DEMO)
    before = crashed.pids()
    crashed.write(STACK.replace("ctx_size: 1024", "ctx_size: 2048") + SNAPSHOT)
    crashed.apply()
    assert not set(before) & set(crashed.pids())
    assert crashed.answer() == ANSWER
    crashed.write()
    crashed.apply()


def test_a_copy_that_a_killed_check_left_goes_with_its_server(crashed: Frozen) -> None:
    crashed.start()
    crashed.dies("_ask_restored", "check", DEMO, "--gate", "restore")
    assert list((crashed.home / "run").glob("*/copy-*"))
    crashed.write(STACK.replace("ctx_size: 1024", "ctx_size: 3072") + SNAPSHOT)
    crashed.apply()
    assert not list((crashed.home / "run").glob("*/copy-*"))
    assert len([p for p in processes_below(crashed.home) if not p.children()]) == 1
    crashed.write()
    crashed.apply()


def test_a_run_killed_after_its_capture_costs_no_image(crashed: Frozen) -> None:
    """What an image was given up for is no word about the one that replaced it."""
    pages = crashed.file("pages-1.img")
    with pages.open("r+b") as stream:
        stream.write(os.urandom(MEGABYTE))
    forge(crashed.image(), pages)
    crashed.start({"DEPLOYER_VERIFY_IMAGES": "always"})
    note = crashed.home / "cache/snapshots" / crashed.image().name
    why = note.read_text()
    assert f"drift    demo/snapshot: {why}" in crashed.apply().out
    note.write_text(why)  # as where the kill came before it was removed
    crashed.kill()
    assert "restored from its snapshot" in crashed.start()
    note.unlink()


def test_a_key_that_is_missing_costs_no_image(crashed: Frozen) -> None:
    for words in (("start", DEMO), ("restart", DEMO, "--from-snapshot")):
        done = crashed.run(*words, env={"LLAMA_API_KEY": None})
        assert done.code == 4, done.out + done.err
        assert "LLAMA_API_KEY" in done.err
    assert crashed.pids() == []
    assert "restored from its snapshot" in crashed.start()


def test_a_restore_that_the_machine_refuses_costs_no_image(crashed: Frozen) -> None:
    """CRIU fails for a reason of the machine, and the server starts cold."""
    failing = crashed.wrapper(
        "failing",
        """\
if [ "$1" = restore ]; then
    exit 1
fi
"$CRIU" "$@"
""",
    )
    out = crashed.start({"DEPLOYER_CRIU": failing})
    assert "nothing is wrong with its image, which stays" in out
    crashed.kill()
    assert "restored from its snapshot" in crashed.start()


def test_a_new_image_that_fails_leaves_the_one_that_others_share(
    crashed: Frozen,
) -> None:
    crashed.dies("dump", "apply", DEMO, "--yes", env={"LLAMA_API_KEY": "sk-another"})
    crashed.kill()
    assert "restored from its snapshot" in crashed.start()
    crashed.apply()


@pytest.mark.parametrize("policy", ["after-boot", "always", "never"])
def test_damage_that_no_look_shows(crashed: Frozen, policy: str) -> None:
    """A disk that gives other bytes than were written changes no time of a file."""
    pages = crashed.file("pages-1.img")
    with pages.open("r+b") as stream:
        stream.seek(pages.stat().st_size // 2)
        stream.write(os.urandom(MEGABYTE))
    forge(crashed.image(), pages)

    out = crashed.start({"DEPLOYER_VERIFY_IMAGES": policy})
    if policy == "never":  # then it has to prove itself, or CRIU to refuse it
        assert "starts cold: " in out
        assert "is damaged" in out
    else:
        assert "starts cold: the image is damaged: `" in out
        assert "pages-1.img` has other content than when it was captured" in out
    assert "re-snapshot" in crashed.run("plan", DEMO).out


def test_an_image_is_read_once_after_a_boot(crashed: Frozen) -> None:
    forge(crashed.image(), crashed.file("pages-1.img"))
    assert "restored from its snapshot" in crashed.start()
    (note,) = (crashed.home / "cache" / "snapshots" / "read").iterdir()
    written = note.stat().st_mtime_ns
    crashed.kill()
    assert "restored from its snapshot" in crashed.start()
    assert note.stat().st_mtime_ns == written


def test_a_policy_that_is_none_is_refused(crashed: Frozen) -> None:
    done = crashed.run("start", DEMO, env={"DEPLOYER_VERIFY_IMAGES": "sometimes"})
    assert done.code == 3
    assert "hint: set it to one of `always`, `after-boot`, `never`" in done.err


def test_nice_value_and_limits_are_those_of_now(crashed: Frozen) -> None:
    """Not those of the shell in which the image was taken."""
    image = crashed.image()
    environment = f"DEPLOYER_CRIU={crashed.criu}"
    start = f"{sys.executable} -m deployer start {DEMO}"
    done = crashed.project.shell(f"ulimit -n 512; {environment} nice -n 7 {start}")
    assert "restored from its snapshot" in done.out, done.out + done.err
    here = os.getpriority(os.PRIO_PROCESS, 0)
    assert surroundings(crashed) == ({min(19, here + 7)}, 512)

    crashed.kill()
    assert "restored from its snapshot" in crashed.start()
    usual = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert surroundings(crashed) == ({here}, usual)
    assert crashed.image() == image


@pytest.mark.skipif(len(os.sched_getaffinity(0)) == 1, reason="there is one core")
def test_fewer_cores_than_it_was_taken_with(crashed: Frozen) -> None:
    """It has as many threads as it saw cores when it started."""
    one = min(os.sched_getaffinity(0))
    environment = f"DEPLOYER_CRIU={crashed.criu}"
    done = crashed.project.shell(
        f"{environment} taskset -c {one} {sys.executable} -m deployer start {DEMO}"
    )
    assert "starts cold: it was taken with " in done.out, done.out + done.err
    assert " cores, here are 1" in done.out


def test_a_plan_sees_that_the_image_is_gone(crashed: Frozen) -> None:
    crashed.start()
    assert "No changes" in crashed.run("plan", DEMO).out
    crashed.file("manifest.json").unlink()
    out = crashed.run("plan", DEMO).out
    assert "! drift    demo/snapshot: it is gone from the store" in out
    assert "re-snapshot" in out


def surroundings(made: Frozen) -> tuple[set[int], int]:
    """The nice values of the threads of the server, and how many files it may open."""
    (server,) = (p for p in processes_below(made.home) if not p.children())
    threads = Path(f"/proc/{server.pid}/task").iterdir()
    nice = {os.getpriority(os.PRIO_PROCESS, int(it.name)) for it in threads}
    return nice, psutil.Process(server.pid).rlimit(resource.RLIMIT_NOFILE)[0]


def forge(image: Path, file: Path) -> None:
    """Have the manifest take a file for untouched, and the image for one of before."""
    manifest = image / "manifest.json"
    manifest.chmod(0o600)
    content = json.loads(manifest.read_text(encoding="utf-8"))
    status, known = file.stat(), content["files"][file.name]
    stamp = {"mtime_ns": status.st_mtime_ns, "ctime_ns": status.st_ctime_ns}
    stamp["inode"] = status.st_ino
    known |= {name: value for name, value in stamp.items() if name in known}
    content["about"]["boot"] = "earlier"
    manifest.write_text(json.dumps(content), encoding="utf-8")
