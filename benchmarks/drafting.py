"""Tokens a second with and without speculative decoding, side by side in one run.

What a draft gains depends on how well it guesses, so two prompts are asked: prose, and
a text that repeats itself.  The smallest real model has no smaller one to draft for it,
so it drafts for itself: every guess is right, and costs as much as a token.  That is
the price of a draft without its gain, and what a draft must beat.
"""

import os
import statistics
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict

from benchmarks.answering import Answer, ask, by_hand, end, watch
from benchmarks.applied import BUILD, MODEL, applied
from benchmarks.result import Result, Run, Table
from benchmarks.serving import interval
from benchmarks.start import command_line
from deployer.engines.local.ports import free_port

TOKENS = 64
PROMPTS: Mapping[str, str] = {
    "prose": "Once upon a time there was a server that answered every request.",
    "repeated text": "one two three four five six seven eight nine ten\n" * 12,
}
WITHOUT = "without a draft"
_MODEL = "--model"


def drafting(run: Run) -> Result:
    """Each kind of draft on a server of its own; all are asked in turn."""
    with applied(run, "bench") as stack, ExitStack() as servers:
        argv = command_line(stack.port)
        stack.do("stop", stack.path)
        model = (
            argv[argv.index(_MODEL) + 1]
            if _MODEL in argv
            else argv[argv.index("-m") + 1]
        )
        kinds: Mapping[str, tuple[str, ...]] = {
            WITHOUT: (),
            "ngram-mod": ("--spec-type", "ngram-mod"),
            "draft-simple, the model itself": (
                *("--spec-type", "draft-simple"),
                *("--spec-draft-model", model, "--spec-draft-n-max", "4"),
            ),
        }
        ports = {}
        for number, (kind, words) in enumerate(kinds.items()):
            run.say(f"starting {kind}")
            ports[kind] = free_port("127.0.0.1")
            moved = [*argv, "--port", str(ports[kind]), *words]
            process = by_hand(moved, run.folder / f"draft-{number}.log")
            servers.callback(end, process)
            watch(ports[kind], 0.0, lambda p=process: p.poll() is None)  # type: ignore[misc]
        found: dict[str, dict[str, list[Answer]]] = {
            prompt: {kind: [] for kind in kinds} for prompt in PROMPTS
        }
        for turn in range(run.rounds + 1):
            run.say(f"round {turn} of {run.rounds}" if turn else "warming up")
            for prompt, text in PROMPTS.items():
                for kind, port in ports.items():
                    answer = ask(port, text, tokens=TOKENS)
                    if turn:
                        found[prompt][kind].append(answer)
    return _result(found)


def _result(found: Mapping[str, Mapping[str, list[Answer]]]) -> Result:
    rows = []
    for prompt, kinds in found.items():
        plain = [it.tokens_per_second for it in kinds[WITHOUT]]
        for kind, answers in kinds.items():
            rates = [it.tokens_per_second for it in answers]
            ratio = interval(
                [one / other for one, other in zip(rates, plain, strict=True)]
            )
            shown = "1" if kind == WITHOUT else str(ratio)
            rows.append((prompt, kind, f"{statistics.median(rates):.1f}", shown))
    rounds = len(next(iter(found.values()))[WITHOUT])
    return Result(
        title="Tokens a second with and without a draft",
        about=(
            f"{MODEL}, {BUILD}, {os.cpu_count()} cores.",
            (
                f"{rounds} rounds; in each one every server answers the same request of"
                f" {TOKENS} tokens, greedily, one after the other."
            ),
            "A ratio is that of the same round; the interval is that of the rounds.",
        ),
        tables=(
            Table(("prompt", "draft", "tokens a second", "ratio (95 %)"), tuple(rows)),
        ),
        samples=[
            {
                prompt: {
                    kind: [asdict(it) for it in all_] for kind, all_ in kinds.items()
                }
            }
            for prompt, kinds in found.items()
        ],
    )
