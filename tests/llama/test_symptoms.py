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
    Symptom,
    likely_cause,
    own_refusals,
    read_log,
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


def test_thirty_healthy_logs_are_looked_at() -> None:
    """Those of real runs, and each again with every kind of words of a client."""
    assert len(HEALTHY) >= 10
    assert len(HEALTHY) * (1 + len(REPEATED)) >= 30


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
    aside = ("outdated-template", "open-server", "context-above-training")
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


EXPECTED = {
    "crash": ["crashed-in-log"],
    "no-gpu": ["no-gpu-found"],
    "compose": ["value-without-option"],
    "cuda-access": ["gpu-memory-access"],
    "parse": ["unparsed-answer"],
    "grammar": ["grammar-stack"],
    "jinja": ["template-system-first"],
    "embeddings": ["embedding-too-long"],
    "responses": ["responses-item", "responses-tool-output"],
    "tensors": ["tensor-count"],
    "kubernetes": ["probe-failed", "killed-in-container"],
    "router": ["router-too-many", "router-child"],
    "draft-option": ["draft-option-gone"],
    "container": ["container-without-gpu"],
    "hub": ["hub-not-found"],
    "cuda-start": ["gpu-not-started"],
    "cuda-none": ["gpu-not-started"],
    "router-home": ["router-no-cache"],
    "https": ["no-tls"],
    "mtp": ["no-mtp-head"],
    "slow": ["request-too-slow"],
    "pinned": [],
    "embeddings.b11434": ["open-server", "embedding-too-long"],
    "strict.b11434": [
        *("open-server", "template-system-first", "responses-item"),
        *("schema-incomplete", "grammar-refused"),
    ],
}
"""Logs of public issues and of a server that was made to fail, and their symptoms."""


@pytest.mark.parametrize("name", EXPECTED)
def test_a_log_of_a_public_issue_shows_its_cause_and_nothing_else(name: str) -> None:
    found = read_log(read(LOGS / "published" / f"{name}.log"))

    assert [seen.symptom.id for seen in found.seen] == EXPECTED[name]
    assert found.unknown == ()


@pytest.mark.parametrize("symptom", [s for s in symptoms() if s.excerpt])
def test_an_excerpt_shows_its_symptom(symptom: Symptom) -> None:
    found = read_log(["something before", symptom.excerpt])

    assert [seen.symptom.id for seen in found.seen] == [symptom.id]
    assert found.unknown == ()
    assert "\\" not in found.seen[0].symptom.meaning


def test_ninety_failures_are_looked_at() -> None:
    excerpts = [s for s in symptoms() if s.excerpt]
    logs = [p for p in LOGS.rglob("*.log") if p.parent.name != "healthy"]

    assert len(excerpts) >= 60
    assert len(excerpts) + len(PUBLISHED) + len(logs) >= 93


UNKNOWN = {
    "an error of the log": "0.01.000.000 E llama_new_thing: it went wrong",
    "an exception": "terminate called after throwing an instance of 'std::bad_cast'",
    "an error of CUDA": "CUDA error: operation not supported",
    "a refusal": "srv  log_server_r: done request: POST /v1/rerank 127.0.0.1 500",
    "an exit": "main: exiting due to model loading error",
    "a program of the user": "error: the volume was not mounted",
    "Python": "Traceback (most recent call last):",
    "an exit code": "llama-server exited with code 3",
}


@pytest.mark.parametrize("line", UNKNOWN.values(), ids=UNKNOWN)
def test_an_unknown_failure_is_shown_with_its_line(line: str) -> None:
    found = read_log(["listening", line, "more"])

    assert (found.seen, [it.line for it in found.unknown]) == ((), [2])


def test_an_unknown_failure_is_shown_beside_a_known_one() -> None:
    refused = "srv operator(): unauthorized: Invalid API Key"
    found = read_log([refused, *[""] * 9, UNKNOWN["an error of the log"]])

    assert [seen.symptom.id for seen in found.seen] == ["no-key-sent"]
    assert [it.line for it in found.unknown] == [11]


def test_an_empty_log_is_nothing_to_read() -> None:
    assert read_log([]).empty
    assert read_log(["", " "]).empty


