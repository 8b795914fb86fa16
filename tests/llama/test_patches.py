"""Verdicts, and applying without fuzz, wherever the tree lies."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from deployer.errors import SourceError
from deployer.llama.patches import (
    Outcome,
    Patch,
    PatchVerdict,
    apply_patch,
    apply_wanted,
    load_patch,
    verdict,
)
from tests.llama.small_source import CHAT, FIX, git, write_patch, write_tree

PATCHED = CHAT.replace("start_tag = 0", 'start_tag = "until told"')
UPSTREAM = CHAT.replace("start_tag = 0", 'start_tag = "in their words"')
BEFORE = CHAT.replace("start_tag", "nothing_of_the_kind")
MOVED = CHAT.replace("// how a model thinks", "// where a model thinks")

WITH_GIT_HEADS = f"diff --git a/common/chat.c b/common/chat.c\n{FIX}"


@pytest.fixture
def patch(tmp_path: Path) -> Patch:
    return load_patch(write_patch(tmp_path / "patches"))


def tree(folder: Path, chat: str = CHAT) -> Path:
    return write_tree(folder / "tree", {"common/chat.c": chat})


def judged(patch: Patch, place: Path) -> PatchVerdict:
    return verdict(patch, place, os.environ)


@pytest.mark.parametrize(
    ("chat", "outcome", "evidence"),
    [
        (CHAT, Outcome.APPLY, "1 hunk fit without fuzz"),
        (UPSTREAM, Outcome.UPSTREAM, "the tree has it in common/chat.c:3"),
        (BEFORE, Outcome.NOT_APPLICABLE, "nothing in common/**/*.c has `start_tag`"),
        (MOVED, Outcome.CONFLICT, "no match at common/chat.c:1"),
    ],
)
def test_the_verdict_of_a_tree(
    patch: Patch, tmp_path: Path, chat: str, outcome: Outcome, evidence: str
) -> None:
    found = judged(patch, tree(tmp_path, chat))
    assert (found.outcome, found.evidence) == (outcome, evidence)


def test_a_patch_without_marker_is_found_by_itself(
    patch: Patch, tmp_path: Path
) -> None:
    bare = replace(patch, upstream=None)
    assert judged(bare, tree(tmp_path, PATCHED)).outcome is Outcome.APPLIED


def test_a_verdict_changes_nothing(patch: Patch, tmp_path: Path) -> None:
    place = tree(tmp_path)
    judged(patch, place)
    assert (place / "common/chat.c").read_text() == CHAT
    assert not (place / ".git").exists()


def test_a_conflict_shows_the_hunk_and_the_code_around(
    patch: Patch, tmp_path: Path
) -> None:
    conflict = judged(patch, tree(tmp_path, f"// one more line\n{MOVED}")).conflict
    assert conflict is not None
    assert conflict.text == (
        "rejected, from common/chat.c:\n"
        " // how a model thinks\n"
        " \n"
        "-static const char * start_tag = 0;\n"
        '+static const char * start_tag = "until told";\n'
        " \n"
        " const char * thinks(void) {\n"
        "there:\n"
        "     1  // one more line\n"
        "     2  // where a model thinks\n"
        "     3  \n"
        "     4  static const char * start_tag = 0;\n"
        "     5  \n"
        "     6  const char * thinks(void) {\n"
        '     7      return start_tag ? start_tag : "without end";\n'
        "     8  }"
    )


def test_a_conflict_over_a_file_that_is_gone(patch: Patch, tmp_path: Path) -> None:
    place = tree(tmp_path)
    (place / "common/chat.c").rename(place / "common/talk.c")
    conflict = judged(patch, place).conflict
    assert conflict is not None
    assert conflict.text.endswith("there:\n(the file is gone)")


def test_what_patch_would_do_with_fuzz_is_a_conflict(
    patch: Patch, tmp_path: Path
) -> None:
    """One context line differs: `patch -p1` applies it all the same."""
    place = tree(tmp_path, MOVED)
    with pytest.raises(SourceError, match="patch `fix` does not fit"):
        apply_patch(patch, place, os.environ)
    assert (place / "common/chat.c").read_text() == MOVED


def test_a_patch_is_applied(patch: Patch, tmp_path: Path) -> None:
    place = tree(tmp_path)
    apply_patch(patch, place, os.environ)
    assert (place / "common/chat.c").read_text() == PATCHED


@pytest.mark.parametrize("text", [FIX, WITH_GIT_HEADS], ids=["plain", "diff --git"])
def test_a_tree_inside_another_repository_is_patched(tmp_path: Path, text: str) -> None:
    """Left to itself, git skips every file there, and says all is well."""
    git(tmp_path, "init", "--quiet")
    place = tree(tmp_path / "deep")
    found = load_patch(write_patch(tmp_path / "patches", text=text))
    apply_patch(found, place, os.environ)
    assert (place / "common/chat.c").read_text() == PATCHED


def test_a_tree_reached_over_a_link_into_a_repository_is_patched(
    patch: Patch, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    git(home, "init", "--quiet")
    tree(home / "deep")
    link = tmp_path / "link"
    link.symlink_to(home / "deep" / "tree")
    apply_patch(patch, link, os.environ)
    assert (link / "common/chat.c").read_text() == PATCHED


def test_settings_of_the_user_do_not_count(patch: Patch, tmp_path: Path) -> None:
    (tmp_path / ".gitconfig").write_text("[apply]\n\twhitespace = error-all\n")
    place = tree(tmp_path)
    apply_patch(patch, place, {**os.environ, "HOME": str(tmp_path)})
    assert (place / "common/chat.c").read_text() == PATCHED


def test_a_git_folder_that_leads_nowhere_is_not_a_conflict(
    patch: Patch, tmp_path: Path
) -> None:
    place = tree(tmp_path)
    (place / ".git").write_text("gitdir: ../nowhere\n")
    with pytest.raises(SourceError, match="git cannot try patch `fix`"):
        judged(patch, place)


def test_a_marker_that_the_patched_tree_lacks_is_an_error(tmp_path: Path) -> None:
    other = FIX.replace('"until told"', "1")
    found = load_patch(write_patch(tmp_path / "patches", text=other))
    with pytest.raises(SourceError, match="its `upstream` marker is not there"):
        apply_patch(found, tree(tmp_path), os.environ)


def test_no_git_on_the_machine(patch: Patch, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="there is no `git`") as caught:
        verdict(patch, tree(tmp_path), {"PATH": str(tmp_path)})
    assert "apt install git" in caught.value.hint


def test_patches_are_applied_in_order(patch: Patch, tmp_path: Path) -> None:
    second = FIX.replace('"until told"', '"longer"').replace(
        " = 0;", ' = "until told";'
    )
    follows = load_patch(
        write_patch(
            tmp_path / "patches",
            text=second,
            name="next",
            description=(
                "name: next\nwhy: more\nstatus: ours\nreference: https://example.org\n"
            ),
        )
    )
    place = tree(tmp_path)
    found = apply_wanted((patch, follows), place, os.environ)
    assert [x.outcome for x in found] == [Outcome.APPLY, Outcome.APPLY]
    assert '"longer"' in (place / "common/chat.c").read_text()


def test_patches_that_are_not_wanted_are_left_out(patch: Patch, tmp_path: Path) -> None:
    place = tree(tmp_path, UPSTREAM)
    (found,) = apply_wanted((patch,), place, os.environ)
    assert found.advice == "`fix` can be deleted from `llama_cpp.patches`"
    assert (place / "common/chat.c").read_text() == UPSTREAM
