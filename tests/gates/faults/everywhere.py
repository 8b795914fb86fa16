"""Servers that are broken as a whole: no gate that asks one may pass."""

import re
from dataclasses import replace

import pytest

from deployer.gates import GATES
from tests.gates import fake_http as http
from tests.gates.breaking import text
from tests.gates.checking import check_not_passed
from tests.gates.fake_http import Part, Reply, Script
from tests.gates.registry import broken

WITHOUT_QUESTIONS = {"device", "memory"}
"""They look at the machine, and ask the server nothing."""
WITHOUT_NUMBERS = {"health", "build", "models", "responses_api", "custom"}
"""No number of an answer means anything to them."""
ASKING = [gate for gate in GATES if gate not in WITHOUT_QUESTIONS]


def without_numbers(reply: Reply) -> Reply:
    """An answer with NaN for every number."""
    pattern = rb"(?<=[:\[, ])-?\d+(\.\d+)?(?=[,}\]\n])"
    parts = (
        re.sub(pattern, b"NaN", part) if isinstance(part, bytes) else part
        for part in reply.parts
    )
    return replace(reply, parts=tuple(parts))


for gate in ASKING:

    @broken(
        gate,
        ("name", "reply"),
        [
            pytest.param(gate, http.html(), id="a web page"),
            pytest.param(gate, text(""), id="nothing"),
            pytest.param(gate, text("{"), id="half a JSON value"),
            pytest.param(gate, text("null"), id="null"),
            pytest.param(gate, text(b"\xff\xfe"), id="no text"),
            pytest.param(gate, http.html(502), id="a gateway"),
            pytest.param(gate, Reply((b"{", Part.RESET)), id="a reset"),
        ],
        own=False,
    )
    def every_answer_is(name: str, reply: Reply) -> None:
        check_not_passed(name, Script(rewrite=lambda _: reply))

    @broken(gate, "name", [gate], own=False)
    def a_server_that_says_nothing(name: str) -> None:
        silent = Script(rewrite=lambda _: Reply((b"", Part.SILENCE)))
        check_not_passed(name, silent, timeout="0.3s")

    if gate not in WITHOUT_NUMBERS:

        @broken(gate, "name", [gate], own=False)
        def every_number_is_nan(name: str) -> None:
            check_not_passed(name, Script(rewrite=without_numbers))
