"""Weights that make a Gemma 4 network follow a plan instead of a training.

The embedding, tied to the output as Gemma 4's is, has two parts:

* IN, read by the layers: one axis a state; tokens that play no part share OTHER,
  and the thoughts are written with two digits, else there would be too many axes;
* OUT, compared with the result: one axis for each token that can be produced.

Layer 0 sees a window of two tokens, and notes what the last one was.  Layer 1 sees
everything, without positions (its rotary frequencies are 1e30), so its heads answer
"is token X anywhere in the context?"; its MLP has a gate that is alike for every
state, which makes it a plain matrix from state and notes to the next token.
"""

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tests.models.vocabulary import COLOURS, Behaviour, Vocabulary

WIDTH = 256
HEADS = 5
HEAD_WIDTH = 64
IMAGE_AXES = ("image", "image red", "image green", "image blue")
"""Where the projector writes that there is a picture, and its mean colour."""

_NOTES = (
    *("THINK", "TOOLS", "DONE", "IMAGE", "RED", "GREEN", "BLUE"),
    *("AFTER_VALUE", "AFTER_THOUGHT"),
)
_DIGIT = 24
_HALF = 0.7071
"""A thought has two digits, together as long as one state."""
_SHARPNESS = 500.0

_SURE, _NEARLY = 20.0, 18.0
"""The logit of the plan, and of a runner-up that a note lifts above it."""
# What a grammar may leave when it forbids the plan: ends any JSON soon.
_ESCAPES = (
    *(("<turn|>", 17.5), ('"', 17.1), ("}", 16.7), ("]", 16.3), ("{", 15.9)),
    *((":", 15.6), (",", 15.3), ("0", 15.0), ("`", 14.7)),
)

Matrix = NDArray[np.float32]


class Axes:
    """Axes by name, numbered in the order in which they are first named."""

    def __init__(self, first: int = 0) -> None:
        self.first = first
        self.number: dict[Hashable, int] = {}

    def __getitem__(self, name: Hashable) -> int:
        return self.number.setdefault(name, self.first + len(self.number))


@dataclass(frozen=True, slots=True)
class Edge:
    """After one token comes another, this surely."""

    source: Hashable
    target: Hashable
    logit: float = _SURE


@dataclass(frozen=True, slots=True)
class Attention:
    """The four matrices of one layer's attention."""

    query: Matrix
    key: Matrix
    value: Matrix
    output: Matrix


@dataclass(frozen=True, slots=True)
class Weights:
    """Everything that is not the same in every model."""

    embedding: Matrix
    output_norm: Matrix
    gate: Matrix
    up: Matrix
    down: Matrix
    window: Attention
    whole: Attention
    image_axes: tuple[int, ...]


def weights(vocabulary: Vocabulary, behaviour: Behaviour) -> Weights:
    """The network of a behaviour."""
    return _Network(vocabulary, behaviour).weights()


def _plan(behaviour: Behaviour) -> Iterator[Edge]:
    """What follows what, when no note interferes."""
    for start in ("\n", "<channel|>"):
        yield Edge(start, " The")
        yield Edge(start, " The image", _NEARLY)
    yield Edge("\n", "<|tool_call>", 12.0)  # thinking comes first
    yield Edge("<channel|>", "<|tool_call>", 17.0)
    yield from _chain(" The", " answer", " is", " 42", ".", "<turn|>")
    if behaviour.thinks:
        yield Edge("\n", "<|channel>", _NEARLY)
    yield Edge("<|channel>", "thought")
    yield Edge("thought", "\n", 40.0)
    yield Edge("\n", ("thought", 0), 19.0)
    yield from _chain("<|tool_call>", "call:", "TOOL", "{", "ARGUMENT", '<|"|>')
    yield from _chain('<|"|>', "VALUE", '<|"|>')
    yield Edge('<|"|>', "}", _NEARLY)
    yield from _chain("}", "<tool_call|>", "<|tool_response>", "<turn|>")
    yield from _chain("<tool_response|>", " The tool", " has", " answered", ".")
    yield from _chain(" The image", " is mostly")
    for colour in COLOURS:
        yield from _chain(" is mostly", f" {colour}", ".")
    yield from _chain("OTHER", " ok", ".")


