"""What took the place of an option of llama-server that was renamed or removed."""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rename:
    """Two ways to say the same, on older and on newer builds."""

    old: str
    new: str
    """Words; empty where nothing takes its place."""
    pull: int
    """Number of the pull request at ggml-org/llama.cpp; 0 where it is not known."""


RENAMES: tuple[Rename, ...] = (
    Rename("--mmap", "--load-mode mmap", 20834),
    Rename("--no-mmap", "--load-mode none", 20834),
    Rename("--mlock", "--load-mode mmap+mlock", 26135),
    Rename("--direct-io", "--load-mode dio", 20834),
    Rename("-dio", "--load-mode dio", 20834),
    Rename("--no-direct-io", "--load-mode mmap", 20834),
    Rename("-ndio", "--load-mode mmap", 20834),
    Rename("--draft", "--spec-draft-n-max", 22397),
    Rename("--draft-n", "--spec-draft-n-max", 22397),
    Rename("--draft-max", "--spec-draft-n-max", 22397),
    Rename("--draft-min", "--spec-draft-n-min", 22397),
    Rename("--draft-n-min", "--spec-draft-n-min", 22397),
    Rename("--spec-ngram-size-n", "--spec-ngram-simple-size-n", 22397),
    Rename("--spec-ngram-size-m", "--spec-ngram-simple-size-m", 22397),
    Rename("--spec-ngram-min-hits", "--spec-ngram-simple-min-hits", 22397),
    Rename("--model-draft", "--spec-draft-model", 22397),
    Rename("--hf-repo-draft", "--spec-draft-hf", 22397),
    Rename("--n-gpu-layers-draft", "--spec-draft-ngl", 22397),
    Rename("--device-draft", "--spec-draft-device", 22397),
    Rename("--threads-draft", "--spec-draft-threads", 22397),
    Rename("--threads-batch-draft", "--spec-draft-threads-batch", 22397),
    Rename("--draft-p-min", "--spec-draft-p-min", 22397),
    Rename("--cache-type-k-draft", "--spec-draft-type-k", 22397),
    Rename("--cache-type-v-draft", "--spec-draft-type-v", 22397),
    Rename("--override-tensor-draft", "--spec-draft-override-tensor", 22397),
    Rename("--cpu-moe-draft", "--spec-draft-cpu-moe", 22397),
    Rename("--n-cpu-moe-draft", "--spec-draft-n-cpu-moe", 22397),
    Rename("--ctx-size-draft", "", 22787),
    Rename("-cd", "", 22787),
    Rename("--spec-draft-ctx-size", "", 22787),
    Rename("--spec-replace", "", 22787),
    Rename("--spec-draft-replace", "", 22787),
    Rename("--clear-idle", "--cache-idle-slots", 21741),
    Rename("--no-clear-idle", "--no-cache-idle-slots", 21741),
    Rename("--checkpoint-every-n-tokens", "--checkpoint-min-step", 22929),
    Rename("-cpent", "--checkpoint-min-step", 22929),
    Rename("--webui", "--ui", 0),
    Rename("--no-webui", "--no-ui", 0),
    Rename("--webui-config", "--ui-config", 0),
    Rename("--webui-config-file", "--ui-config-file", 0),
    Rename("--webui-mcp-proxy", "--ui-mcp-proxy", 0),
    Rename("--no-webui-mcp-proxy", "--no-ui-mcp-proxy", 0),
    Rename("--tensor-read-lazy", "--lazy-mode", 27969),
)
"""Read in ``common/arg.cpp`` of the builds before and after, and in the pull requests.

`mlock` alone stopped meaning `mmap` too in #26135.  What #22787 proposed came with
its successors: the context of a draft model is no longer sized on its own.
"""


def newer(spelling: str) -> Iterator[str]:
    """The words that newer builds want instead of this option."""
    return (r.new for r in RENAMES if r.old == spelling and r.new)


def older(spelling: str, value: str = "") -> Iterator[str]:
    """The options of older builds that say the same, with this value if it is given."""
    wanted = (spelling, f"{spelling} {value}")
    for rename in RENAMES:
        same = rename.new.partition(" ")[0] == spelling
        if same and (not value or rename.new in wanted):
            yield rename.old
