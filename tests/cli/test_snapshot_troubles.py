"""What can go wrong with a snapshot: each ends in the right server, or a refusal."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.conftest import MakeProject
from tests.cli.frozen import DEMO, SNAPSHOT, Frozen
from tests.cli.project import STACK, gone, read_until

pytestmark = [pytest.mark.real, pytest.mark.criu]

MAPPED = STACK.replace("mmap: false", "mmap: true") + SNAPSHOT
MEGABYTE = 1 << 20


@pytest.fixture
def live(deployed: Frozen) -> Frozen:
    """A server that comes from a snapshot, and runs."""
    deployed.start()
    return deployed


def test_a_truncated_image(crashed: Frozen) -> None:
    pages = crashed.file("pages-1.img")
    os.truncate(pages, pages.stat().st_size // 2)

    out = crashed.start()
    assert re.search(
        r"starts cold: the image is damaged: `pages-1.img` is [\d.]+ MB, was [\d.]+ MB",
        out,
    )
    before = crashed.pids()
    out = crashed.apply().out
    assert "! drift    demo/snapshot: the image is damaged" in out
    assert re.search(r"± snapshot .* re-snapshot\n +because it drifted", out)
    assert "Plan: 1 to snapshot." in out
    assert crashed.pids() == before, "the server serves on while it is taken anew"
    crashed.kill()
    assert "restored from its snapshot" in crashed.start()


def test_a_megabyte_that_was_overwritten(crashed: Frozen) -> None:
    with crashed.file("pages-1.img").open("r+b") as pages:
        pages.seek(2 * MEGABYTE)
        pages.write(os.urandom(MEGABYTE))

    out = crashed.start()
    assert "starts cold: the image is damaged: `" in out
    assert "pages-1.img` has other content than when it was published" in out


def test_a_file_of_the_image_that_is_gone(crashed: Frozen) -> None:
    crashed.file("pstree.img").unlink()
    assert "pstree.img` is gone" in crashed.start()


def test_an_answer_that_is_not_the_one_before(crashed: Frozen) -> None:
    """As if the damage had gone unnoticed: what is restored has to prove itself."""
    manifest = crashed.file("manifest.json")
    text = manifest.read_text()
    manifest.write_text(text.replace('"text": "', '"text": "otherwise', 1))

    out = crashed.start()
    assert "starts cold: it gives another answer than before it was frozen" in out
    assert (
        "demo/snapshot: it could not be restored: it gives another"
        in crashed.apply().out
    )


def test_an_image_whose_bytes_make_no_process(crashed: Frozen) -> None:
    """The whole stamp fits, as after a fault of the disk: CRIU finds out."""
    assert "restored from its snapshot" in crashed.start(), "every file was looked at"
    crashed.kill()
    core = next(crashed.image().glob("core-*.img"))
    before = core.stat()
    crashed.file(core.name).write_bytes(bytes(before.st_size))
    os.utime(core, ns=(before.st_mtime_ns, before.st_mtime_ns))
    for file in (crashed.file("manifest.json"), crashed.home / "digests.json"):
        text = file.read_text()
        known, now = str(before.st_ctime_ns), str(core.stat().st_ctime_ns)
        file.write_text(text.replace(known, now))

    out = crashed.start()
    assert "starts cold: " in out
    assert "the snapshot is taken again by the next `deployer apply`" in out


def test_a_model_that_was_replaced_by_one_of_the_same_size(
    make_project: MakeProject, criu: Path, tmp_path: Path
) -> None:
    made = Frozen(make_project(tmp_path / "project"), criu)
    made.write(MAPPED)
    out = made.apply().out
    assert "note: `server.mmap`: the snapshot contains no weights" in out
    made.kill()
    assert "restored from its snapshot" in made.start()

    made.kill()
    model = made.project.stack.with_name("tiny.gguf")
    content = model.read_bytes()
    model.write_bytes(
        content.replace(b"nothing is trained", b"nothing was trained"[:18])
    )
    out = made.start()
    assert f"starts cold: `{model}`, which it depends on, has changed" in out


def test_a_library_that_was_upgraded(crashed: Frozen) -> None:
    library = next(crashed.home.glob("build/*/**/libggml-base.so*"))
    library = library.resolve()
    content = library.read_bytes()
    library.rename(library.with_suffix(".old"))
    library.write_bytes(content + b"\0")
    library.chmod(0o555)
    try:
        out = crashed.start()
        assert f"starts cold: `{library}`, which it depends on, has changed" in out
    finally:
        library.with_suffix(".old").rename(library)


def test_a_library_that_was_only_touched(crashed: Frozen) -> None:
    """Another time leaves a doubt, and the same content takes it away."""
    library = next(crashed.home.glob("build/*/**/libggml-base.so*")).resolve()
    before = library.stat()
    os.utime(library)
    try:
        assert "restored from its snapshot" in crashed.start()
    finally:
        os.utime(library, ns=(before.st_mtime_ns, before.st_mtime_ns))


def test_the_pid_of_the_image_is_taken(crashed: Frozen) -> None:
    (name,) = {p.stem for p in crashed.image().glob("fs-*.img")}
    with taken(int(name.removeprefix("fs-"))):
        assert "restored from its snapshot" in crashed.start()


def test_the_port_is_taken(crashed: Frozen) -> None:
    """CRIU alone would let two servers listen there without a word."""
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        stranger.bind(("127.0.0.1", crashed.project.port))
        stranger.listen()
        done = crashed.run("start", DEMO)
    assert done.code == 1
    assert f"error: port {crashed.project.port} is in use by pid" in done.err
    assert crashed.pids() == []
    assert "restored from its snapshot" in crashed.start()


def test_the_log_was_deleted(crashed: Frozen) -> None:
    for log in crashed.home.glob("run/*/*/server.log"):
        log.unlink()
    assert "restored from its snapshot" in crashed.start()
    assert "stop processing" in crashed.run("logs", DEMO).out


def test_criu_is_missing(crashed: Frozen) -> None:
    missing = {"DEPLOYER_CRIU": None, "PATH": without_criu()}
    assert "starts cold: CRIU is not installed" in crashed.start(missing)

    done = crashed.run("apply", DEMO, "--yes", env=missing)
    assert done.code == 3
    assert done.err == (
        "error: snapshots do not work here: CRIU is not installed\n"
        "  hint: `scripts/install-criu.sh PREFIX` installs it on Debian-like systems;"
        " then `export DEPLOYER_CRIU=PREFIX/bin/criu`; or write `snapshot: {enabled:"
        " auto}` to start cold where there is none\n"
    )


def test_auto_says_in_the_plan_why_it_starts_cold(crashed: Frozen) -> None:
    missing = {"DEPLOYER_CRIU": None, "PATH": without_criu()}
    crashed.write(STACK + SNAPSHOT.replace("enabled: true", "enabled: auto"))
    try:
        out = crashed.run("plan", DEMO, env=missing).out
    finally:
        crashed.write()
    assert (
        "note: `snapshot`: starts cold, since CRIU is not installed:"
        " `scripts/install-criu.sh PREFIX`" in out
    )


def test_criu_without_privileges(crashed: Frozen) -> None:
    powerless = crashed.wrapper(
        "powerless", 'exec setpriv --bounding-set -all --inh-caps -all "$CRIU" "$@"'
    )
    out = crashed.start({"DEPLOYER_CRIU": powerless})
    assert "starts cold: `criu check` says: " in out


def test_criu_is_too_old(crashed: Frozen) -> None:
    old = crashed.wrapper("old", "echo Version: 3.17.1")
    out = crashed.start({"DEPLOYER_CRIU": old})
    assert "starts cold: CRIU 3.17.1 is too old, 4.2 is needed" in out


def test_criu_dies_during_the_capture(live: Frozen) -> None:
    dying = live.wrapper(
        "dying",
        '[ "$1" = dump ] && exec timeout -s KILL 0.005 "$CRIU" "$@"\nexec "$CRIU" "$@"',
    )
    refuses(live, dying, r"error: the server could not be frozen: .* are free in ")


def test_the_disk_fills_up_during_the_capture(live: Frozen) -> None:
    limited = live.wrapper(
        "limited", '[ "$1" = dump ] && ulimit -f 1024\nexec "$CRIU" "$@"'
    )
    refuses(live, limited, r"error: the server could not be frozen: .*")


def test_there_is_no_room_for_the_image(live: Frozen) -> None:
    with small_disk(live.home / "snapshot"):
        refuses(
            live,
            str(live.criu),
            r"error: no room for the snapshot \w+ in .*: needs [\d.]+ MB, and [\d.]+ MB"
            r" is free\n  hint: free space with `deployer store gc`",
        )


def test_a_warm_up_that_fails(live: Frozen) -> None:
    long = "warmup: [{prompt: Hello, max_tokens: 4}, {prompt: a b, tokens: 9000}]"
    wrong = re.sub(r"warmup: .*", long, STACK + SNAPSHOT)
    refuses(
        live,
        str(live.criu),
        r"error: warm-up request 2 of 2 \(9000 tokens, `a b`\) failed: HTTP 400: .*"
        r"exceeds the available context size.*\n"
        r"  hint: nothing was captured and what is live was not changed",
        text=wrong,
    )


def test_a_warm_up_that_takes_too_long(live: Frozen) -> None:
    slow = "warmup: [{prompt: Hello, max_tokens: 400, timeout: 0.001s}]"
    refuses(
        live,
        str(live.criu),
        r"error: warm-up request 1 of 1 \(`Hello`\) failed: no answer within 0.001 s",
        text=re.sub(r"warmup: .*", slow, STACK + SNAPSHOT),
    )


def test_criu_dies_during_the_restore(crashed: Frozen) -> None:
    dying = crashed.wrapper(
        "dying",
        '[ "$1" = restore ] && exec timeout -s KILL 0.02 "$CRIU" "$@"\n'
        'exec "$CRIU" "$@"',
    )
    out = crashed.start({"DEPLOYER_CRIU": dying})
    assert "starts cold: " in out
    assert "nothing is wrong with its image, which stays" in out
    crashed.kill()
    assert "restored from its snapshot" in crashed.start()


def test_deployer_is_killed_during_the_capture(live: Frozen) -> None:
    stuck = live.wrapper(
        "stuck", '[ "$1" = dump ] && sleep 600 < /dev/null\nexec "$CRIU" "$@"'
    )
    live.write(changed())
    before = set(live.pids())
    with running(live, stuck) as process:
        read_until(process, "demo/snapshot: 1 warm-up request")
        process.send_signal(signal.SIGKILL)
    left = set(live.pids()) - before
    assert left, "the server that was to be captured is still there"
    live.apply()
    assert all(gone(pid) for pid in left)
    assert live.answer() == "The answer is 42."
    live.write()
    live.apply()


def test_clients_are_connected_while_it_is_captured(live: Frozen) -> None:
    connecting = live.wrapper(
        "connecting",
        """\
