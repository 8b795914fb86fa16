"""Files of a stack that options name: a release keeps those it was planned with."""

import hashlib
from pathlib import Path

import pytest

from deployer.engines.local.server import Server
from deployer.engines.place import Keys, Place
from deployer.errors import EngineError
from deployer.planning.resources import Kind
from deployer.planning.state import Record
from deployer.stack.fields.values import JsonValue


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def server(folder: Path, content: str | None) -> Server:
    """A release that was planned with this content of `g.gbnf`."""
    files: dict[str, JsonValue] = (
        {} if content is None else {"files": {"g.gbnf": digest(content)}}
    )
    record = Record(
        address="demo/server",
        kind=Kind.SERVER,
        key="k" * 64,
        fields={},
        needs={},
        spec={"argv": [], "env": {"GGML_X": "1"}, **files},
        outputs={},
    )
    (folder / "stacks").mkdir(exist_ok=True)
    place = Place(folder / "home", folder / "stacks", {}, Keys({}), folder / "patches")
    return Server(record, place)


def test_a_release_goes_on_with_the_content_it_was_planned_with(
    tmp_path: Path,
) -> None:
    first = server(tmp_path, "one")
    own = tmp_path / "stacks" / "g.gbnf"
    own.write_text("one")
    kept = Path(first._file_of_stack("g.gbnf"))
    own.write_text("two")
    assert Path(server(tmp_path, "two")._file_of_stack("g.gbnf")).read_text() == "two"
    own.unlink()
    assert Path(first._file_of_stack("g.gbnf")) == kept
    assert kept.read_text() == "one"
    assert kept.suffix == ".gbnf"


@pytest.mark.parametrize("content", ["other", None])
def test_another_content_is_another_release(
    tmp_path: Path, content: str | None
) -> None:
    release = server(tmp_path, "one")
    if content is not None:
        (tmp_path / "stacks" / "g.gbnf").write_text(content)
    with pytest.raises(EngineError, match=r"g\.gbnf.*when this release was planned"):
        release._file_of_stack("g.gbnf")


def test_what_was_not_recorded_is_where_it_lies(tmp_path: Path) -> None:
    """A place that llama-server writes to, or a release of an older deployer."""
    found = server(tmp_path, None)._file_of_stack("slots")
    assert found == str(tmp_path / "stacks" / "slots")


def test_the_variables_of_the_stack_are_those_of_the_record(tmp_path: Path) -> None:
    assert server(tmp_path, None).variables == {"GGML_X": "1"}
