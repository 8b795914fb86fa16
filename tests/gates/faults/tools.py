"""No tool call that a client would stumble over passes; each ends in its sentence."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from deployer.planning.events import Outcome
from tests.gates import fake_http as http
from tests.gates import fake_server as fake
from tests.gates.breaking import CHAT, FAIL, UNCLEAR, answers, template, when
from tests.gates.checking import check
from tests.gates.fake_http import Script
from tests.gates.fake_model import Body, Said
from tests.gates.registry import broken

CALL = ("get_weather", '{"city": "Paris"}')
CALLED = Said("", calls=(CALL,), finish="tool_calls")
RAW = ' <|tool_call>call:get_weather{city:<|"|>Paris<|"|>}<tool_call|>'


def chosen(*modes: str) -> Callable[[Body], bool]:
    """Whether a request without a result has this `tool_choice`."""

    def applies(body: Body) -> bool:
        mode = body.get("tool_choice", "result")
        return ("named" if isinstance(mode, dict) else mode) in modes

    return applies


def calling(name: str, arguments: str, finish: str = "tool_calls") -> Said:
    return Said("", calls=((name, arguments),), finish=finish)


@broken(
    "tools",
    ("mode", "said", "because"),
    [
        pytest.param("auto", Said(RAW), "raw `<|tool_call>`", id="raw call"),
        pytest.param("auto", Said("It rains."), "no tool is called", id="no call"),
        pytest.param("auto", Said(""), "the answer is `nothing`", id="empty"),
        pytest.param(
            "auto", calling("rm", "{}"), "`rm` is called, which", id="stranger"
        ),
        pytest.param(
            "auto", calling("get_weather", "{"), "with `{`", id="cut arguments"
        ),
        pytest.param("auto", calling("get_weather", ""), "with `nothing`", id="none"),
        pytest.param(
            "auto",
            calling("get_weather", '{"town": "P"}'),
            "`city`: field",
            id="wrong key",
        ),
        pytest.param(
            "auto",
            calling("get_weather", '{"city": 4}'),
            "valid string",
            id="wrong type",
        ),
        pytest.param(
            "auto",
            calling("get_weather", '{"city": "P", "x": 1}'),
            "`x`: extra",
            id="more arguments",
        ),
        pytest.param(
            "auto", calling(*CALL, finish="stop"), "not `tool_calls`", id="wrong finish"
        ),
        pytest.param(
            "required", Said("Hello."), "b11218 at the latest", id="not forced"
        ),
        pytest.param("named", CALLED, "issue 26535", id="another one"),
        pytest.param("named", Said("Hello."), "issue 26535", id="not forced either"),
        pytest.param("none", Said(RAW), "leaves the tools in the prompt", id="raw"),
        pytest.param("none", CALLED, "none: `get_weather` is called", id="called"),
        pytest.param("none", Said(""), "none: the answer is empty", id="nothing"),
        pytest.param("result", Said(""), "no answer follows", id="no answer"),
        pytest.param("result", CALLED, "the tool is called again", id="again"),
        pytest.param("result", Said(RAW), "result: raw", id="raw again"),
    ],
)
def tools_do_not_pass(mode: str, said: Said, because: str) -> None:
    script = when(chosen(mode), said)
    check("tools", script, FAIL, because, modes=("auto", "required", "named", "none"))


@broken("tools")
def known_limits_accept_nothing_else() -> None:
    script = when(chosen("none"), CALLED)
    check("tools", script, FAIL, "is called", modes=("none",), expect="known_limits")


def called_with(*ids: str) -> Script:
    """An answer whose calls carry these ids."""
    calls = (CALL,) * len(ids)
    value = fake.completion(Said("", calls=calls, finish="tool_calls"))
    for call, one in zip(
        value["choices"][0]["message"]["tool_calls"], ids, strict=True
    ):
        call["id"] = one
    return answers(CHAT, http.as_json(value))


@broken(
    "tools",
    ("ids", "because"),
    [(("",), "a call has no id"), (("a", "a"), "two calls have the same id")],
)
def calls_need_ids_of_their_own(ids: tuple[str, ...], because: str) -> None:
    check("tools", called_with(*ids), FAIL, because, modes=("required",))


def streamed_call(*deltas: Body, finish: str = "tool_calls") -> Script:
    """A stream with these pieces of calls."""
    pieces = [fake.chunk({"tool_calls": [dict(delta)]}) for delta in deltas]
    first = fake.chunk({"role": "assistant"})
    last = fake.chunk({}, finish=finish)

    def respond(request: http.Request) -> http.Reply:
        if request.body.get("stream"):
            return http.events(first, *pieces, last, "[DONE]")
        return fake.chat(request)

    return answers(CHAT, respond)


NAME = {"index": 0, "id": "c0", "function": {"name": "get_weather", "arguments": ""}}
ARGUMENTS = {"index": 0, "function": {"arguments": CALL[1]}}


@broken(
    "tools",
    ("script", "because"),
    [
        pytest.param(streamed_call(), "stream: no tool is called", id="no call"),
        pytest.param(streamed_call(NAME), "with `nothing`", id="no arguments"),
        pytest.param(streamed_call(ARGUMENTS), "no id or no name", id="no name"),
        pytest.param(
            streamed_call({**NAME, "index": 1}, {**ARGUMENTS, "index": 1}),
            "the indices [1]",
            id="starts at 1",
        ),
        pytest.param(
            streamed_call(NAME, {**ARGUMENTS, "id": "c9"}), "id of call 0", id="two ids"
        ),
        pytest.param(
            streamed_call(NAME, NAME, ARGUMENTS), "comes twice", id="name twice"
        ),
        pytest.param(
            streamed_call(NAME, ARGUMENTS, ARGUMENTS), "JSON", id="arguments twice"
        ),
        pytest.param(
            streamed_call(NAME, ARGUMENTS, finish="stop"), "`stop`, not", id="finish"
        ),
        pytest.param(
            streamed_call(NAME, ARGUMENTS, finish="odd"), "is `odd`", id="odd finish"
        ),
    ],
)
def a_streamed_call_does_not_pass(script: Script, because: str) -> None:
    check("tools", script, FAIL, because, modes=("auto",))


@broken(
    "tools",
    ("said", "because"),
    [
        pytest.param(CALLED, "parallel: `add_numbers` is not called in", id="one"),
        pytest.param(Said("Hello."), "parallel: no tool is called", id="none"),
        pytest.param(Said(RAW), "parallel: raw", id="raw"),
        pytest.param(
            Said("", calls=(CALL, ("add_numbers", "{}")), finish="tool_calls"),
            "`a`: field required",
            id="broken second",
        ),
    ],
)
def calls_at_once_do_not_pass(said: Said, because: str) -> None:
    script = when(lambda body: "parallel_tool_calls" in body, said)
    check("tools", script, FAIL, because, modes=("auto",), parallel=True)


@broken("tools")
def a_template_without_tools_is_said_to_be_so() -> None:
    because = "the chat template of this model knows no tools, as"
    verdict = check("tools", template("", tools=False), UNCLEAR, because)
    assert (verdict.applicable, verdict.blocks) == (False, True)
    assert [asked.request for asked in verdict.evidence] == ["GET /props"]


def of_build(said: Said, number: int) -> Script:
    """The fake server as another build, whose model says this to tools."""
    script = when(lambda body: "tools" in body, said)
    told = http.as_json({**fake.props_value(), "build_info": f"b{number}-7e4c0a9"})
    return replace(script, routes={**script.routes, "GET /props": lambda _: told})


LATE = Said("I would look it up. " * 9, finish="length")
CUT = Said(RAW, finish="length")


@broken(
    "tools",
    ("said", "build", "outcome", "because"),
    [
        pytest.param(Said("Hi."), 10434, UNCLEAR, "auto: no tool is c", id="none"),
        pytest.param(CUT, 10434, UNCLEAR, "a call would be is not proven", id="cut"),
        pytest.param(Said(RAW), 10434, FAIL, "auto: raw", id="raw"),
        pytest.param(LATE, 11434, UNCLEAR, "required: no tool is called", id="late"),
        pytest.param(Said("Hi."), 11434, FAIL, "required: no tool", id="refuses"),
        pytest.param(
            Said("", calls=(("get_weather", "{"),), finish="tool_calls"),
            *(11434, FAIL, "required: "),
            id="not JSON",
        ),
        pytest.param(
            Said("", calls=(CALL,), finish="stop"), 11434, FAIL, "`stop`", id="finish"
        ),
    ],
)
def whole_calls_are_told_from_a_model_that_calls_nothing(
    said: Said, build: int, outcome: Outcome, because: str
) -> None:
    """What may be the model's doing blocks nothing, and is no pass."""
    script = of_build(said, build)
    verdict = check("tools", script, outcome, because, expect="whole_calls")
    assert verdict.blocks == (outcome is FAIL)


@broken("tools")
def no_mode_proves_nothing() -> None:
    check("tools", Script(), UNCLEAR, "no mode", modes=(), roundtrip=False)
