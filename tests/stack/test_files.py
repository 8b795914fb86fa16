"""Files that cannot be used, and files laid over each other."""

from pathlib import Path

import pytest

from deployer.diagnostics import Place, diagnostics_text
from deployer.errors import StackError
from deployer.stack.load import load

BASE = """\
version: 1
name: base
engine: local
llama_cpp: {tag: b9763, package: llama==1.0}
model: {url: "https://example.org/tiny.gguf"}
server: {ctx_size: 4096, parallel: 2}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test stands in a repository of its own: messages show short paths."""
    (tmp_path / ".git").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(**files: str) -> None:
    for name, text in files.items():
        Path(f"{name}.yaml").write_text(text, "utf-8")


def check(path: str, expect: str) -> None:
    """Loading this path has exactly these problems."""
    with pytest.raises(StackError) as raised:
        load(Path(path))
    assert diagnostics_text(raised.value.problems) == expect


def test_a_missing_file_names_its_neighbour() -> None:
    write(prod=BASE)
    check(
        "prd.yaml",
        "prd.yaml:1:1: error: there is no file `prd.yaml`\n"
        "  hint: did you mean `prod.yaml`?\n",
    )


def test_a_missing_folder_is_named() -> None:
    check(
        "no/s.yaml",
        "no/s.yaml:1:1: error: there is no file `no/s.yaml`\n"
        "  hint: there is no folder `no`\n",
    )


def test_a_directory_is_refused() -> None:
    Path("stacks").mkdir()
    check(
        "stacks",
        "stacks:1:1: error: `stacks` is a directory\n  hint: name the file in it\n",
    )


def test_a_device_is_refused() -> None:
    check("/dev/zero", "/dev/zero:1:1: error: `/dev/zero` is not a regular file\n")


def test_a_large_file_is_refused() -> None:
    Path("s.yaml").write_bytes(b"# " + b"x" * (10 << 20))
    check(
        "s.yaml",
        "s.yaml:1:1: error: `s.yaml` is larger than 1 MiB\n"
        "  hint: a stack is a few kilobytes: is this the file you mean?\n",
    )


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "loop/s.yaml"])
def test_a_path_that_is_none_is_refused(name: str) -> None:
    Path("loop").symlink_to("loop")
    with pytest.raises(StackError):
        load(Path(name))


def test_bytes_that_are_not_utf8_have_a_place() -> None:
    Path("s.yaml").write_bytes("version: 1\nname: ä\xff\n".encode("latin-1"))
    check(
        "s.yaml",
        "s.yaml:2:7: error: not UTF-8: byte 0xe4 at offset 17\n"
        "  hint: save the file as UTF-8\n",
    )


def test_a_control_character_has_a_place() -> None:
    Path("s.yaml").write_bytes(b"version: 1\r\nname: a\x1bb\n")
    check("s.yaml", "s.yaml:2:8: error: control character U+001B\n  hint: remove it\n")


def test_a_byte_order_mark_is_dropped() -> None:
    Path("s.yaml").write_bytes(BASE.encode("utf-8-sig"))
    assert load(Path("s.yaml")).places["version"] == Place("s.yaml", 1, 1)


def test_an_unclosed_list_says_where_it_begins() -> None:
    write(s="a: 1\nb: [1, 2\nc: 3\n")
    check(
        "s.yaml",
        "s.yaml:3:2: error: a list in `[` is not closed\n"
        "  hint: separate its items by `,` and close it with `]`; "
        "it begins in line 2, column 4\n",
    )


def test_own_values_win_and_every_value_keeps_its_place() -> None:
    write(base=BASE, s="extends: base.yaml\nname: own\nserver:\n  parallel: 4\n")
    found = load(Path("s.yaml"))
    server = found.stack.server
    assert server is not None
    assert (found.stack.name, server.ctx_size, server.parallel) == ("own", 4096, 4)
    assert found.places["server"] == Place("s.yaml", 3, 1)
    assert found.places["server.parallel"] == Place("s.yaml", 4, 3)
    assert found.places["server.ctx_size"] == Place("base.yaml", 6, 10)
    assert found.sources == (Path("s.yaml"), Path("base.yaml"))


def test_a_later_base_wins_and_lists_replace() -> None:
    write(
        base=f"{BASE}gpu: [L4, T4]\n",
        more="gpu: [H100]\nserver: {parallel: 8}\n",
        s="extends: [base.yaml, more.yaml]\n",
    )
    stack = load(Path("s.yaml")).stack
    assert stack.gpu == ("H100",)
    assert stack.server
    assert (stack.server.parallel, stack.server.ctx_size) == (8, 4096)


