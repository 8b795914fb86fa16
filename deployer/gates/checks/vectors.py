"""The gates embeddings and rerank: what texts mean, as numbers."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from pydantic import ConfigDict, Field, ValidationError

from deployer.gates.harness.answers import (
    Answer,
    Body,
    Broken,
    ContextProps,
    Judgement,
    Shape,
    TokenList,
    error_message,
    excerpt,
    fail,
    failed,
    first_problem,
    passed,
    read,
    unmeasured,
    within,
)
from deployer.gates.harness.client import Client
from deployer.gates.harness.gate import Gate, Subject
from deployer.stack.fields import gate_options as asked
from deployer.system.files import read_regular

EMBEDDINGS: Final = "/v1/embeddings"
RERANK: Final = "/v1/rerank"
PAIRS: Final = (
    (
        "The cat sleeps on the sofa.",
        "A cat is asleep on the sofa.",
        "Interest rates rose sharply in March.",
    ),
    (
        "How do I reset my password?",
        "Steps to reset a forgotten password.",
        "The river floods every spring.",
    ),
)
"""A text, one that is near to it, and one that is not."""
_SAME: Final = 0.9999
"""Least similarity of a text with itself: batches round differently."""
_NORM: Final = 0.01
_WORD: Final = "grass "
_SPARE_TOKENS: Final = 8
"""Tokens that a model may add around a text."""


class Embedded(Shape):
    """One vector of /v1/embeddings."""

    index: int
    embedding: tuple[float, ...] = Field(min_length=1)


class EmbeddingList(Shape):
    """The answer of /v1/embeddings."""

    data: tuple[Embedded, ...]


@dataclass(frozen=True, slots=True)
class Vectors:
    """Vectors of pairs of texts, of one of them again, and of a long text."""

    refused: bool = False
    """/v1/embeddings is not served."""
    pairs: Answer | None = None
    again: Answer | None = None
    long: Answer | None = None
    long_tokens: int = 0


class Embeddings(Gate[asked.Embeddings, Vectors]):
    """Vectors have to be whole, repeatable and near where texts are near.

    The longest text that a slot holds is asked for too: llama-server reads a text for
    an embedding in one physical batch, and refuses what is longer than that.
    """

    subject, limit = Subject.ANSWERS, 300

    async def measure(self, client: Client) -> Vectors:
        """Ask for the pairs at once, for the first text again, and for a long one."""
        texts = [text for pair in PAIRS for text in pair]
        pairs = await client.post(EMBEDDINGS, {"input": list(texts)})
        if pairs.status == 501:
            return Vectors(refused=True)
        again = await client.post(EMBEDDINGS, {"input": texts[0]})
        size = self.options.longest
        if size is None:
            props = read(await client.get("/props"), ContextProps)
            size = props.default_generation_settings.n_ctx
        aim = max(1, size - _SPARE_TOKENS)
        one = await client.post("/tokenize", {"content": _WORD * 8})
        each = len(read(one, TokenList).tokens) / 8
        long = {"input": _WORD * int(aim / max(each, 1.0))}
        longest = await client.post(EMBEDDINGS, long)
        return Vectors(pairs=pairs, again=again, long=longest, long_tokens=aim)

    def judge(self, measured: Vectors) -> Judgement:
        """Look at the numbers, then at what they say of the texts."""
        pairs, again, long = measured.pairs, measured.again, measured.long
        if measured.refused or pairs is None or again is None or long is None:
            return failed("/v1/embeddings is off; set `server.embeddings: true`")
        vectors = _vectors(pairs, 3 * len(PAIRS))
        (first,) = _vectors(again, 1)
        size = len(first)
        figures = {"dimension": float(size), "embedding_seconds": again.seconds}
        wanted = self.options.dimension
        if wanted is not None and size != wanted:
            because = f"a vector has {size} numbers, `dimension: {wanted}`"
            return failed(because, **figures)
        if (same := _similarity(first, vectors[0])) < _SAME:
            because = f"the same text asked twice has a similarity of {same:.4f}"
            return failed(f"{because} with itself", **figures)
        for number, (text, near, far) in enumerate(PAIRS):
            own, closer, other = vectors[3 * number : 3 * number + 3]
            one, two = _similarity(own, closer), _similarity(own, other)
            if one <= two:
                return failed(
                    f"`{text}` is not nearer to `{near}` ({one:.3f}) than to "
                    f"`{far}` ({two:.3f})",
                    **figures,
                )
        if long.status != 200 and "too large to process" in error_message(long.body):
            return failed(
                f"an input of about {measured.long_tokens} tokens is refused: "
                f"{error_message(long.body)}; set `server.ubatch_size` and "
                f"`server.batch_size` to the context of a slot",
                **figures,
            )
        with within(f"an input of about {measured.long_tokens} tokens", **figures):
            _vectors(long, 1)
        return passed(
            f"vectors of {size} numbers, repeatable, near where texts are near, and "
            f"of an input of about {measured.long_tokens} tokens",
            **figures,
        )


def _vectors(answer: Answer, count: int) -> list[tuple[float, ...]]:
    """Return the vectors in the order of the texts, or raise Broken."""
    found = read(answer, EmbeddingList).data
    if sorted(one.index for one in found) != list(range(count)):
        fail(f"{count} texts were sent, and {len(found)} vectors came")
    vectors = [one.embedding for one in sorted(found, key=lambda one: one.index)]
    if len({len(one) for one in vectors}) > 1:
        fail("the vectors have different lengths")
    for one in vectors:
        norm = math.sqrt(math.fsum(x * x for x in one))
        if norm == 0:
            fail(f"a vector is zero in all its {len(one)} numbers")
        if abs(norm - 1) > _NORM:
            fail(f"a vector has the length {norm:.3g}, not 1")
    if count > 1 and len(set(vectors)) < count:
        fail("different texts have the same vector")
    return vectors


def _similarity(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the cosine of two vectors of length 1; -1 for different lengths."""
    if len(one) != len(other):
        return -1.0
    return math.fsum(a * b for a, b in zip(one, other, strict=True))


