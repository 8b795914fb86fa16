"""The caches of every architecture that upstream tests, measured and computed.

    python -m scripts.architectures WORK [--write]

WORK is the folder of a build from source (`work/…` below DEPLOYER_HOME), with `source`
and `build` in it.  Upstream's `test-llama-archs` writes a tiny model of
random weights for each architecture, a second one with heads that predict further
tokens is made of some, and libllama allocates the caches of each.  The sizes in its log
are printed beside ours; `--write` records them, with the keys of the headers that
decide them, for `tests/gguf/test_architectures.py`.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from gguf import GGUFReader, GGUFValueType, GGUFWriter

from deployer.gguf.facts import Model, model_of
from deployer.gguf.header import Array, Header, local, read_header
from deployer.gguf.memory import Serving, cache_layers, untold_cache

RECORD = Path(__file__).parents[1] / "tests/gguf/architectures.json"
MIB = 1024 * 1024
_F16, _Q8_0 = 1, 8
_CONTEXT = 4096
_TOLERANCE, _ROUNDED = 0.02, 0.011
"""Share that may be off, and MiB of what the log rounds."""


@dataclass(frozen=True)
class Run:
    """One way to serve a model: for libllama, and as we compute it."""

    slots: int
    unified: bool
    kind: int
    serving: Serving
    rollback: int = 0

    @property
    def words(self) -> tuple[str, ...]:
        """Words for `architectures.cpp`, after the name of the run."""
        shared = str(int(self.unified))
        values = (str(_CONTEXT), str(self.slots), shared, str(self.kind))
        return (*values, str(self.rollback))


_PLAIN = Serving(ctx_size=_CONTEXT)
RUNS: Mapping[str, Run] = {
    "unified": Run(
        4, unified=True, kind=_F16, serving=replace(_PLAIN, parallel=4, kv_unified=True)
    ),
    "split": Run(2, unified=False, kind=_F16, serving=replace(_PLAIN, parallel=2)),
    "quantised": Run(
        1,
        unified=False,
        kind=_Q8_0,
        serving=replace(_PLAIN, parallel=1, cache_type_k="q8_0", cache_type_v="q8_0"),
    ),
}
WITH_HEADS: Mapping[str, Run] = {
    "unified": RUNS["unified"],
    "mtp": replace(
        RUNS["split"],
        rollback=3,
        serving=replace(RUNS["split"].serving, predicts=True, rollback=3),
    ),
}
"""Runs of models with heads; `mtp` is what the context of the heads takes as well."""
HEADS = (
    *("deepseek32-moe", "glm-dsa-moe", "glm4-dense", "glm4moe-moe", "hy_v3-moe"),
    *("mimo2-moe", "qwen35-dense", "qwen35moe-moe", "qwen3next-moe"),
)
"""Models of which another one with a head is made."""
_KEYS = re.compile(
    r"block_count|embedding_length|context_length|feed_forward_length"
    r"|attention\.(head_count(_kv)?|(key|value)_length(_swa|_mla)?|sliding_window.*"
    r"|shared_kv_layers|recurrent_layers|indexer\.(key_length|types|kpool))"
    r"|ssm\.\w+|kda\.head_dim|shortconv\.l_cache|wkv\.head_size|token_shift_count"
    r"|full_attention_interval|nextn_predict_layers|leading_dense_block_count"
    r"|ple\.(layers|conv_kernel|ngram_size)|hyper_connection\.count"
)
"""Keys of a header that decide caches, below the name of the architecture."""


def measured(work: Path, folder: Path) -> dict[str, Any]:
    """Write the models, and return the record of what each takes."""
    writer = compiled(work, work / "source/tests/test-llama-archs.cpp", folder)
    meter = compiled(work, Path(__file__).with_suffix(".cpp"), folder)
    (folder / "models").mkdir()
    subprocess.run(
        [writer, "-o", folder / "models"], check=True, capture_output=True, text=True
    )
    found = {}
    for file in sorted((folder / "models").glob("*.gguf")):
        found[file.stem] = _recorded(meter, file, RUNS)
        if file.stem in HEADS:
            headed = with_head(file, file.with_name(f"{file.stem}+mtp.gguf"))
            found[headed.stem] = _recorded(meter, headed, WITH_HEADS)
            headed.unlink()
        file.unlink()
    return found


def compiled(work: Path, source: Path, folder: Path) -> Path:
    """Compile a program against the libraries of the build."""
    program, tree = folder / source.stem, work / "source"
    includes = ("include", "ggml/include", "common", "src", "vendor")
    libraries = ("llama", "llama-common", "ggml", "ggml-base")
    built = work / "build/bin"
    subprocess.run(
        [
            os.environ.get("CXX", "c++"),
            *("-O1", "-std=c++17", str(source), "-o", str(program)),
            *(f"-I{tree / it}" for it in includes),
            *(f"-L{built}", f"-Wl,-rpath,{built}", *(f"-l{it}" for it in libraries)),
        ],
        check=True,
    )
    return program


def with_head(model: Path, into: Path) -> Path:
    """Copy a model with one layer more: a head like its last layer with attention."""
    read = GGUFReader(model)
    name = str(read.fields["general.architecture"].contents())
    made = GGUFWriter(into, name)
    count = int(read.fields[f"{name}.block_count"].contents())
    width = int(read.fields[f"{name}.embedding_length"].contents())
    attending = (it.name for it in read.tensors if ".attn_output.weight" in it.name)
    last = max(int(it.split(".")[1]) for it in attending)
    for key, field in read.fields.items():
        value, kind = field.contents(), field.types[0]
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        if key == f"{name}.block_count":
            value = count + 1
        elif key == f"{name}.nextn_predict_layers":
            value = 1
        if kind is GGUFValueType.ARRAY:
            if len(value) == count and key.startswith(f"{name}."):
                value = [*value, value[last]]
            if [*value]:
                made.add_key_value(key, value, kind, field.types[-1])
            continue
        made.add_key_value(key, value, kind)
    for tensor in read.tensors:
        made.add_tensor(tensor.name, np.array(tensor.data))
        if tensor.name.startswith(f"blk.{last}."):
            again = tensor.name.replace(f"blk.{last}.", f"blk.{count}.")
            made.add_tensor(again, np.array(tensor.data))
    head = f"blk.{count}.nextn"
    made.add_tensor(f"{head}.eh_proj.weight", np.zeros((width, 2 * width), np.float32))
    for norm in ("enorm", "hnorm", "shared_head_norm"):
        made.add_tensor(f"{head}.{norm}.weight", np.ones(width, np.float32))
    made.write_header_to_file()
    made.write_kv_data_to_file()
    made.write_tensors_to_file()
    made.close()
    return into


def _recorded(meter: Path, file: Path, runs: Mapping[str, Run]) -> dict[str, Any]:
    words = [word for name, run in runs.items() for word in (name, *run.words)]
    asked = [str(meter), str(file), *words]
    if "mtp" in runs:  # the model keeps states to take drafts back beside the heads
        asked += ["trunk", *runs["mtp"].words]
    said = subprocess.run(asked, check=False, capture_output=True, text=True).stdout
    sizes = {}
    for part in re.split("^= ", said, flags=re.MULTILINE)[1:]:
        if "made" in part:
            caches = re.findall(r"(?:KV|RS|state) buffer size = *([\d.]+)", part)
            sizes[part.split()[0]] = round(sum(map(float, caches)), 2)
    if "trunk" in sizes and "mtp" in sizes:
        sizes["mtp"] = round(sizes["mtp"] + sizes.pop("trunk"), 2)
    with local(file) as stream:
        values = read_header(stream).values
    name = str(values["general.architecture"])
    kept = {
        key: [*(value.items or ())] if isinstance(value, Array) else value
        for key, value in values.items()
        if _KEYS.fullmatch(key.removeprefix(f"{name}."))
        and value not in (0, False)
        and not (isinstance(value, Array) and value.items is None)
    }
    return {"architecture": name, "header": kept, "MiB": sizes}


def model_in(record: Mapping[str, Any]) -> Model:
    """The model whose header was recorded."""
    values = {
        key: Array("i32", len(value), tuple(value))
        if isinstance(value, list)
        else value
        for key, value in record["header"].items()
    }
    values["general.architecture"] = record["architecture"]
    return model_of([Header(3, values, (), 0, None, 0)])


def computed(record: Mapping[str, Any], run: Run) -> float:
    """MiB of the caches as we compute them."""
    return sum(cache_layers(model_in(record), run.serving)) / MIB


@dataclass(frozen=True)
class Row:
    """One run of one model."""

    model: str
    run: str
    real: float
    ours: float
    unknown: str
    """Why it is told as not computed in full; empty where it is."""

    @property
    def agrees(self) -> bool:
        """Return whether both are the same but for what rounding explains."""
        return abs(self.ours - self.real) <= _TOLERANCE * self.real + _ROUNDED


def rows(record: Mapping[str, Any]) -> Iterator[Row]:
    """Every run that libllama carried out, beside what we compute for it."""
    for name, one in record.items():
        runs = WITH_HEADS if name.endswith("+mtp") else RUNS
        for run, size in one["MiB"].items():
            unknown = untold_cache(model_in(one))
            yield Row(name, run, size, computed(one, runs[run]), unknown)


def main(work: str, *words: str) -> None:
    """Measure, print the table, and record it with `--write`."""
    with TemporaryDirectory() as folder:
        record = measured(Path(work), Path(folder))
    every = [*rows(record)]
    for row in every:
        sign = "✔" if row.agrees else "?" if row.unknown else "✖"
        print(f"{sign} {row.model:<24}{row.run:<11}{row.real:8.2f}{row.ours:8.2f}")  # noqa: T201
    good = sum(row.agrees for row in every)
    known = {one["architecture"] for one in record.values()}
    print(f"{good} of {len(every)} runs of {len(known)} architectures agree")  # noqa: T201
    if "--write" in words:
        lines = (f"{json.dumps(it)}: {json.dumps(one)}" for it, one in record.items())
        RECORD.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