if [ "$1" = dump ]; then
    port=$(tr '\\0' '\\n' < /proc/$3/cmdline | grep -A1 -x -- --port | tail -1)
    exec 3<> "/dev/tcp/127.0.0.1/$port"
    printf 'GET /health HTTP/1.1\\r\\nHost: x\\r\\n' >&3
    echo connected >> "$(dirname "$0")/connected"
fi
"$CRIU" "$@"
""",
    )
    live.write(changed(4096))
    out = live.apply(env={"DEPLOYER_CRIU": connecting}).out
    assert (live.project.folder / "connected").read_text() == "connected\n"
    assert "restored from its snapshot" in out
    assert live.answer() == "The answer is 42."
    live.write()
    live.apply()


def refuses(made: Frozen, criu: str, message: str, text: str = "") -> None:
    """An apply ends in the message; what is live serves on, and nothing is left."""
    before = made.pids()
    made.write(text or changed())
    done = made.run("apply", DEMO, "--yes", env={"DEPLOYER_CRIU": criu})
    made.write()
    assert done.code == 1, done.out + done.err
    assert re.search(message, done.err), done.err
    assert made.pids() == before
    assert made.answer() == "The answer is 42."
    assert not list((made.home / "snapshot").glob(".*")), "a half image is left"


def changed(ctx_size: int = 2048) -> str:
    return STACK.replace("ctx_size: 1024", f"ctx_size: {ctx_size}") + SNAPSHOT


def without_criu() -> str:
    """The folders of PATH that hold no CRIU."""
    folders = os.environ["PATH"].split(":")
    return ":".join(f for f in folders if not Path(f, "criu").exists())


@contextmanager
def running(made: Frozen, criu: str) -> Iterator["subprocess.Popen[str]"]:
    """An apply that goes on beside the test."""
    os.environ["DEPLOYER_CRIU"] = criu
    try:
        with made.project.running("apply", DEMO, "--yes") as process:
            yield process
    finally:
        del os.environ["DEPLOYER_CRIU"]


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    size = "size=8m,mode=0700"
    mount = ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)]
    unmount = ["umount", str(folder)]
    subprocess.run(mount, check=True)
    try:
        yield
    finally:
        subprocess.run(unmount, check=True)


@contextmanager
def taken(pid: int) -> Iterator[None]:
    """A process with this very pid; whoever has it already does as well."""
    sleeping = [sys.executable, "-c", "input()"]
    for _ in range(100):
        if Path(f"/proc/{pid}").exists():
            yield
            return
        Path("/proc/sys/kernel/ns_last_pid").write_text(str(pid - 1))
        process = subprocess.Popen(sleeping, stdin=subprocess.PIPE)
        try:
            if process.pid == pid:
                yield
                return
        finally:
            process.communicate()
    raise AssertionError(f"pid {pid} could not be taken")
