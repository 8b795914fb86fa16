"""The story of a stack on Modal, told once to the emulated control plane."""

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.cli.project import Done
from tests.modal.conftest import BUILDS, VOLUME
from tests.modal.emulated import Emulated, emulator
from tests.modal.emulator.cloud import POLLED
from tests.modal.project import KEY, SECRET, STACK, Project

RESTORING = STACK.replace(
    "gates:\n", "gates:\n  restore: {within: 30s, idle: 1s}\n"
).replace("  enabled: true\n", "  enabled: true\n  prime: 2\n")

# What each kind of change asks of Modal's control plane.  Heartbeats and what is
# polled while something is waited for are no part of it.
CALLS = """\
nothing     -
a gate      -
scaling     ClassGet 1, FunctionGet 1, FunctionGetById 1, \
FunctionUpdateSchedulingParams 1
"""


@dataclass(frozen=True)
class Chapter:
    """One command, and what came of it."""

    done: Done
    calls: Mapping[str, int]
    requests: list[tuple[str, dict[str, Any]]]
    live: Mapping[str, Any]


@dataclass
class Story:
    """Every chapter by its name, and what is left at the end."""

    project: Project
    chapters: dict[str, Chapter] = field(default_factory=dict)
    answer: Mapping[str, Any] = field(default_factory=dict)
    events: list[str] = field(default_factory=list)

    def tell(self, name: str, *words: str) -> Chapter:
        """Run a command; whatever it ends in is for the tests to judge."""
        cloud = self.project.cloud
        cloud.forget()
        done = self.project.run(*words)
        calls = {n: c for n, c in cloud.calls().items() if n not in POLLED}
        live = self.project.live() if self.project.state.exists() else {}
        chapter = Chapter(done, calls, cloud.requests(), live)
        self.chapters[name] = chapter
        return chapter

    def out(self, name: str) -> str:
        """What a command said; it must have gone well."""
        done = self.chapters[name].done
        assert done.code == 0, done.out + done.err
        return done.out


APPLY = ("apply", "stacks/tiny.yaml", "--yes")


@pytest.fixture(scope="module")
def story(
    sources: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Story]:
    """From nothing to a destroyed stack."""
    folder = tmp_path_factory.mktemp("story")
    with emulator(folder / "cloud") as cloud:
        cloud.secret(SECRET, {"LLAMA_API_KEY": KEY})
        story = Story(Project(folder / "project", cloud, sources))
        _tell(story, cloud)
        yield story


def _tell(story: Story, cloud: Emulated) -> None:
    project = story.project
    project.write(RESTORING)
    story.tell("first", *APPLY)
    url = project.live()["outputs"]["url"]
    story.answer, story.events = project.ask(url), project.streamed(url)
    story.tell("nothing", *APPLY)
    project.change("  chat: {}\n", "  chat: {}\n  stream: {}\n")
    project.change("  restore: {within: 30s, idle: 1s}\n", "")
    story.tell("a gate", *APPLY)
    project.change("max_containers: 2", "max_containers: 3")
    story.tell("scaling", *APPLY)
    project.change("ctx_size: 1024", "ctx_size: 2048")
    story.tell("options", *APPLY)
    story.tell("report", "report", "stacks/tiny.yaml", "--json")
    for name in ("status", "history", "logs"):
        story.tell(name, name, "stacks/tiny.yaml")
    story.tell("rollback", "rollback", "stacks/tiny.yaml", "1", "--yes")
    project.change("ctx_size: 2048", "ctx_size: 1024")
    project.modal("app", "stop", "tiny", "-y")
    story.tell("stopped by hand", "plan", "stacks/tiny.yaml", "--refresh")
    story.tell("refreshed", *APPLY, "--refresh")
    shutil.rmtree(next((cloud.volume(BUILDS) / "build").iterdir()))
    story.tell("a folder is gone", "plan", "stacks/tiny.yaml", "--refresh")
    cloud.secret(SECRET, {"OTHER": "x"})
    story.tell("a key is gone", "status", "stacks/tiny.yaml")
    story.tell("gc", "store", "gc", "--engine", "modal")
    story.tell("destroy", "destroy", "stacks/tiny.yaml", "--yes", "--artefacts")


def test_an_apply_ends_in_a_server_that_was_proven(story: Story) -> None:
    said = story.out("first")
    order = (
        "deploys app `tiny-builder`",
        "compiling nothing",
        "tries the command line once, without retries",
        "deploys app `tiny-candidate`",
        "Snapshot created. Restoring Function from memory snapshot.",
        "cold start for snapshot 2 of 2",
        "restored from its snapshot in",
        "app `tiny-candidate` is scaled to zero",
        "✔ restore          pass: restored in",
        "deploys app `tiny`\n",
        "stops app `tiny-candidate`",
        "Release 1 is live at http://127.0.0.1:",
    )
    places = [said.find(words) for words in order]
    assert -1 not in places, order[places.index(-1)]
    assert places == sorted(places)


def test_the_builder_is_one_app_whose_functions_run_side_by_side(story: Story) -> None:
    calls = story.chapters["first"].calls
    assert story.out("first").count("deploys app `tiny-builder`") == 1
    assert calls["FunctionMap"] == 3, "build, fetch, tryout"


