"""The log of what was done: who, from what, why; how much is kept, and its damage."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from deployer.errors import EngineError, StateError
from deployer.planning.events import Outcome, Verdict
from deployer.planning.graph import expand
from deployer.planning.plan import Plan, make_plan
from deployer.planning.state import State
from deployer.state import SEGMENT, SEGMENTS
from deployer.state.files import FileStateStore
from deployer.state.objects import ObjectBucket, ObjectStateStore
from deployer.testing import resolved, stack
from deployer.usecases.context.settings import Settings
from deployer.usecases.runs import Ran, failed, origin_of, ran_now, remember, remembered
from tests.planning.checking import LOCAL, PLAIN
from tests.state.fake_objects import FakeObjects

PASSED = Verdict("chat", Outcome.PASS, "answered", figures={"answer_seconds": 0.2})
FAILED = Verdict("speed", Outcome.FAIL, "too slow")
EMPTY = State("demo", "local", "f00dfeed")
RUN = {
    "GITHUB_ACTIONS": "true",
    "GITHUB_ACTOR": "octocat",
    "GITHUB_REF_NAME": "main",
    "GITHUB_REPOSITORY": "o/r",
    "GITHUB_RUN_ATTEMPT": "2",
    "GITHUB_RUN_ID": "41",
    "GITHUB_SERVER_URL": "https://github.example.com",
    "GITHUB_SHA": "c" * 40,
}


def store_in(folder: Path) -> FileStateStore:
    return FileStateStore(folder / "state", "demo")


def plan() -> Plan:
    wanted = stack(LOCAL)
    return make_plan(expand(wanted, resolved(wanted), PLAIN), EMPTY)


def ran(folder: Path, cause: str = "apply", **environment: str) -> Ran:
    settings = Settings(environment, folder)
    return ran_now(settings, folder, cause, plan=plan(), verdicts=[PASSED])


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    made = replace(ran(tmp_path, DEPLOYER_MESSAGE="too small"), release=1)
    remember(store, made)
    (found,) = remembered(store)
    assert found == made
    assert (found.why, found.outcome) == ("too small", "released")
    assert "server not there yet" in found.changes
    assert found.gates[0]["figures"] == {"answer_seconds": 0.2}


def test_ci_says_who_and_from_what(tmp_path: Path) -> None:
    origin = origin_of(tmp_path, {**RUN, "DEPLOYER_PULL_REQUEST": "7"})
    assert (origin.actor, origin.commit, origin.branch) == ("octocat", "c" * 40, "main")
    page = "https://github.example.com/o/r/actions/runs/41/attempts/2"
    assert (origin.pull_request, origin.run) == ("7", page)


def test_a_pull_request_is_named_by_its_last_commit(tmp_path: Path) -> None:
    """GitHub checks out a merge of it that nobody reviews."""
    event = tmp_path / "event.json"
    event.write_text('{"pull_request": {"number": 7, "head": {"sha": "h"}}}')
    origin = origin_of(tmp_path, {**RUN, "GITHUB_EVENT_PATH": str(event)})
    assert (origin.pull_request, origin.commit) == ("7", "h")


def test_gitlab_says_so_too(tmp_path: Path) -> None:
    page = "https://gitlab.example.com/g/p/-/jobs/5"
    given = {"GITLAB_CI": "true", "GITLAB_USER_LOGIN": "root", "CI_JOB_URL": page}
    origin = origin_of(tmp_path, {**given, "CI_MERGE_REQUEST_IID": "3"})
    assert (origin.actor, origin.run, origin.pull_request) == ("root", page, "3")


def test_an_address_that_is_none_is_left_out(tmp_path: Path) -> None:
    bad = {**RUN, "GITHUB_REPOSITORY": "o/r) [x](javascript:1"}
    assert origin_of(tmp_path, bad).run == ""


def test_what_gates_blocked_and_what_failed_are_told_apart(tmp_path: Path) -> None:
    settings = Settings({"API_TOKEN": "sk-very-secret"}, tmp_path)
    judged = ran_now(settings, tmp_path, "apply", plan=plan(), verdicts=[FAILED])
    error = EngineError("no room; the key was sk-very-secret")
    assert failed(judged, error, settings).outcome == "blocked"
    other = failed(ran(tmp_path), error, settings)
    assert (other.outcome, other.error) == ("failed", "no room; the key was [redacted]")
    assert failed(ran(tmp_path), KeyboardInterrupt(), settings).error


def stores(folder: Path) -> list[FileStateStore | ObjectStateStore]:
    bucket = ObjectBucket(FakeObjects(), "s3://states/f")
    return [store_in(folder), ObjectStateStore(bucket, "demo")]


@pytest.mark.parametrize("kind", [0, 1])
def test_lines_are_only_added_and_the_oldest_part_goes(
    tmp_path: Path, kind: int
) -> None:
    store = stores(tmp_path)[kind]
    most = SEGMENT * SEGMENTS
    for number in range(SEGMENT + 1):
        store.log(f"{number}")
    assert store.logged() == tuple(map(str, range(SEGMENT + 1)))
    assert store.logged(1) == (f"{SEGMENT}",)
    assert len(store.logged(2)) == SEGMENT + 1
    assert most == 10_000


def test_ten_thousand_lines_are_kept(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    folder = tmp_path / "state" / "log" / "demo"
    folder.mkdir(parents=True)
    for part in range(1, SEGMENTS + 1):
        lines = "".join(f"{part}\n" for _ in range(SEGMENT))
        (folder / f"{part:08}.jsonl").write_text(lines)
    store.log("new")
    found = store.logged()
    assert len(found) == SEGMENT * (SEGMENTS - 1) + 1
    assert (found[0], found[-1]) == ("2", "new")


def test_a_line_that_was_written_in_half_hides_no_other(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    remember(store, ran(tmp_path, "first"))
    (part,) = (tmp_path / "state" / "log" / "demo").iterdir()
    strange = b'{"at": 1}\n[]\nnull\n"x"\n\xff\xfe\n\x00\n' + b"[" * 9999 + b"\n"
    part.write_bytes(part.read_bytes() + strange + b'{"at')
    remember(store, ran(tmp_path, "second"))
    assert [it.cause for it in remembered(store)] == ["first", "second"]


def test_the_log_is_for_its_user_alone_and_refuses_links(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    remember(store, ran(tmp_path))
    (part,) = (tmp_path / "state" / "log" / "demo").iterdir()
    assert part.stat().st_mode & 0o077 == 0
    part.rename(tmp_path / "elsewhere")
    part.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StateError):
        store.log("x")


def test_a_line_is_json_of_one_line(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    remember(store, ran(tmp_path, DEPLOYER_MESSAGE="a\nb"))
    (line,) = store.logged()
    assert json.loads(line)["why"] == "a\nb"
