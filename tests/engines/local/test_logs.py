import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from deployer.engines.local.logs import LIMIT, last_lines, rotate, tail, trim
from deployer.engines.local.supervise.process import stop, wait_for_end
from tests.engines.local.conftest import Start, until


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "server.log"


def contents(log: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(log.parent.iterdir())}


def test_a_former_log_moves_out_of_the_way(log: Path) -> None:
    log.write_text("first")
    rotate(log)
    log.write_text("second")
    rotate(log)
    assert contents(log) == {"server.log.1": "second", "server.log.2": "first"}


def test_only_the_last_logs_are_kept(log: Path) -> None:
    for run in ("a", "b", "c", "d"):
        log.write_text(run)
        rotate(log, keep=2)
    assert contents(log) == {"server.log.1": "d", "server.log.2": "c"}


def test_the_end_of_a_former_log_above_the_limit_is_kept(log: Path) -> None:
    log.write_text("0123456789")
    rotate(log, limit=4)
    assert contents(log) == {"server.log.1": "6789"}


def test_without_a_log_there_is_nothing_to_rotate(log: Path) -> None:
    rotate(log)
    assert contents(log) == {}


def test_a_running_log_is_cut_and_its_writer_goes_on_at_the_start(log: Path) -> None:
    writer = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(writer, b"0123456789")
    assert trim(log, limit=4)
    os.write(writer, b"next")
    os.close(writer)
    assert contents(log) == {"server.log": "next", "server.log.1": "6789"}


def test_a_log_within_its_limit_is_not_cut(log: Path) -> None:
    log.write_text("0123")
    assert not trim(log, limit=4)
    assert contents(log) == {"server.log": "0123"}


def test_a_copy_of_a_log_is_private(log: Path) -> None:
    log.write_text("0123456789")
    trim(log, limit=4)
    assert log.with_name("server.log.1").stat().st_mode & 0o777 == 0o600


def test_the_last_lines_leave_blank_ones_out(log: Path) -> None:
    log.write_bytes(b"one\n\ntwo \xff\n\nthree\n\n")
    assert last_lines(log, 2) == ("two \N{REPLACEMENT CHARACTER}", "three")


def test_a_missing_log_has_no_lines(log: Path) -> None:
    assert last_lines(log, 2) == ()


def test_a_log_is_shown_from_its_last_lines_on(log: Path) -> None:
    log.write_text("one\ntwo\nthree\n")
    assert list(tail(log, lines=2, follow=False)) == ["two", "three"]


def test_a_followed_log_shows_whole_lines_over_a_rotation_and_a_cut(log: Path) -> None:
    log.write_text("one\n")
    steps: Iterator[Callable[[], object]] = iter(
        [
            lambda: append(log, "two, "),
            lambda: append(log, "in two parts\n"),
            lambda: rotate(log),
            lambda: append(log, "three, after a rotation\n"),
            lambda: trim(log, limit=4),
            lambda: append(log, "four\n"),
        ]
    )

    def take_a_step(_seconds: float) -> None:
        next(steps)()

    shown = tail(log, lines=5, follow=True, pause=take_a_step)
    assert [next(shown) for _ in range(4)] == [
        "one",
        "two, in two parts",
        "three, after a rotation",
        "four",
    ]


def append(log: Path, text: str) -> None:
    with log.open("a") as stream:
        stream.write(text)


def trimmers(log: Path) -> list[psutil.Process]:
    """The processes that keep this log short."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if str(log) in process.cmdline():
                found.append(process)
    return found


def test_the_log_of_a_server_is_cut_while_no_one_looks(listening: Start) -> None:
    running = listening()
    log = Path(running.log)
    os.truncate(log, LIMIT + 1)
    until(running, lambda: log.stat().st_size <= LIMIT)
    assert log.with_name("server.log.1").stat().st_size == LIMIT


def test_a_server_serves_on_without_its_trimmer_and_takes_it_along(
    listening: Start,
) -> None:
    running = listening()
    (trimmer,) = trimmers(Path(running.log))
    assert wait_for_end(running, 0) is None
    stop(running, grace=20)
    trimmer.wait(20)
    assert trimmers(Path(running.log)) == []

    other = listening(key="k2")
    (killed,) = trimmers(Path(other.log))
    killed.kill()
    killed.wait(20)
    assert wait_for_end(other, 0) is None


def test_two_do_not_trim_one_log_at_once(log: Path) -> None:
    log.write_text("0123456789")
    with log.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert not trim(log, limit=4)
    assert trim(log, limit=4)
