"""Logs to causes.

The files under tests/data/logs are of real runs, their paths replaced and their
middles cut out: llama-server b8672 (compiled from the package index) and b10434
(ready-made), gates of deployer, and CRIU 4.2.  Lines of programs that cannot be
provoked here stand below as they were published.
"""

from pathlib import Path

import pytest

from deployer.diagnostics import Severity
from deployer.llama.known.symptoms import (
    THEMES,
    likely_cause,
    markdown,
    symptoms,
    symptoms_in,
)

LOGS = Path(__file__).parents[1] / "data" / "logs"
HEALTHY = sorted((LOGS / "healthy").glob("*.log"))

OF_A_START = sorted(
    path for path in LOGS.glob("*.log") if path.name.split(".")[0] != path.stem
)
REQUESTS = {
    "b8672": [
        *("wrong-json", "prompt-too-long", "no-mmproj"),
        *("responses-tools-refused", "responses-stateless", "named-tool-ignored"),
        *("unknown-tool-choice", "thinking-not-boolean"),
    ],
    "b10434": [
        *("open-server", "outdated-template"),
        *("wrong-json", "prompt-too-long", "no-mmproj"),
        *("responses-tool-skipped", "responses-stateless", "named-tool-ignored"),
        *("unknown-tool-choice", "thinking-not-boolean"),
    ],
}
"""Symptoms of the logs in which one request of each kind went wrong, in order."""

PUBLISHED = {
    "refused-variable": (
        'error while handling environment variable "LLAMA_ARG_CTX_SIZE": stoi'
    ),
    "illegal-instruction": "bash: line 1: 4242 Illegal instruction (core dumped) llama",
    "no-cuda-driver": (
        "llama-server: error while loading shared libraries: libcuda.so.1: cannot open"
        " shared object file: No such file or directory"
    ),
    "newer-system": "llama-server: /lib/libc.so.6: version `GLIBC_2.38' not found",
    "old-cuda-driver": (
        "ggml_cuda_init: failed to initialize CUDA: CUDA driver version is insufficient"
        " for CUDA runtime version"
    ),
    "other-gpu": "CUDA error: no kernel image is available for execution on the device",
    "assertion": "/ggml/src/ggml.c:3420: GGML_ASSERT(a->ne[2] == b->ne[0]) failed",
    "variable-not-set": (
        "error: environment variable `LLAMA_API_KEY` (API key) is not set"
    ),
    "loading": (
        '{"error":{"message":"Loading model","type":"unavailable_error","code":503}}'
    ),
    "thinking-invisible": (
        "  ✖ fail  thinking  2.1 s  no reasoning came with thinking on, though the chat"
        " template can think"
    ),
    "empty-answer": (
        "  ✖ fail  chat  1.4 s  only thinking came within 64 tokens, no answer; raise"
        " `gates.chat.max_tokens`"
    ),
    "stale-build": (
        "  ✖ fail  build  3 ms  the server is `b8672-unknown`, the stack pins `b10434`"
    ),
    "no-build-number": "version: 0.1.0-dev (build 1, commit 7e4c0a9)",
    "endpoint-off": (
        '{"error":{"code":501,"message":"This server does not support metrics'
        ' endpoint. Start it with `--metrics`","type":"not_supported_error"}}'
    ),
    "request-too-slow": "HTTP/1.1 408 Request Timeout",
    "deprecated-option": (
        "0.00.002.858 W DEPRECATED: --mmap and --no-mmap are deprecated. use"
        " --load-mode mmap instead"
    ),
    "no-fast-download": (
        "Xet Storage is enabled for this repo, but the 'hf_xet' package is not"
        " installed. Falling back to regular HTTP download."
    ),
    "gated-model": (
        "Access to model google/gemma-4-26B-A4B-it is restricted. You must have access"
        " to it and be authenticated to access it."
    ),
    "disk-full": "OSError: [Errno 28] No space left on device: '/vol/model.gguf'",
    "killed-for-memory": (
        "[ 8123.441] Out of memory: Killed process 4242 (llama-server)"
        " total-vm:41943040kB, anon-rss:33554432kB"
    ),
    "restore-9p": (
        "restoring container: failed to complete restore for filesystem type"
        ' "9p": failed to walk "/vol/models/model.gguf": no such file or directory'
    ),
    "restore-modal": "Runner failed with exit code: 128",
    "snapshot-ephemeral": "Memory snapshots are disabled for ephemeral apps.",
    "snapshot-many-gpus": (
        "GPU memory snapshots are not supported for Functions with more than one GPU."
    ),
    "open-server": (
        "W srv  llama_server: security: no API key is set and CORS allows all origins"
    ),
    "snapshot-too-long": "Runner heartbeat timeout: 1800 seconds",
    "modal-redirect": "modal-http: bad redirect method",
    "modal-no-token": (
        "Token missing. Could not authenticate client. If you have token credentials,"
        " see modal.com/docs/reference/modal.config"
    ),
    "gateway-timeout": "error code: 524 A timeout occurred",
    "restore-criu-cpu": (
        "Error (criu/cpu.c:341): cpu: Feature set mismatch between image and runtime"
    ),
    "restore-criu": "Error (criu/cr-restore.c:2331): Restoring FAILED.",
}


