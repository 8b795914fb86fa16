"""Edits by byte span: what is not changed stays, comments included."""

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployer.stack.edits import Edit, Remove, Rename, SetValue, applied, edited
from deployer.stack.yaml12 import parse, plain

BLOCK = """\
# head
llama_cpp:
  tag: b8672          # the build
  patches: [a, b, c]  # three
server:
  # of the options
  flags:              # any other
    one: true         # first
    two: 'x'
  map: {a: 1, b: 2}
list:
  - x                 # the x
  - y
last: "text"
"""


def check(before: str, edits: list[Edit], after: str) -> None:
    assert edited(before, edits) == after
    assert values(after) == applied(values(before), edits)


def values(text: str) -> Any:
    table, problems = parse(text, "t.yaml")
    assert problems == []
    return plain(table)


def test_a_value_keeps_its_comment_in_its_column() -> None:
    check(
        BLOCK,
        [SetValue(("llama_cpp", "tag"), "b11434")],
        BLOCK.replace("b8672          #", "b11434         #"),
    )


def test_a_value_keeps_its_quotes() -> None:
    edits: list[Edit] = [
        SetValue(("last",), "other"),
        SetValue(("server", "flags", "two"), "y"),
    ]
    check(BLOCK, edits, BLOCK.replace('"text"', '"other"').replace("'x'", "'y'"))


def test_a_text_that_would_be_a_number_gets_quotes() -> None:
    check("a: b\n", [SetValue(("a",), "12")], 'a: "12"\n')


def test_an_item_goes_with_its_comma() -> None:
    for index, left in ((0, "[b, c]"), (1, "[a, c]"), (2, "[a, b]")):
        edits: list[Edit] = [Remove(("llama_cpp", "patches", index))]
        check(BLOCK, edits, BLOCK.replace("[a, b, c]", left))


def test_an_item_of_a_block_goes_with_its_line() -> None:
    check(
        BLOCK,
        [Remove(("list", 0))],
        BLOCK.replace("  - x                 # the x\n", ""),
    )


def test_a_list_goes_with_its_last_item() -> None:
    edits: list[Edit] = [Remove(("llama_cpp", "patches", i)) for i in range(3)]
    check(BLOCK, edits, BLOCK.replace("  patches: [a, b, c]  # three\n", ""))


def test_a_section_goes_with_its_last_key() -> None:
    edits: list[Edit] = [
        Remove(("server", "flags", "one")),
        Remove(("server", "flags", "two")),
    ]
    begin, end = BLOCK.index("  flags:"), BLOCK.index("  map:")
    check(BLOCK, edits, BLOCK[:begin] + BLOCK[end:])


def test_an_entry_of_a_flow_mapping_goes_alone() -> None:
    check(BLOCK, [Remove(("server", "map", "b"))], BLOCK.replace(", b: 2", ""))


def test_a_key_is_renamed_and_keeps_its_comment() -> None:
    edits: list[Edit] = [Rename(("server", "flags", "one"), "uno", value=False)]
    check(BLOCK, edits, BLOCK.replace("one: true ", "uno: false "))


def test_a_path_that_is_not_there_is_an_error() -> None:
    with pytest.raises(KeyError):
        edited(BLOCK, [Remove(("server", "nothing"))])


def test_other_line_ends_stay() -> None:
    text = BLOCK.replace("\n", "\r\n")
    after = edited(text, [Remove(("llama_cpp", "patches"))])
    assert after == text.replace("  patches: [a, b, c]  # three\r\n", "")


KEYS = st.sampled_from(["a", "b-c", "d_e", "f", "g"])
SCALARS = st.sampled_from(["b8672", "true", "12", "'q'", '"d"', "1.5", "x y"])


@st.composite
def files(draw: st.DrawFn) -> str:
    """A file of sections with comments in every place."""
    lines = ["# head"]
    for section in draw(st.lists(KEYS, min_size=1, max_size=4, unique=True)):
        lines += [f"# above {section}", f"{section}:   # beside {section}"]
        for key in draw(st.lists(KEYS, min_size=1, max_size=4, unique=True)):
            kind = draw(st.sampled_from(["scalar", "flow", "block", "map"]))
            items = draw(st.lists(SCALARS, min_size=1, max_size=3))
            note = draw(st.sampled_from(["", f"   # of {section} {key}"]))
            match kind:
                case "scalar":
                    lines.append(f"  {key}: {items[0]}{note}")
                case "flow":
                    lines.append(f"  {key}: [{', '.join(items)}]{note}")
                case "map":
                    pairs = ", ".join(f"k{i}: {v}" for i, v in enumerate(items))
                    lines.append(f"  {key}: {{{pairs}}}{note}")
                case _:
                    lines += [f"  {key}:{note}", *(f"    - {i}" for i in items)]
        lines.append(draw(st.sampled_from(["", "# between"])))
    return "\n".join(lines) + "\n"


def scalars(found: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    pairs = found.items() if isinstance(found, dict) else enumerate(found)
    paths = []
    for step, value in pairs:
        inside = isinstance(value, dict | list)
        below = scalars(value, (*path, step)) if inside else [(*path, step)]
        paths += below
    return paths


@given(st.data(), files())
@settings(max_examples=300, deadline=None)
def test_an_edited_file_says_exactly_the_changes(
    data: st.DataObject, text: str
) -> None:
    before = values(text)
    path = data.draw(st.sampled_from(scalars(before)))
    edits: dict[str, Edit] = {
        "set": SetValue(path, data.draw(st.sampled_from(["b11434", "x y", "12"]))),
        "remove": Remove(path),
    }
    if isinstance(path[-1], str):
        edits["rename"] = Rename(path, "renamed")
    edit = edits[data.draw(st.sampled_from(sorted(edits)))]

    after = edited(text, [edit])

    if applied(before, [edit]) == {}:
        return  # a stack is never empty
    assert values(after) == applied(before, [edit])
    kept = comments(after)
    assert kept == [c for c in comments(text) if c in kept]
    if not isinstance(edit, Remove):
        assert kept == comments(text)
    gone = {*comments(text)} - {*kept}
    assert all(c.startswith(("# of", "# beside")) for c in gone), gone


def comments(text: str) -> list[str]:
    return re.findall(r"#.*", text)
