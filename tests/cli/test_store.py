"""The store as users see it: who uses what, what is damaged, what can go."""

import shutil

import pytest

from tests.cli.project import Project


@pytest.mark.real
def test_store_ls_says_who_uses_an_artefact(live: Project) -> None:
    *artefacts, _ = live.run("store", "ls").out.splitlines()

    assert [line.endswith("used by demo") for line in artefacts] == [True, True]


@pytest.mark.real
def test_store_verify_reads_every_artefact(live: Project) -> None:
    done = live.run("store", "verify")

    assert done.code == 0
    assert [line[:7] for line in done.out.splitlines()] == ["✔ build", "✔ weigh"]


@pytest.mark.real
def test_store_gc_keeps_what_a_release_needs(live: Project) -> None:
    done = live.run("store", "gc", "--yes")
    assert done.out == "removed 0 artefacts, 0 B, 0 run folders\n"
    assert len(live.run("store", "ls").out.splitlines()) == 3


@pytest.mark.real
def test_store_gc_removes_what_no_state_names_once_it_may(live: Project) -> None:
    live.run("destroy", "stacks/demo.yaml", "--yes")
    shutil.rmtree(live.state.parent)
    unknown = live.run("store", "gc")
    listed = live.run("store", "gc", "--forget", str(live.folder))
    removed = live.run("store", "gc", "--yes")

    assert unknown.code == 1
    assert "2 artefacts, " in listed.out
    assert listed.out.endswith("would be removed: add `--yes`\n")
    assert "removed 2 artefacts, " in removed.out
    assert live.run("store", "ls").out == "0 artefacts, 0 B\n"
    assert (live.folder / "stacks/tiny.gguf").exists()


def test_a_toolkit_that_makes_wrong_code_is_refused_at_its_place(
    paper: Project,
) -> None:
    text = paper.stack.read_text("utf-8")
    first, _, rest = text.partition("  binary:")
    paper.stack.write_text(
        f'{first}  cuda: "13.2"\n{rest.partition(chr(10))[2]}', encoding="utf-8"
    )
    done = paper.run("validate", "stacks/demo.yaml")

    assert done.code == 3
    assert done.err.startswith("stacks/demo.yaml:7:3: error: ")
    assert "13.2" in done.err
