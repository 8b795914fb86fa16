"""Which artefacts only one stack needs: those may go when it is destroyed."""

from dataclasses import replace
from pathlib import Path

from deployer.planning.resources import Kind
from deployer.planning.state import Record, Release, State
from deployer.state.files import FileStateStore
from deployer.state.places import StatePlace
from deployer.usecases.context.gc_roots import only_used_by, register
from deployer.usecases.context.settings import settings_of


def stack(folder: Path, *live: str, before: str = "") -> StatePlace:
    """A stack of this folder with snapshots of these keys, live and kept."""

    def records(keys: tuple[str, ...]) -> dict[str, Record]:
        return {
            f"demo/{key}": Record(f"demo/{key}", Kind.SNAPSHOT, key, {}, {}, {})
            for key in keys
        }

    release = Release(1, "2026-11-01T12:00:00+00:00", "apply", records((before,)))
    state = State("demo", "local", lineage="f00d", live=records(live))
    if before:
        state = replace(state, releases=(release,), released=1)
    place = StatePlace("file", str(folder / ".deployer" / "state"))
    register(settings_of({"DEPLOYER_HOME": str(folder.parent / "home")}), place, "demo")
    states = FileStateStore(Path(place.where), "demo")
    states.write(replace(state, serial=1), expect=0)
    return place


def test_what_another_stack_of_the_same_name_needs_stays(tmp_path: Path) -> None:
    mine = stack(tmp_path / "one", "shared", "mine", before="kept")
    stack(tmp_path / "two", "shared")
    settings = settings_of({"DEPLOYER_HOME": str(tmp_path / "home")})
    assert only_used_by(settings, mine, "demo", Kind.SNAPSHOT) == {"mine", "kept"}
    assert only_used_by(settings, mine, "demo", Kind.BUILD) == set()
