"""Reports of gates: which are kept, and for how long."""

from pathlib import Path

from deployer.planning.events import Outcome, Verdict
from deployer.planning.state import Release, State
from deployer.usecases.runs import KEPT_RUNS, keep_report, report_of

SEEN = (Verdict("chat", Outcome.PASS, "answered"),)


def state(*kept: int) -> State:
    """A state that keeps the releases of these numbers."""
    releases = tuple(Release(n, "2026-11-01T12:00:00+00:00", "apply", {}) for n in kept)
    newest = kept[-1] if kept else 0
    return State("demo", "local", "f00dfeed", releases=releases, released=newest)


def test_a_release_keeps_its_report_as_long_as_it_is_kept(tmp_path: Path) -> None:
    before = state()
    for newest in range(1, 5):
        after = state(*range(max(1, newest - 1), newest + 1))
        page = keep_report(tmp_path, before, after, SEEN, "abc123")
        assert page == report_of(tmp_path, after, newest)
        before = after
    kept = {n for n in range(1, 9) if report_of(tmp_path, before, n)}
    assert kept == {3, 4}


def test_of_other_runs_the_last_are_kept(tmp_path: Path) -> None:
    live = state(1)
    keep_report(tmp_path, state(), live, SEEN, "abc123")
    pages = [
        keep_report(tmp_path, live, live, SEEN, f"{number:06}")
        for number in range(KEPT_RUNS + 3)
    ]
    there = [page is not None and page.exists() for page in pages]
    assert there == [False] * 3 + [True] * KEPT_RUNS
    assert report_of(tmp_path, live, 1) is not None


def test_a_run_without_gates_has_no_report(tmp_path: Path) -> None:
    assert keep_report(tmp_path, state(), state(1), (), "abc123") is None
    assert report_of(tmp_path, state(1), 1) is None


def test_stacks_of_one_name_do_not_share_reports(tmp_path: Path) -> None:
    keep_report(tmp_path, state(), state(1), SEEN, "abc123")
    other = State("demo", "local", "beefbeef", releases=state(1).releases, released=1)
    assert report_of(tmp_path, other, 1) is None