def test_an_apply_says_what_it_used(story: Story) -> None:
    (line,) = [x for x in story.out("first").splitlines() if "this used" in x]
    for part in ("build", "fetch", "tryout", "candidate", "production"):
        assert f"{part} " in line
    assert "(prices of 2026-09-01)" in line
    assert "Modal's prices now" not in story.out("first")


def test_what_a_run_used_is_remembered_for_the_report(story: Story) -> None:
    (stack,) = story.chapters["report"].done.results()
    first = stack["runs"][-1]
    (used,) = first["used"]
    assert used.startswith("this used ")
    assert used in story.out("first")
    assert stack["cost"]["prices"] == "2026-09-01"
    assert stack["cost"]["awake_hour"] > 0


def test_each_kind_of_change_asks_no_more_than_it_needs(story: Story) -> None:
    told = "".join(
        f"{name:<12}"
        + (", ".join(f"{n} {c}" for n, c in sorted(calls.items())) or "-")
        + "\n"
        for name in ("nothing", "a gate", "scaling")
        if (calls := story.chapters[name].calls) is not None
    )
    assert told == CALLS


def test_a_redeploy_asks_for_three_apps_and_builds_nothing(story: Story) -> None:
    calls = story.chapters["options"].calls
    wanted = {
        "AppCreate": 2,  # the tryout, and a candidate whose last one was stopped
        "AppPublish": 3,
        "AppStop": 1,
        "ClassCreate": 2,
        "FunctionCreate": 3,
        "FunctionMap": 1,
    }
    assert {name: calls.get(name, 0) for name in wanted} == wanted
    assert "ImageJoinStreaming" not in calls


def test_a_rollback_deploys_the_very_files_of_the_release(story: Story) -> None:
    """The scaling that changed in place since is put right without a new version."""
    assert "this command line was tried before" in story.out("rollback")
    assert "is on Volume" not in story.out("rollback")
    first, again = (_served(story.chapters[name]) for name in ("first", "rollback"))
    assert first == again
    assert story.chapters["rollback"].calls["FunctionUpdateSchedulingParams"] == 4


def _served(chapter: Chapter) -> list[dict[str, Any]]:
    """The definitions that were sent for the class, less what Modal itself gave."""
    found = []
    for name, content in chapter.requests:
        if name == "FunctionCreate" and content["function"].get("is_class"):
            function = dict(content["function"])
            function["mount_ids"] = sorted(function["mount_ids"])
            found.append(function)
    return found


def test_status_tells_what_runs_on_modal(story: Story) -> None:
    said = story.out("status")
    assert "✔ app `tiny` version 2, " in said
    assert "url      http://127.0.0.1:" in said


def test_history_joins_our_releases_with_the_versions_of_modal(story: Story) -> None:
    words = [line.split() for line in story.out("history").splitlines()]
    told = [line[-2:] for line in words if line[-1] == "apply" and line[-2][0] == "v"]
    assert told == [["v2", "apply"], ["v1", "apply"]]


def test_logs_are_those_of_the_app(story: Story) -> None:
    assert "llama-server is ready" in story.out("logs")


def test_drift_is_seen_and_repaired(story: Story) -> None:
    said = story.out("stopped by hand")
    assert "app `tiny` is stopped, or was never deployed" in said
    assert "deploys app `tiny`" in story.out("refreshed")
    assert "is gone from Volume `deployer-builds`" in story.out("a folder is gone")
    done = story.chapters["a key is gone"].done
    assert done.code == 1
    assert "has no key `LLAMA_API_KEY`" in done.out


def test_gc_keeps_what_a_release_needs(story: Story) -> None:
    said = story.out("gc")
    needs = story.chapters["refreshed"].live["needs"]
    assert not any(key in said for key in needs.values())


def test_a_destroyed_stack_leaves_nothing_that_runs(story: Story) -> None:
    assert "Destroyed: nothing of `tiny` runs any more." in story.out("destroy")
    apps = story.project.cloud.seen()["apps"]
    assert {app["state"] for app in apps} == {"APP_STATE_STOPPED"}
    cloud = story.project.cloud
    assert [*(cloud.volume(BUILDS) / "build").iterdir()] == []
    assert [*(cloud.volume(VOLUME) / "weights").iterdir()] == []


def test_the_key_is_in_no_file_of_ours(story: Story) -> None:
    for file in story.project.folder.rglob("*"):
        if file.is_file():
            assert KEY.encode() not in file.read_bytes(), file
    volume = story.project.cloud.volume(VOLUME)
    kept = [file for file in volume.rglob("*") if file.suffix in (".py", ".json")]
    assert kept
    assert not any(KEY.encode() in file.read_bytes() for file in kept)
    assert KEY not in json.dumps([c.done.out for c in story.chapters.values()])


def test_what_clients_say_reaches_the_server(story: Story) -> None:
    """HTTP and SSE go through the platform's own proxy, and through none of ours."""
    assert story.answer["model"] == "tiny"
    assert story.events[-1] == "data: [DONE]"


def test_a_stack_without_a_queue_in_front(ready: Project) -> None:
    """`endpoint: server` is 503 until a container is ready, which is waited for."""
    ready.write(STACK + "\nmodal: {endpoint: server}\n")
    ready.apply()
    assert ready.ask(ready.live()["outputs"]["url"])["model"] == "tiny"
    ready.change("max_containers: 2", "max_containers: 3")
    ready.apply()