def ids(lines: list[str]) -> list[str]:
    return [seen.symptom.id for seen in symptoms_in(lines)]


def read(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("path", HEALTHY, ids=lambda path: path.stem)
def test_the_log_of_a_healthy_run_raises_no_alarm(path: Path) -> None:
    alarms = [s for s in symptoms_in(read(path)) if s.symptom.severity != Severity.NOTE]

    # Builds since b10434 say it themselves; the runs were made without a key.
    assert [s.symptom.id for s in alarms if s.symptom.id != "open-server"] == []


def test_ten_healthy_runs_are_looked_at() -> None:
    assert len(HEALTHY) >= 10


@pytest.mark.parametrize(
    "path",
    [
        path
        for path in sorted(LOGS.glob("*.log"))
        if not path.name.startswith(("requests", "gates"))
    ],
    ids=lambda path: path.stem,
)
def test_a_real_log_shows_the_symptom_it_is_named_after(path: Path) -> None:
    aside = ("outdated-template", "open-server")
    found = [s for s in symptoms_in(read(path)) if s.symptom.id not in aside]

    assert [s.symptom.id for s in found] == [path.name.split(".")[0]]
    assert found[0].line > 0
    assert "\\" not in found[0].symptom.meaning


@pytest.mark.parametrize("build", REQUESTS)
def test_each_wrong_request_shows(build: str) -> None:
    assert ids(read(LOGS / f"requests.{build}.log")) == REQUESTS[build]


def test_what_gates_of_a_patched_and_an_unpatched_build_print_is_understood() -> None:
    found = ids(read(LOGS / "gates.b8672.log"))

    assert found == ["budget-ignored", "raw-call"]


@pytest.mark.parametrize(("name", "line"), PUBLISHED.items())
def test_a_published_line_shows_its_symptom(name: str, line: str) -> None:
    assert ids(["something before", line]) == [name]


def test_every_symptom_has_a_log_or_a_line() -> None:
    shown = {*PUBLISHED, *(path.name.split(".")[0] for path in LOGS.glob("*.log"))}
    shown |= {name for names in REQUESTS.values() for name in names}
    shown |= {"budget-ignored", "raw-call"}

    assert {symptom.id for symptom in symptoms()} - shown == set()


def test_the_page_of_the_docs_is_the_table() -> None:
    """`deployer doctor --runbook > docs/runbook.md` writes it anew."""
    page = (LOGS.parents[2] / "docs" / "runbook.md").read_text(encoding="utf-8")

    assert page == markdown()
    assert {symptom.theme for symptom in symptoms()} == set(THEMES)


def test_names_are_told_apart() -> None:
    names = [symptom.id for symptom in symptoms()]

    assert len(names) == len(set(names))
    assert {hidden for s in symptoms() for hidden in s.hides} <= set(names)


def test_a_symptom_says_how_often_and_where_it_was_first() -> None:
    line = "srv operator(): unauthorized: Invalid API Key"

    (seen,) = symptoms_in(["listening", line, "well", line])

    assert (seen.line, seen.times, seen.text) == (2, 2, line)


def test_a_picture_above_the_batch_is_why_a_server_died() -> None:
    lines = read(LOGS / "image-above-batch.b10434.log")

    cause = likely_cause(lines, -6)

    assert cause is not None
    assert "image" in cause.meaning
