"""`deployer explain model` and `deployer fit`, and what a plan says and refuses."""

import json
import re
from pathlib import Path

import pytest

from deployer.stack.fields.values import JsonValue
from tests.cli.project import STACK, Project
from tests.gguf.files import Typed, header, laid_out

GPU = """\
version: 1
name: big
engine: local

llama_cpp: {tag: b10434, binary: BINARY}
model:
  path: big.gguf
gpu: L4
server:
  ctx_size: 131072
  parallel: 1
"""


def write_model(path: Path, *, name: str = "llama", mib: int = 64) -> None:
    """A model of some size: a header, and a hole behind it."""
    values: dict[str, Typed] = {
        "general.architecture": name,
        f"{name}.block_count": ("u32", 32),
        f"{name}.context_length": ("u32", 131072),
        f"{name}.embedding_length": ("u32", 4096),
        f"{name}.feed_forward_length": ("u32", 14336),
        f"{name}.attention.head_count": ("u32", 32),
        f"{name}.attention.head_count_kv": ("u32", 4),
        "tokenizer.ggml.tokens": ["a", "b"],
        "tokenizer.chat_template": "{{ messages }}",
    }
    size = mib * 1024**2 // 32
    shape = (size // 34 * 32, 1)
    tensors = laid_out(
        {f"blk.{n}.ffn_up.weight": (shape, 8, size // 34 * 34) for n in range(32)}
    )
    head = header(values, tensors)
    with path.open("wb") as stream:
        stream.write(head)
        stream.truncate(len(head) + 32 + tensors[-1][3] + size)


@pytest.fixture
def big(paper: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A stack for an L4, with small weights and a large cache."""
    monkeypatch.chdir(paper.folder)
    write_model(paper.stack.parent / "big.gguf")
    paper.write(GPU, "big")
    return paper


def fit_of(project: Project, *words: str) -> list[dict[str, JsonValue]]:
    return project.run("fit", "stacks/big.yaml", "--json", *words).results()


def test_a_plan_says_in_one_line_whether_it_fits(big: Project) -> None:
    done = big.run("plan", "stacks/big.yaml")
    (line,) = [line for line in done.out.splitlines() if "≤ fits" in line]
    assert re.fullmatch(
        r"  ≤ fits     L4 24 GB: weights 0\.1 \+ KV 8\.0 \+ compute 0\.7"
        r" \+ margin 1\.0 = 9\.\d GiB \(4\d %\)",
        line,
    )
    markdown = big.run("plan", "stacks/big.yaml", "--format", "markdown").out
    assert "  fits     L4 24 GB: weights 0.1 + KV 8.0" in markdown
    (plan,) = big.run("plan", "stacks/big.yaml", "--json").results()
    assert plan["fit"]["fits"] is True
    assert plan["fit"]["parts"]["KV"] == 8 * 1024**3


def test_what_does_not_fit_is_refused_with_ways_out(big: Project) -> None:
    """File and line, the sum, and three changes with what they lead to."""
    text = GPU.replace("131072", "524288")
    big.write(text, "big")
    for command in (["plan"], ["apply", "--yes"]):
        done = big.run(command[0], "stacks/big.yaml", *command[1:])
        assert done.code == 3
        assert done.out == ""
        *_, hint = done.err.splitlines()
        head = next(it for it in done.err.splitlines() if "error: " in it)
        assert head.startswith(
            "stacks/big.yaml:8:1: error: the model does not fit: L4 24 GB: weights 0.1"
        )
        ways = hint.removeprefix("  hint: ").split(", or ")
        assert len(ways) == 3
        assert ways[0].startswith("`server.ctx_size: 262144` (")
        assert ways[1].startswith(
            "`server.cache_type_k: q8_0` and `server.cache_type_v: q8_0` ("
        )
        assert re.match(
            r"`gpu: L40S` \(3\d\.\d GiB of 44\.7 GiB, \+\$1\.15/h\)", ways[2]
        )


def test_a_way_out_that_is_taken_leads_out(big: Project) -> None:
    big.write(GPU.replace("131072", "262144"), "big")
    assert big.run("plan", "stacks/big.yaml").code == 0


def test_fit_part_by_part(big: Project) -> None:
    done = big.run("fit", "stacks/big.yaml")
    assert done.code == 0
    lines = done.out.splitlines()
    assert re.fullmatch(r"L4 24 GB: fits, 9\.\d GiB of 22\.4 GiB \(4\d %\)", lines[0])
    assert "  KV                   8.0 GiB" in lines
    assert "  prompt cache         8.0 GiB" in lines


def test_fit_says_no_and_is_no_error(big: Project) -> None:
    """It is asked to find out; `plan` is what refuses."""
    big.write(GPU.replace("131072", "524288"), "big")
    done = big.run("fit", "stacks/big.yaml")
    assert done.code == 0
    assert "L4 24 GB: does not fit, " in done.out
    assert "hint: `server.ctx_size: 262144`" in done.out


def test_the_matrix_fits_100_columns_and_says_what_fits(big: Project) -> None:
    big.write(GPU.replace("131072", "524288"), "big")
    wide = {"COLUMNS": "100"}
    done = big.run("fit", "stacks/big.yaml", "--matrix", env=wide)
    assert max(map(len, done.out.splitlines())) <= 100
    rows = {line.split("  ")[0].strip(): line for line in done.out.splitlines()}
    assert {"GiB with f16 KV", "GiB with q4_0 KV"} < rows.keys()
    assert rows["GPU"].split()[-2:] == ["128k", "512k*"]
    best = {name: row.split()[-2] for name, row in rows.items() if " GB" in name}
    assert best["T4 16 GB"] == "q4_0"
    assert best["L4 24 GB"] == "q8_0"
    assert best["L40S 48 GB"] == "f16"


def test_the_matrix_as_json(big: Project) -> None:
    fit, *cells = fit_of(big, "--matrix")
    assert fit["type"] == "fit"
    assert len(cells) == 11 * 6 * 3
    assert cells[0] == {
        "type": "cell",
        "gpu": "T4",
        "count": 1,
        "ctx_size": 4096,
        "cache_type": "f16",
        "total": cells[0]["total"],
        "capacity": 16 * 10**9,
        "fits": True,
        "usd_per_hour": 0.5904,
    }


def test_gguf_of_a_file_and_of_a_stack(big: Project) -> None:
    done = big.run("explain", "model", "stacks/big.gguf")
    assert done.out.splitlines()[:3] == [
        "big.gguf",
        "  architecture  llama",
        "  quantisation  Q8_0",
    ]
    (model,) = big.run("explain", "model", "stacks/big.gguf", "--json").results()
    assert model["facts"]["block_count"] == 32
    assert model["headers"][0]["tensors"] == 32
    assert "llama" in big.run("explain", "model", "stacks/big.yaml").out


def test_gguf_of_nothing_and_of_no_gguf(big: Project) -> None:
    done = big.run("explain", "model", "what is this")
    assert (done.code, done.out) == (3, "")
    assert "is no file, address, repository or stack" in done.err
    (big.folder / "x.gguf").write_bytes(b"GGUF" + bytes(40))
    done = big.run("explain", "model", "x.gguf")
    assert done.code == 1
    assert done.err == (
        "error: `x.gguf`: broken GGUF header at byte 8: version 0 is not known"
        " (2 and 3 are)\n"
    )


def test_an_architecture_that_the_binary_lacks_is_refused(big: Project) -> None:
    """The judge is the binary at hand; this one holds no names, so the table is."""
    write_model(big.stack.parent / "big.gguf", name="gemma9")
    done = big.run("plan", "stacks/big.yaml")
    assert done.code == 3
    lines = done.err.splitlines(keepends=True)
    head = next(it for it in lines if "error: " in it)
    assert head + lines[-1] == (
        "stacks/big.yaml:5:13: error: `b10434` does not know the architecture"
        " `gemma9` (by the table up to b11549)\n"
        "  hint: no build up to b11549 does: take a newer one, or other weights\n"
    )


def test_a_build_before_the_architecture_is_told_the_first_one(big: Project) -> None:
    write_model(big.stack.parent / "big.gguf", name="gemma4")
    big.write(GPU.replace("b10434", "b8500"), "big")
    assert big.run("lock", "stacks/big.yaml").code == 0
    for command in ("plan", "validate"):
        done = big.run(command, "stacks/big.yaml")
        assert done.code == 3
        assert "`b8500` does not know the architecture `gemma4`" in done.err
        assert "hint: write `tag: b8646` or later" in done.err


def test_gates_that_the_template_cannot_pass_are_told(big: Project) -> None:
    big.write(GPU + "gates: {chat: {}, tools: {}, thinking: {}}\n", "big")
    done = big.run("plan", "stacks/big.yaml")
    notes = [
        it for it in done.out.splitlines() if it.startswith("note: stacks/big.yaml:")
    ]
    start = "note: stacks/big.yaml:12: gate "
    assert notes == [
        f"{start}`thinking` will fail: the chat template knows no thinking",
        f"{start}`tools` will fail: the chat template shows no tools to the model",
    ]


def test_a_lock_file_without_header_facts_is_not_outdated(big: Project) -> None:
    """Older lock files hold none; keys and `--locked` do not see the difference."""
    assert big.run("lock", "stacks/big.yaml").code == 0
    lock = big.stack.with_name("big.lock.json")
    (with_facts,) = big.run("plan", "stacks/big.yaml", "--json").results()
    content = json.loads(lock.read_text())
    assert content["weights"]["about"].pop("gguf")["model"]["block_count"] == 32
    lock.write_text(json.dumps(content))
    done = big.run("plan", "stacks/big.yaml", "--json", "--locked")
    assert done.code == 0
    (without,) = done.results()
    assert [c["key"] for c in without["changes"]] == [
        c["key"] for c in with_facts["changes"]
    ]


def test_weights_of_this_machine_that_have_no_room_here(paper: Project) -> None:
    """Without a GPU everything has to be in the memory of this machine."""
    write_model(paper.stack.parent / "tiny.gguf")
    paper.write(STACK.replace("ctx_size: 1024", "ctx_size: 100000000"))
    done = paper.run("plan", "stacks/demo.yaml")
    assert done.code == 3
    assert (
        "stacks/demo.yaml:14:3: error: the model does not fit: this machine" in done.err
    )
    assert "hint: `server.ctx_size: " in done.err


@pytest.mark.parametrize("slots", [1, 2])
def test_a_suggestion_holds_and_one_step_more_does_not(
    big: Project, slots: int
) -> None:
    text = GPU.replace("parallel: 1", f"parallel: {slots}")
    big.write(text, "big")
    _, first, *_ = fit_of(big)
    assert first["type"] == "suggestion"
    assert first["gpu"] == "T4"
    assert first["cache_type"] == "f16"

    def holds(context: object, parallel: object) -> JsonValue:
        changed = text.replace("131072", str(context)).replace("gpu: L4", "gpu: T4")
        big.write(changed.replace(f"parallel: {slots}", f"parallel: {parallel}"), "big")
        fit, *_ = fit_of(big)
        return fit["fits"]

    context, most = first["largest_ctx_size"], first["most_slots"]
    assert isinstance(context, int)
    assert isinstance(most, int)
    each = 131072 // slots
    assert holds(context, slots)
    assert context == 131072 * slots or not holds(context * 2, slots)
    assert holds(each * most, most)
    assert not holds(each * (most + 1), most + 1)


def test_suggestions_are_printed_with_their_price(big: Project) -> None:
    out = big.run("fit", "stacks/big.yaml").out
    assert "holds it, and the most of it:" in out
    assert re.search(
        r"\n  T4 16 GB, \$0\.59/h: f16 KV, \d+ % used; a context up to", out
    )
    big.write(GPU.replace("gpu: L4\n", ""), "big")
    out = big.run("fit", "stacks/big.yaml").out
    assert "\n  this machine: f16 KV," in out
    assert "$" not in out


def test_a_cache_that_takes_less_is_suggested_where_the_own_does_not_fit(
    big: Project,
) -> None:
    big.write(GPU.replace("131072", "262144"), "big")
    _, first, second, *_ = fit_of(big)
    assert (first["gpu"], first["cache_type"]) == ("T4", "q8_0")
    assert (second["gpu"], second["cache_type"]) == ("L4", "f16")


@pytest.mark.parametrize("kinds", ["", "  cache_type_k: q8_0\n  cache_type_v: q8_0\n"])
def test_the_matrix_and_fit_agree(big: Project, kinds: str) -> None:
    big.write(GPU + kinds, "big")
    fit, *cells = fit_of(big, "--matrix")
    kind = "q8_0" if kinds else "f16"
    (own,) = (
        it
        for it in cells
        if (it["gpu"], it["ctx_size"], it["cache_type"]) == ("L4", 131072, kind)
    )
    assert (own["total"], own["capacity"]) == (fit["total"], fit["capacity"])


def test_the_matrix_says_what_fit_counts_otherwise(big: Project) -> None:
    big.write(f"{GPU}  cache_type_k: q8_0\n", "big")
    out = big.run("fit", "stacks/big.yaml", "--matrix").out
    assert "the stack has q8_0 keys and f16 values, and the table one type" in out
    big.write(GPU.replace("gpu: L4\n", ""), "big")
    out = big.run("fit", "stacks/big.yaml", "--matrix").out
    assert "the stack runs without a GPU: this machine needs" in out


def test_what_a_release_was_measured_to_take_is_shown_beside(
    project: Project,
) -> None:
    project.write(f"{STACK}  memory: {{}}\n")
    applied = project.run("apply", "stacks/demo.yaml", "--yes")
    assert applied.code == 0, applied.out + applied.err
    _, measured, *_ = project.run("fit", "stacks/demo.yaml", "--json").results()
    assert (measured["type"], measured["release"]) == ("measured", 1)
    assert measured["same"] is True
    assert measured["taken"] > 0
    line = "measured: release 1 took "
    assert f"{line}" in (out := project.run("fit", "stacks/demo.yaml").out)
    assert "than is computed: expect that again" in out
    project.write(f"{STACK.replace('1024', '2048')}  memory: {{}}\n")
    out = project.run("fit", "stacks/demo.yaml").out
    assert "of main memory, with other weights or options" in out
