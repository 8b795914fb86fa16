"""What counts as a patch, and what must not be in one."""

import pytest

from deployer.llama.patches import read_diff
from tests.llama.small_source import FIX

CREATES = """\
diff --git a/new.txt b/new.txt
new file mode 100644
--- /dev/null
+++ b/new.txt
@@ -0,0 +1,2 @@
+one
+two
"""


def faults(text: str) -> list[tuple[int, str]]:
    return [(it.place.line, it.what) for it in read_diff(text, "a.patch").faults]


def test_a_patch_names_its_files_and_hunks() -> None:
    diff = read_diff(FIX, "a.patch")
    assert (diff.files, diff.faults) == (("common/chat.c",), ())
    assert (diff.hunks[0].start, diff.hunks[0].line) == (1, 3)
    assert diff.hunks[0].before[2] == "static const char * start_tag = 0;"


def test_a_patch_may_create_a_file() -> None:
    assert read_diff(CREATES, "a.patch").files == ("new.txt",)
    assert faults(CREATES) == []


@pytest.mark.parametrize("text", ["", "  \n\n"])
def test_an_empty_patch_is_refused(text: str) -> None:
    assert faults(text) == [(1, "the patch is empty")]


def test_prose_is_no_patch() -> None:
    assert faults("please fix it\n") == [(1, "not a patch: it has no `@@ … @@` hunk")]


def test_a_patch_that_was_cut_is_refused_at_its_end() -> None:
    cut = "\n".join(FIX.splitlines()[:6])
    assert faults(cut) == [(6, "the last hunk is cut off")]


def test_a_hunk_that_ends_early_is_refused_where_the_next_file_begins() -> None:
    text = FIX.replace(" const char * thinks(void) {\n", "") + "diff --git a/x b/x\n"
    assert faults(text) == [(9, "a hunk ends before all its lines are there")]


def test_a_head_that_is_no_head_is_refused() -> None:
    text = FIX.replace("@@ -1,5 +1,5 @@", "@@ somewhere @@")
    assert (3, "not the head of a hunk") in faults(text)


@pytest.mark.parametrize(
    "name", ["a/../../etc/passwd", "/etc/passwd", "a/b/../../../x", "a/..\\x", "C:/x/y"]
)
def test_a_path_that_leaves_the_tree_is_refused_with_its_line(name: str) -> None:
    text = FIX.replace("b/common/chat.c", name)
    assert faults(text) == [(2, f"`{name}` is not a path inside the source tree")]


def test_a_path_without_prefix_is_refused() -> None:
    text = FIX.replace("a/common", "common").replace("b/common", "common")
    assert faults(text)[0] == (1, "`common/chat.c` has no leading `a/` or `b/`")


def test_a_file_of_git_is_refused() -> None:
    text = FIX.replace("b/common/chat.c", "b/.git/hooks/post-checkout")
    assert faults(text)[0][1].endswith("is a file of git, not of the source")


def test_a_symbolic_link_is_refused() -> None:
    text = CREATES.replace("100644", "120000")
    assert faults(text) == [(2, "a patch must not make symbolic links")]


def test_a_binary_patch_is_refused() -> None:
    text = "diff --git a/x.png b/x.png\nGIT binary patch\nliteral 3\n"
    assert faults(text) == [(2, "a patch must be text")]


def test_a_removed_line_that_looks_like_a_head_is_content() -> None:
    text = """\
--- a/x.sql
+++ b/x.sql
@@ -1,2 +1,1 @@
--- /etc/passwd
 select 1;
"""
    assert faults(text) == []
    assert read_diff(text, "a.patch").files == ("x.sql",)


def test_an_empty_context_line_may_have_lost_its_blank() -> None:
    assert faults(FIX.replace("\n \n", "\n\n")) == []


def test_what_follows_a_complete_hunk_is_no_part_of_it() -> None:
    text = FIX + "-- \n2.39.5\n"
    assert faults(text) == []
