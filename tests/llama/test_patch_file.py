"""Patches as folders: what they must say, and every problem at its place."""

from pathlib import Path

import pytest

from deployer.diagnostics import diagnostics_text
from deployer.errors import StackError
from deployer.llama.patches import load_patch, load_patches, names_in
from tests.llama.small_source import DESCRIPTION, FIX, write_patch


def check(folder: Path, expected: str, *, text: str = FIX, **changes: str) -> None:
    description = DESCRIPTION
    for old, new in changes.items():
        line = next(x for x in DESCRIPTION.splitlines() if x.startswith(f"{old}:"))
        description = description.replace(line, new)
    place = write_patch(folder, text=text, description=description)
    with pytest.raises(StackError) as caught:
        load_patch(place)
    shown = diagnostics_text(caught.value.problems).replace(f"{place}/", "")
    assert shown == expected


def test_a_patch_says_what_it_is_for(tmp_path: Path) -> None:
    patch = load_patch(write_patch(tmp_path))
    assert (patch.name, patch.status, patch.gate) == ("fix", "merged", None)
    assert patch.needs is not None
    assert patch.needs.files == "common/**/*.c"
    assert patch.diff.files == ("common/chat.c",)


def test_the_digest_is_of_the_change_and_not_of_the_words(tmp_path: Path) -> None:
    first = load_patch(write_patch(tmp_path / "1"))
    words = DESCRIPTION.replace("a thought has no end", "other words")
    second = load_patch(write_patch(tmp_path / "2", description=words))
    other = FIX.replace("until told", "told")
    third = load_patch(write_patch(tmp_path / "3", text=other))
    assert first.digest == second.digest != third.digest


def test_an_empty_patch(tmp_path: Path) -> None:
    check(
        tmp_path,
        "fix.patch:1:1: error: the patch is empty\n"
        "  hint: put the output of `git diff` there\n",
        text="",
    )


def test_a_path_outside_the_tree(tmp_path: Path) -> None:
    check(
        tmp_path,
        "fix.patch:2:1: error: `b/../../x` is not a path inside the source tree\n",
        text=FIX.replace("b/common/chat.c", "b/../../x"),
    )


def test_a_marker_is_no_regular_expression(tmp_path: Path) -> None:
    check(
        tmp_path,
        "patch.yaml:5:1: error: `needs.contains` is missing\n"
        "  hint: a marker is no regular expression: write the text itself as "
        "`contains:`\n"
        "patch.yaml:5:26: error: `needs.matches` is not `files` or `contains`\n",
        needs="needs: {files: common/*, matches: '(a+)+$'}",
    )


def test_a_marker_that_every_file_contains(tmp_path: Path) -> None:
    check(
        tmp_path,
        "patch.yaml:6:29: error: `upstream.contains` is empty: every file contains "
        "it\n",
        upstream="upstream: {files: common/*, contains: ' '}",
    )


def test_a_blank_of_a_marker_is_white_space_of_any_length(tmp_path: Path) -> None:
    pattern = load_patch(write_patch(tmp_path)).upstream
    assert pattern is not None
    assert pattern.pattern.search('start_tag\n\t=  "')
    assert not pattern.pattern.search('start_tag="')


def test_no_marker_hangs_on_any_file(tmp_path: Path) -> None:
    """What makes a regular expression try every way is plain text here."""
    hostile = "needs: {files: common/*, contains: '(a+)+$ (.*)*b a a a a a'}"
    text = DESCRIPTION.replace(DESCRIPTION.splitlines()[4], hostile)
    marker = load_patch(write_patch(tmp_path, description=text)).needs
    assert marker is not None
    for content in ("a" * 10**6, " " * 10**6, "(a+)+$ " * 10**5):
        assert marker.pattern.search(content) is None


@pytest.mark.parametrize("file", ["patch.yaml", "fix.patch"])
def test_a_file_that_is_a_link(tmp_path: Path, file: str) -> None:
    place = write_patch(tmp_path)
    (tmp_path / "private").write_text("the private words")
    (place / file).unlink()
    (place / file).symlink_to(tmp_path / "private")
    with pytest.raises(StackError) as caught:
        load_patch(place)
    shown = diagnostics_text(caught.value.problems)
    assert "is a symbolic link" in shown
    assert "private words" not in shown


def test_a_marker_that_looks_outside_the_tree(tmp_path: Path) -> None:
    check(
        tmp_path,
        "patch.yaml:5:9: error: `needs.files` is not a pattern of paths inside the "
        "source tree\n",
        needs="needs: {files: '../*', contains: x}",
    )


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    check(
        tmp_path,
        "fix.patch:1:1: error: not a patch: it has no `@@ … @@` hunk\n"
        "  hint: put the output of `git diff` there\n"
        "patch.yaml:1:1: error: `name` is `fox`, and the folder is `fix`\n"
        "  hint: name both alike\n"
        "patch.yaml:1:1: error: `why` is missing\n"
        "  hint: add `why: …`\n"
        "patch.yaml:2:1: error: unknown key `wy`\n"
        "  hint: did you mean `why`?\n"
        "patch.yaml:3:1: error: `reference` is not an https address\n"
        "  hint: link the change or the issue upstream\n"
        "patch.yaml:4:1: error: `status` is `open`\n"
        "  hint: write one of `merged`, `proposed`, `refused`, `ours`\n",
        text="please fix it",
        name="name: fox",
        why="wy: it is broken",
        reference="reference: PR 21697",
        status="status: open",
    )


def test_a_patch_without_its_file(tmp_path: Path) -> None:
    place = write_patch(tmp_path)
    (place / "fix.patch").unlink()
    with pytest.raises(StackError) as caught:
        load_patch(place)
    assert "the patch cannot be read: No such file" in caught.value.problems[0].what


def test_a_patch_that_is_a_link_is_refused(tmp_path: Path) -> None:
    place = write_patch(tmp_path)
    (place / "fix.patch").rename(tmp_path / "elsewhere")
    (place / "fix.patch").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StackError) as caught:
        load_patch(place)
    assert caught.value.problems[0].what == "the patch is a symbolic link"


def test_an_unknown_patch_names_the_nearest(tmp_path: Path) -> None:
    write_patch(tmp_path)
    with pytest.raises(StackError) as caught:
        load_patches(tmp_path, ("fax",))
    problem = caught.value.problems[0]
    assert (problem.what, problem.hint) == (
        "there is no patch `fax`",
        "did you mean `fix`?",
    )


def test_a_new_patch_is_a_folder_and_no_code(tmp_path: Path) -> None:
    write_patch(tmp_path)
    assert names_in(tmp_path) == ["fix"]


def test_the_shipped_patches_are_whole() -> None:
    folder = Path(__file__).parents[2] / "patches"
    names = tuple(names_in(folder))
    assert "gemma4-thinking-tags" in names
    assert [patch.name for patch in load_patches(folder, names)] == list(names)