WORDS = (
    "why: No space left on device, Out of memory: Killed process 7 (x), CUDA error: x"
)
REPEATED = {
    "a request": [
        f'srv log_server_r: request: {{"messages":[{{"content":"{WORDS}"}}]}}'
    ],
    "a prompt of many lines": ["prompt: 'why", WORDS, "terminate called after", "it?'"],
    "a debug line": [f"0.18.224.686 D slot process_toke: next token: '{WORDS}'"],
    "a parsed answer": [f'0.27.675.238 I Parsed message: {{"content":"{WORDS}"}}'],
    "a command of a user": [f'curl -d \'{{"prompt": "{WORDS}"}}\' localhost'],
}


@pytest.mark.parametrize("lines", REPEATED.values(), ids=REPEATED)
@pytest.mark.parametrize("path", HEALTHY, ids=lambda path: path.stem)
def test_the_words_of_a_client_raise_no_alarm(path: Path, lines: list[str]) -> None:
    log = read(path)
    found = read_log([*log[:-2], *lines, *log[-2:]])

    assert [s.symptom.id for s in found.seen if s.symptom.id != "open-server"] == []
    assert found.unknown == ()


REFUSED = "0.00.050.259 W srv    operator(): unauthorized: Invalid API Key"
TOO_LONG = (
    "0.02.883.742 E srv    send_error: task id = 0, error: request (2105 tokens)"
    " exceeds the available context size (2048 tokens), try increasing it"
)
WRONG = (
    '0.02.854.996 W srv    operator(): got exception: {"error":{"code":400,'
    '"message":"Invalid tool_choice: sometimes","type":"invalid_request_error"}}'
)


def own(*counts: int) -> str:
    return WRONG.replace("Invalid tool_choice: sometimes", own_refusals(*counts))


@pytest.mark.parametrize(
    ("lines", "times"),
    [
        ([*[REFUSED] * 5, own(5, 0, 0)], []),
        ([REFUSED, *["slot"] * 99, REFUSED, own(2, 0, 0), REFUSED, own(1, 0, 0)], []),
        ([*[REFUSED] * 5], [5]),  # of a client: as many as a gate asks for
        ([*[REFUSED] * 6, own(5, 0, 0)], [1]),
        ([REFUSED, own(1, 0, 0), REFUSED, REFUSED], [2]),
        ([REFUSED, own(9, 0, 0)], []),  # the beginning of the log is gone
        ([WRONG, TOO_LONG, TOO_LONG, own(0, 2, 1)], []),
        ([WRONG, TOO_LONG, TOO_LONG, own(0, 1, 0)], [1, 1]),
    ],
)
def test_the_refusals_that_deployer_asks_for_are_no_symptom(
    lines: list[str], times: list[int]
) -> None:
    found = read_log(["listening", *lines, "idle"])

    assert [seen.times for seen in found.seen] == times
    assert found.unknown == ()


def test_the_cause_is_the_error_nearest_to_the_first_failure() -> None:
    first = "0.01.000.000 E llama_model_load: error loading model: it cannot be read"
    last = "0.09.000.000 E srv start: couldn't bind HTTP server socket, hostname: x, port: 1"  # noqa: E501 - as it is printed
    near = "0.01.000.001 E load: unknown pre-tokenizer type: 'new'"

    cause = likely_cause([first, near, *[""] * 5, last], None)

    assert cause is not None
    assert cause.id == "pre-tokenizer"


@pytest.mark.parametrize(("name", "line"), PUBLISHED.items())
def test_a_published_line_shows_its_symptom(name: str, line: str) -> None:
    assert ids(["something before", line]) == [name]


def test_every_symptom_has_a_log_or_a_line() -> None:
    shown = {*PUBLISHED, *(path.name.split(".")[0] for path in LOGS.glob("*.log"))}
    shown |= {name for names in REQUESTS.values() for name in names}
    shown |= {"budget-ignored", "raw-call"}
    shown |= {symptom.id for symptom in symptoms() if symptom.excerpt}

    assert {symptom.id for symptom in symptoms()} - shown == set()


def test_every_theme_of_a_symptom_has_a_title() -> None:
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
