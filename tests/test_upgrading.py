"""What a plan adds about another build: patches by verdict, options by count."""

from dataclasses import replace

from deployer.planning.plan import Action, Cause, Change, Reason
from deployer.planning.resources import Kind, Node
from deployer.planning.state import record_of
from deployer.stack.fields.values import Flat, JsonValue
from deployer.usecases.plan import build_notes

REASON = Reason(Action.REPLACE, Cause.FIELD, "llama_cpp.tag")


def build(tag: str, patches: dict[str, str]) -> Node:
    verdicts: dict[str, JsonValue] = dict(patches)
    spec: Flat = {"about": {"patches": verdicts}}
    fields = {"llama_cpp.tag": tag}
    return Node("demo/build", Kind.BUILD, f"k-{tag}", fields, {}, spec)


def change(before: str, after: str, patches: dict[str, str]) -> Change:
    node = build(after, patches)
    old = record_of(build(before, {}), {})
    return Change(node.address, node.kind, (REASON,), old, node)


def test_a_patch_that_upstream_has_can_be_deleted() -> None:
    (note,) = build_notes(change("b8672", "b8672", {"tags": "upstream"}))
    assert note == (
        "patch tags: upstream,"
        " it is in this build: the patch can be deleted from the stack"
    )


def test_a_patch_that_applies_needs_no_advice() -> None:
    assert build_notes(change("b1", "b1", {"tags": "apply"})) == ("patch tags: apply",)


def test_options_are_counted_between_two_builds() -> None:
    (note,) = build_notes(change("b9763", "b10878", {}))
    assert note.startswith("options of llama-server, b9763 → b10878: ")
    assert note.endswith("(deployer explain flag --diff b9763 b10878)")
    assert "renamed" in note


def test_a_commit_says_nothing_of_options() -> None:
    assert build_notes(change("b9763", "0123abc", {})) == ()


def test_a_first_build_has_nothing_to_compare_with() -> None:
    first = replace(change("b1", "b9763", {}), before=None)
    assert build_notes(first) == ()