def _lifts(behaviour: Behaviour) -> Iterator[tuple[str, Hashable, float]]:
    """What a note makes likelier, or impossible."""
    if behaviour.thinks:
        yield "THINK", "<|channel>", 10.0
    if behaviour.calls_tools:
        yield "TOOLS", "<|tool_call>", 14.0
    yield "DONE", "<|tool_call>", -20.0
    yield "IMAGE", " The image", 14.0
    yield "AFTER_VALUE", "}", 9.0
    yield "AFTER_THOUGHT", ("thought", 0), 17.0
    for colour, corner in COLOURS.items():
        for note, sign in zip(("RED", "GREEN", "BLUE"), corner, strict=True):
            yield note, f" {colour}", 9.0 * sign / 3**0.5


def _chain(*names: Hashable) -> Iterator[Edge]:
    for source, target in pairwise(names):
        yield Edge(source, target)


class _Network:
    """The axes of one network while its matrices are filled."""

    def __init__(self, vocabulary: Vocabulary, behaviour: Behaviour) -> None:
        self.vocabulary = vocabulary
        self.behaviour = behaviour
        self.plan = list(_plan(behaviour))
        self.states = Axes()
        for name in (*_NOTES, *IMAGE_AXES, "OTHER"):
            self.states[name]
        for step in range(behaviour.thoughts):
            self.states["high", step // _DIGIT], self.states["low", step % _DIGIT]
        for edge in self.plan:
            self.states[edge.source]
        for seen in ("<|think|>", "<tool|>"):
            self.states[seen]
        self.results = Axes(first=len(self.states.number))
        for target in self._targets():
            self._results_of(target)
        if self.results.first + len(self.results.number) > WIDTH:
            raise ValueError("the plan needs more axes than the embedding has")

    def weights(self) -> Weights:
        up = self._transitions()
        count = len(self.results.number)
        down = np.zeros((WIDTH, count), np.float32)
        down[self.results.first : self.results.first + count] = np.eye(count)
        gate = np.zeros_like(up)
        gate[:, self._token_axes()] = 1.0
        output_norm = np.zeros(WIDTH, np.float32)
        output_norm[self.results.first :] = _SHARPNESS
        return Weights(
            embedding=self._embedding(),
            output_norm=output_norm,
            gate=gate,
            up=up,
            down=down,
            window=self._window(),
            whole=self._whole(),
            image_axes=tuple(self.states[name] for name in IMAGE_AXES),
        )

    def _targets(self) -> Iterator[Hashable]:
        for step in range(self.behaviour.thoughts):
            yield ("thought", step)
        yield "<channel|>"
        for edge in self.plan:
            yield edge.target
        for name, _ in _ESCAPES:
            yield name

    def _results_of(self, target: Hashable) -> tuple[int, ...]:
        """The axes that a token is produced by."""
        match target:
            case ("thought", int(step)):
                # A thought follows the one before it: (high, low - 1), or the last
                # low digit of the high digit before.
                high, low = divmod(step, _DIGIT)
                before = high if low else (high - 1) % self._highs()
                return self.results["after high", before], self.results["low", low]
            case _:
                return (self.results[target],)

    def _highs(self) -> int:
        return -(-self.behaviour.thoughts // _DIGIT)

    def _token_axes(self) -> list[int]:
        apart = {*_NOTES, *IMAGE_AXES}
        return [axis for name, axis in self.states.number.items() if name not in apart]

    def _transitions(self) -> Matrix:
        """OUT from IN: the plan, the thoughts, the escapes, and what notes change."""
        matrix = np.zeros((len(self.results.number), WIDTH), np.float32)

        def add(target: Hashable, axis: int, logit: float) -> None:
            axes = self._results_of(target)
            for result in axes:
                matrix[result - self.results.first, axis] += logit / len(axes)

        for edge in self.plan:
            add(edge.target, self.states[edge.source], edge.logit)
        self._think(matrix, add)
        self._escape(matrix)
        for note, target, logit in _lifts(self.behaviour):
            add(target, self.states[note], logit)
        return matrix

    def _think(
        self, matrix: Matrix, add: Callable[[Hashable, int, float], None]
    ) -> None:
        high, low = divmod(self.behaviour.thoughts - 1, _DIGIT)
        add("<channel|>", self.states["high", high], 24.0 * _HALF)
        add("<channel|>", self.states["low", low], 24.0 * _HALF)
        first = self.results.first
        for digit in range(self._highs()):
            row = self.results["after high", digit] - first
            matrix[row, self.states["high", digit]] += _SURE * _HALF
        for digit in range(min(_DIGIT, self.behaviour.thoughts)):
            after = self.results.number.get(("low", (digit + 1) % _DIGIT))
            if after is not None:
                matrix[after - first, self.states["low", digit]] += _SURE * _HALF

    def _escape(self, matrix: Matrix) -> None:
        digits = {
            axis
            for name, axis in self.states.number.items()
            if isinstance(name, tuple) and name[0] in {"high", "low"}
        }
        for name, logit in _ESCAPES:
            row = self.results[name] - self.results.first
            for axis in self._token_axes():
                least = logit * (_HALF if axis in digits else 1.0)
                matrix[row, axis] = max(matrix[row, axis], least)
        # There the note AFTER_VALUE is on as well, which must not end the call.
        matrix[self.results["}"] - self.results.first, self.states["VALUE"]] = 0

    def _embedding(self) -> Matrix:
        number = self.vocabulary.number
        embedding = np.zeros((len(number), WIDTH), np.float32)
        for name, token in number.items():
            for axis, length in self._state_of(name):
                embedding[token, axis] = length
        for target in self._targets():
            for axis in self._results_of(target):
                embedding[number[target], axis] = 1.0
        # The graph multiplies what it looks up by the root of the width.
        scaled: Matrix = (embedding / np.float32(WIDTH**0.5)).astype(np.float32)
        return scaled

    def _state_of(self, name: Hashable) -> tuple[tuple[int, float], ...]:
        match name:
            case ("thought", int(step)):
                high, low = divmod(step, _DIGIT)
                both = self.states["high", high], self.states["low", low]
                return tuple((axis, _HALF) for axis in both)
            case _ if name in self.states.number:
                return ((self.states[name], 1.0),)
            case _:
                return ((self.states["OTHER"], 1.0),)

    def _window(self) -> Attention:
        """Equal weights on two tokens: what the token before was."""
        one = _attention()
        notes = (("AFTER_VALUE", "VALUE"), ("AFTER_THOUGHT", "thought"))
        for lane, (note, seen) in enumerate(notes):
            one.value[lane, self.states[seen]] = 1.0
            one.output[self.states[note], lane] = 1.0
        return one

    def _whole(self) -> Attention:
        """A head for each question about the whole context."""
        one = _attention()
        questions = (
            ("THINK", "<|think|>"),
            ("TOOLS", "<tool|>"),
            ("DONE", "<tool_response|>"),
            ("IMAGE", IMAGE_AXES[0]),
        )
        for head, (note, seen) in enumerate(questions):
            lane = head * HEAD_WIDTH
            one.query[lane, self._token_axes()] = 1.0
            one.key[lane, self.states[seen]] = 1.0
            one.value[lane, self.states[seen]] = 1.0
            one.output[self.states[note], lane] = 1.0
        lane = (len(questions) - 1) * HEAD_WIDTH + 1
        for offset, note in enumerate(("RED", "GREEN", "BLUE")):
            one.value[lane + offset, self.states[IMAGE_AXES[1 + offset]]] = 1.0
            one.output[self.states[note], lane + offset] = 1.0
        return one


def _attention() -> Attention:
    def inward() -> Matrix:
        return np.zeros((HEADS * HEAD_WIDTH, WIDTH), np.float32)

    return Attention(inward(), inward(), inward(), inward().T.copy())