class Triple(Shape):
    """A question, a text that answers it, and one that does not."""

    model_config = ConfigDict(extra="forbid")

    query: str = Field(min_length=1)
    better: str = Field(min_length=1)
    worse: str = Field(min_length=1)


TRIPLES: Final = (
    Triple(
        query="What is the capital of France?",
        better="Paris is the capital of France.",
        worse="Bananas are rich in potassium.",
    ),
    Triple(
        query="How do plants make food?",
        better="Plants make food from light by photosynthesis.",
        worse="The committee postponed its meeting.",
    ),
    Triple(
        query="Who wrote Romeo and Juliet?",
        better="Romeo and Juliet was written by William Shakespeare.",
        worse="This recipe needs two cups of flour.",
    ),
)


class Ranked(Shape):
    """The score of one document."""

    index: int
    relevance_score: float


class Ranking(Shape):
    """The answer of /v1/rerank."""

    results: tuple[Ranked, ...]


@dataclass(frozen=True, slots=True)
class Compared:
    """A triple, and the answers with the better text first and last."""

    triple: Triple
    first: Answer
    last: Answer


class Rerank(Gate[asked.Rerank, tuple[Compared, ...] | None]):
    """The passage that answers is scored higher than the other, in either order."""

    subject, limit = Subject.ANSWERS, 300

    async def measure(self, client: Client) -> tuple[Compared, ...] | None:
        """Ask each triple in both orders; None where /v1/rerank is not served."""
        found = []
        for triple in (*TRIPLES, *_own(self.target.folder, self.options.file)):
            both = [triple.better, triple.worse]
            first = await client.post(RERANK, _query(triple, both))
            if first.status == 501:
                return None
            last = await client.post(RERANK, _query(triple, both[::-1]))
            found.append(Compared(triple, first, last))
        return tuple(found)

    def judge(self, measured: tuple[Compared, ...] | None) -> Judgement:
        """Compare the scores of each triple."""
        if measured is None:
            return failed("/v1/rerank is off; set `server.reranking: true`")
        if not measured:
            return unmeasured("no question was asked")
        least = math.inf
        for one in measured:
            with within(f"`{excerpt(one.triple.query, 60)}`"):
                better, worse = _scores(one.first)
                other, again = _scores(one.last)
                if abs(again - better) > _moved(better, worse):
                    fail("the score of a document depends on its place in the list")
                for high, low in ((better, worse), (again, other)):
                    if high <= low:
                        fail(
                            f"`{excerpt(one.triple.better, 60)}` is scored {high:.3g}, "
                            f"`{excerpt(one.triple.worse, 60)}` {low:.3g}"
                        )
                least = min(least, better - worse)
        said = f"{len(measured)} questions rank their answer first, in either order"
        return passed(said, questions=float(len(measured)), smallest_margin=least)


def _moved(better: float, worse: float) -> float:
    """Return by how much rounding may move a score."""
    return 1e-3 + abs(better - worse) / 10


def _query(triple: Triple, documents: list[str]) -> Body:
    return {"query": triple.query, "documents": [*documents]}


def _scores(answer: Answer) -> tuple[float, float]:
    """Return the scores in the order in which the two texts were sent."""
    results = read(answer, Ranking).results
    if sorted(one.index for one in results) != [0, 1]:
        fail(f"two texts were sent, and {len(results)} scores came")
    by_index = {one.index: one.relevance_score for one in results}
    if by_index[0] == by_index[1]:
        fail(f"both texts are scored {by_index[0]:.3g}")
    ordered = [one.relevance_score for one in results]
    if ordered != sorted(ordered, reverse=True):
        fail("the results are not ordered by their score")
    return by_index[0], by_index[1]


def _own(folder: Path | None, name: str | None) -> Iterator[Triple]:
    """Yield the triples of a file of the stack, one JSON object a line."""
    if name is None:
        return
    path = Path(name) if folder is None else folder / name
    try:
        lines = read_regular(path).decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        _unusable(f"`{name}` cannot be read: {error}")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield Triple.model_validate_json(line)
        except ValidationError as error:
            _unusable(f"{name}:{number}: {first_problem(error)}")


def _unusable(because: str) -> NoReturn:
    raise Broken(unmeasured(because))