def test_null_removes_a_key_of_a_base() -> None:
    write(base=BASE, s="extends: base.yaml\nserver: {parallel: null}\n")
    found = load(Path("s.yaml"))
    assert found.stack.server
    assert found.stack.server.parallel is None
    assert "server.parallel" not in found.places


def test_null_in_a_base_removes_a_key_of_an_earlier_one() -> None:
    write(base=BASE, less="server: null\n", s="extends: [base.yaml, less.yaml]\n")
    assert load(Path("s.yaml")).stack.server is None


def test_bases_are_named_relative_to_the_file_that_names_them() -> None:
    Path("common").mkdir()
    Path("stacks").mkdir()
    Path("common/base.yaml").write_text("extends: deep.yaml\n", "utf-8")
    Path("common/deep.yaml").write_text(BASE.replace("b9763", "bad"), "utf-8")
    Path("stacks/s.yaml").write_text("extends: ../common/base.yaml\n", "utf-8")
    with pytest.raises(StackError) as raised:
        load(Path("stacks/s.yaml"))
    assert raised.value.problems[0].place == Place("common/deep.yaml", 4, 13)


def test_a_base_that_two_files_share_is_read_once() -> None:
    write(
        base=BASE,
        a="extends: base.yaml\n",
        b="extends: base.yaml\n",
        s="extends: [a.yaml, b.yaml]\n",
    )
    names = [str(path) for path in load(Path("s.yaml")).sources]
    assert names == ["s.yaml", "a.yaml", "base.yaml", "b.yaml"]


def test_a_cycle_is_shown() -> None:
    write(a="extends: b.yaml\n", b="x: 1\nextends: [c.yaml]\n", c="extends: a.yaml\n")
    check(
        "a.yaml",
        "c.yaml:1:1: error: files extend each other: "
        "`a.yaml` → `b.yaml` → `c.yaml` → `a.yaml`\n"
        "  hint: take one `extends` out\n",
    )


def test_a_chain_has_an_end() -> None:
    for number in range(40):
        write(**{f"n{number}": f"extends: n{number + 1}.yaml\n"})
    with pytest.raises(StackError, match="1 problem"):
        load(Path("n0.yaml"))


@pytest.mark.parametrize("name", ["../other.yaml", "/etc/hostname", "link.yaml"])
def test_a_base_outside_the_repository_is_refused(name: str, folder: Path) -> None:
    outside = folder.parent / "other.yaml"
    outside.write_text(BASE, "utf-8")
    Path("link.yaml").symlink_to(outside)
    write(s=f"extends: {name}\n")
    check(
        "s.yaml",
        f"s.yaml:1:1: error: `{name}` is outside the repository of the stack\n"
        "  hint: bases live in the same repository, else in the folder of the stack\n",
    )


def test_without_a_repository_bases_stay_in_the_folder(folder: Path) -> None:
    (folder / ".git").rmdir()
    Path("stacks").mkdir()
    write(base=BASE)
    Path("stacks/s.yaml").write_text("extends: ../base.yaml\n", "utf-8")
    with pytest.raises(StackError) as raised:
        load(Path("stacks/s.yaml"))
    assert "outside" in raised.value.problems[0].what


def test_a_missing_base_is_told_where_it_is_named() -> None:
    write(base=BASE, s="version: 1\nextends: bse.yaml\n")
    check(
        "s.yaml",
        "s.yaml:2:1: error: there is no file `bse.yaml`\n"
        "  hint: did you mean `base.yaml`?\n",
    )


@pytest.mark.parametrize("value", ["5", "true", "{a: b}", "[[a]]", "[5]"])
def test_what_names_no_base_is_told_once(value: str) -> None:
    write(base=f"extends: {value}\n{BASE}", s="extends: base.yaml\n")
    check(
        "s.yaml",
        "base.yaml:1:1: error: expected the path of a stack file, or a list of paths\n",
    )


def test_problems_of_all_files_are_told_at_once_sorted() -> None:
    write(
        base=f"{BASE}gpus: L4\n1: x\n",
        s="extends: base.yaml\nserver: {parallel: x}\nfoo: 1\n",
    )
    with pytest.raises(StackError) as raised:
        load(Path("s.yaml"))
    places = [str(problem.place) for problem in raised.value.problems]
    assert places == ["base.yaml:7:1", "base.yaml:8:1", "s.yaml:2:10", "s.yaml:3:1"]


def test_two_unreadable_files_are_both_told() -> None:
    write(a="x: [\n", b="y: {\n", s="extends: [a.yaml, b.yaml]\n")
    with pytest.raises(StackError) as raised:
        load(Path("s.yaml"))
    assert [p.place.file for p in raised.value.problems] == ["a.yaml", "b.yaml"]
