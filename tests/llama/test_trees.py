"""Source trees of this machine, with and without patches."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from deployer.errors import (
    DeployerError,
    EngineError,
    SourceError,
    UnreachableError,
)
from deployer.llama.build.compile import Settings, build_from_source
from deployer.llama.build.trees import (
    SourceRequest,
    check_patches,
    fetch_patched,
    first_pin,
    pin_tree,
    requests_for,
)
from deployer.llama.patches import Outcome, load_patch
from deployer.planning.facts import Pin
from tests.llama.small_source import (
    CHAT,
    FILES,
    FIX,
    answer,
    around,
    fetched,
    names,
    write_patch,
    write_tree,
)

IN_THEIR_WORDS = {"common/chat.c": CHAT.replace("tag = 0", 'tag = "in their words"')}


def from_folder(tmp_path: Path, **changes: str) -> SourceRequest:
    named = {name.replace("__", "/"): text for name, text in changes.items()}
    return SourceRequest("path", "b8672", path=write_tree(tmp_path / "tree", named))


def test_a_folder_is_pinned_by_its_content(tmp_path: Path) -> None:
    request = from_folder(tmp_path)
    first = pin_tree(request, (), around(tmp_path))
    assert first.about["number"] == 8672
    assert pin_tree(request, (), around(tmp_path)) == first
    (tmp_path / "tree/ggml/llama.c").write_text("int layers(void) { return 31; }\n")
    assert pin_tree(request, (), around(tmp_path)).identity != first.identity


def test_builds_caches_and_git_are_no_content(tmp_path: Path) -> None:
    request = from_folder(tmp_path)
    first = pin_tree(request, (), around(tmp_path))
    for name in (".git/HEAD", "out/CMakeCache.txt", "out/x.o", "a/__pycache__/x.pyc"):
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    again = pin_tree(request, (), around(tmp_path))
    assert again.identity == first.identity
    assert names(fetched(again, tmp_path, around(tmp_path))) == FILES.keys()


def test_what_is_said_of_a_folder_is_part_of_it(tmp_path: Path) -> None:
    """Number and commit are compiled in, and a folder does not know them."""
    request = from_folder(tmp_path)
    other = replace(request, tag="b8673")
    first, second = (pin_tree(x, (), around(tmp_path)) for x in (request, other))
    assert first.identity != second.identity


def test_a_folder_that_changed_since_is_refused(tmp_path: Path) -> None:
    pin = pin_tree(from_folder(tmp_path), (), around(tmp_path))
    (tmp_path / "tree/ggml/llama.c").write_text("other\n")
    with pytest.raises(SourceError, match="changed since it was locked"):
        fetched(pin, tmp_path, around(tmp_path))


def test_a_folder_that_is_no_source_tree(tmp_path: Path) -> None:
    request = SourceRequest("path", "b1", path=tmp_path)
    with pytest.raises(SourceError, match=r"it has no `CMakeLists\.txt`"):
        pin_tree(request, (), around(tmp_path))


def test_a_tree_that_is_not_llama_cpp(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other/CMakeLists.txt").write_text("project(other)\n")
    request = SourceRequest("path", "b1", path=tmp_path / "other")
    with pytest.raises(SourceError, match="it is not llama"):
        pin_tree(request, (), around(tmp_path))


def test_a_link_out_of_a_folder_is_refused(tmp_path: Path) -> None:
    request = from_folder(tmp_path)
    (tmp_path / "tree/passwords").symlink_to("/etc/passwd")
    with pytest.raises(SourceError, match="`passwords` is a symbolic link that leaves"):
        pin_tree(request, (), around(tmp_path))


def test_a_patch_that_applies_is_part_of_the_identity(tmp_path: Path) -> None:
    patch = load_patch(write_patch(tmp_path / "patches"))
    request = from_folder(tmp_path)
    bare = pin_tree(request, (), around(tmp_path))
    pin = pin_tree(request, (patch,), around(tmp_path))
    assert pin.identity == {**bare.identity, "patches": [patch.digest]}
    assert pin.about["patches"] == {"fix": "apply"}


def test_a_patch_that_upstream_has_leaves_the_identity_alone(tmp_path: Path) -> None:
    patch = load_patch(write_patch(tmp_path / "patches"))
    tree = write_tree(tmp_path / "tree", IN_THEIR_WORDS)
    request = SourceRequest("path", "b8746", path=tree)
    pin = pin_tree(request, (patch,), around(tmp_path))
    assert pin.identity == pin_tree(request, (), around(tmp_path)).identity
    assert pin.about["patches"] == {"fix": "upstream"}


def test_a_conflict_is_told_when_pinning(tmp_path: Path) -> None:
    patch = load_patch(write_patch(tmp_path / "patches"))
    tree = write_tree(tmp_path / "tree", {"common/chat.c": f"int x;\n{CHAT[3:]}"})
    request = SourceRequest("path", "b1", path=tree)
    with pytest.raises(SourceError, match="patch `fix` conflicts with this source"):
        pin_tree(request, (patch,), around(tmp_path))


def test_pinning_leaves_no_tree_behind(tmp_path: Path) -> None:
    patch = load_patch(write_patch(tmp_path / "patches"))
    where = around(tmp_path)
    pin_tree(from_folder(tmp_path), (patch,), where)
    assert list(where.downloads.iterdir()) == []


def test_a_patch_that_changed_since_is_refused(tmp_path: Path) -> None:
    patch = load_patch(write_patch(tmp_path / "patches"))
    pin = pin_tree(from_folder(tmp_path), (patch,), around(tmp_path))
    edited = write_patch(tmp_path / "patches", text=FIX.replace("until told", "now"))
    (tmp_path / "into").mkdir()
    with pytest.raises(SourceError, match="a patch changed since it was locked"):
        fetch_patched(pin, (load_patch(edited),), tmp_path / "into", around(tmp_path))


def test_patches_are_checked_each_on_its_own(tmp_path: Path) -> None:
    patch = load_patch(write_patch(tmp_path / "patches"))
    found = check_patches(
        pin_tree(from_folder(tmp_path), (), around(tmp_path)),
        (patch, patch),
        around(tmp_path),
    )
    assert [x.outcome for x in found] == [Outcome.APPLY, Outcome.APPLY]


def test_a_pinned_and_patched_source_becomes_a_server(tmp_path: Path) -> None:
    patch = load_patch(write_patch(tmp_path / "patches"))
    where = around(tmp_path)
    pin = pin_tree(from_folder(tmp_path), (patch,), where)
    into = tmp_path / "into"
    into.mkdir()
    build_from_source(
        pin,
        Settings(cuda=None, architectures=(), cmake=(), system="Linux"),
        (patch,),
        into,
        work=tmp_path / "home/work",
        around=where,
        say=lambda _: None,
    )
    assert answer(into / "bin/llama-server").startswith("version: 8672 (unknown)")
    assert "until told" in answer(into / "bin/llama-server")


PIN = Pin("source-pypi", {"archive": "0" * 64}, {})


def _fails(error: DeployerError) -> Callable[[], Pin]:
    def attempt() -> Pin:
        raise error

    return attempt


def test_the_first_source_that_has_a_build_is_taken() -> None:
    tries = {"pypi": lambda: PIN, "git": _fails(SourceError("never asked"))}
    assert first_pin("b1", tries) == PIN


def test_why_a_source_was_skipped_is_kept_with_the_pin() -> None:
    for error in (UnreachableError("no answer"), EngineError("does not run here")):
        found = first_pin("b1", {"release": _fails(error), "pypi": lambda: PIN})
        assert found.about == {"skipped": {"release": error.message}}
        assert found.identity == PIN.identity


def test_packages_that_were_skipped_stand_beside_the_sources() -> None:
    pin = replace(PIN, about={"skipped": {"a==1": "another build"}})
    tries = {"release": _fails(SourceError("none")), "pypi": lambda: pin}
    both = {"release": "none", "a==1": "another build"}
    assert first_pin("b1", tries).about == {"skipped": both}


def test_no_source_has_it_with_the_reason_and_the_hint_of_who_answered() -> None:
    tries = {
        "release": _fails(UnreachableError("no answer", hint="check the network")),
        "pypi": _fails(SourceError("no package has it", hint="nearest: `b2`")),
    }
    with pytest.raises(SourceError) as caught:
        first_pin("b1", tries)
    assert not isinstance(caught.value, UnreachableError)
    assert caught.value.message == (
        "no source has `b1`: `release`: no answer; `pypi`: no package has it"
    )
    assert caught.value.hint == "nearest: `b2`"


def test_no_source_answers() -> None:
    silent = _fails(UnreachableError("no answer"))
    with pytest.raises(UnreachableError):
        first_pin("b1", {"release": silent, "git": silent})


@pytest.mark.parametrize(
    ("sources", "expect"),
    [
        ((), ["git", "pypi"]),
        (("release", "pypi", "git"), ["pypi", "git"]),
        (("release",), ["git", "pypi"]),
        (("git",), ["git"]),
    ],
)
def test_trees_are_looked_for_in_the_order_of_the_sources(
    sources: tuple[str, ...], expect: list[str]
) -> None:
    asked = requests_for("b1", sources, "https://git.test/x")
    assert [it.source for it in asked] == expect
    assert {it.repo for it in asked if it.source == "git"} == {"https://git.test/x"}
