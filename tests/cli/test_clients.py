"""Real clients against an applied stack: what they can use is what gates prove."""

from collections.abc import Iterator

import anthropic
import openai
import pytest
from anthropic.types import MessageParam, ToolParam
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam
from openai.types.responses import FunctionToolParam, ResponseInputItemParam

from tests.cli.conftest import MakeProject
from tests.cli.project import KEY, STACK

pytestmark = pytest.mark.real

CLIENTS = STACK.replace("ctx_size: 1024", "ctx_size: 8192\n  reasoning: off")
GATES = """\
  stream: {}
  tools: {modes: [auto]}
  responses_api: {}
  messages_api: {}
"""
SAYS = " The answer is 42."
TOOL_SAID = " The tool has answered."
WEATHER: dict[str, object] = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
}
CHAT_TOOL: ChatCompletionToolParam = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": WEATHER},
}
RESPONSES_TOOL: FunctionToolParam = {
    "type": "function",
    "name": "get_weather",
    "parameters": WEATHER,
    "strict": False,
}
MESSAGES_TOOL: ToolParam = {"name": "get_weather", "input_schema": WEATHER}
USER: ChatCompletionMessageParam = {"role": "user", "content": "Weather in Paris?"}


@pytest.fixture(scope="module")
def url(
    make_project: MakeProject, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    project = make_project(tmp_path_factory.mktemp("clients") / "project")
    project.write(CLIENTS + GATES)
    done = project.run("apply", "stacks/demo.yaml", "--yes")
    assert done.code == 0, done.out + done.err
    yield project.url
    project.end()


@pytest.fixture(scope="module")
def chatting(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def messaging(url: str) -> Iterator[anthropic.Anthropic]:
    client = anthropic.Anthropic(base_url=url, api_key=KEY, max_retries=0)
    with client:
        yield client


def test_openai_chats(chatting: openai.OpenAI) -> None:
    done = chatting.chat.completions.create(model="tiny", messages=[USER])
    assert done.choices[0].message.content == SAYS
    assert done.usage is not None
    assert done.usage.completion_tokens > 0


def test_openai_streams(chatting: openai.OpenAI) -> None:
    stream = chatting.chat.completions.create(
        model="tiny", messages=[USER], stream=True
    )
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == SAYS
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_openai_calls_a_tool_and_hands_its_result_back(chatting: openai.OpenAI) -> None:
    asked = chatting.chat.completions.create(
        model="tiny", messages=[USER], tools=[CHAT_TOOL]
    )
    said = asked.choices[0].message
    assert said.tool_calls is not None
    (call,) = said.tool_calls
    assert call.type == "function"
    assert call.function.name == "get_weather"
    result: ChatCompletionMessageParam = {
        "role": "tool",
        "tool_call_id": call.id,
        "content": "sunny",
    }
    called: ChatCompletionMessageParam = {
        "role": "assistant",
        "tool_calls": [
            {
                "id": call.id,
                "type": "function",
                "function": {
                    "name": call.function.name,
                    "arguments": call.function.arguments,
                },
            }
        ],
    }
    done = chatting.chat.completions.create(
        model="tiny", messages=[USER, called, result], tools=[CHAT_TOOL]
    )
    assert done.choices[0].message.content == TOOL_SAID


def test_openai_streams_a_tool_call(chatting: openai.OpenAI) -> None:
    with chatting.chat.completions.stream(
        model="tiny", messages=[USER], tools=[CHAT_TOOL]
    ) as stream:
        done = stream.get_final_completion()
    calls = done.choices[0].message.tool_calls
    assert calls is not None
    assert [call.function.name for call in calls] == ["get_weather"]


def test_openai_responds(chatting: openai.OpenAI) -> None:
    done = chatting.responses.create(model="tiny", input="Say it.")
    assert (done.status, done.output_text) == ("completed", SAYS)


def test_openai_streams_a_response(chatting: openai.OpenAI) -> None:
    events = list(chatting.responses.create(model="tiny", input="Say.", stream=True))
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert (text, events[-1].type) == (SAYS, "response.completed")


def test_openai_responds_to_the_result_of_a_function(chatting: openai.OpenAI) -> None:
    """The round trip of agents in editors."""
    question: ResponseInputItemParam = {"role": "user", "content": "Weather in Paris?"}
    asked = chatting.responses.create(
        model="tiny", input=[question], tools=[RESPONSES_TOOL]
    )
    (call,) = [item for item in asked.output if item.type == "function_call"]
    assert call.name == "get_weather"
    done = chatting.responses.create(
        model="tiny",
        input=[
            question,
            {
                "type": "function_call",
                "call_id": call.call_id,
                "name": call.name,
                "arguments": call.arguments,
            },
            {
                "type": "function_call_output",
                "call_id": call.call_id,
                "output": "sunny",
            },
        ],
        tools=[RESPONSES_TOOL],
    )
    assert done.output_text == TOOL_SAID


def test_openai_is_told_of_a_wrong_key(url: str) -> None:
    with (
        openai.OpenAI(base_url=f"{url}/v1", api_key="no", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.chat.completions.create(model="tiny", messages=[USER])


def test_anthropic_gets_a_message(messaging: anthropic.Anthropic) -> None:
    user: MessageParam = {"role": "user", "content": "Say it."}
    done = messaging.messages.create(model="tiny", max_tokens=64, messages=[user])
    assert [block.text for block in done.content if block.type == "text"] == [SAYS]
    assert done.stop_reason == "end_turn"


def test_anthropic_streams(messaging: anthropic.Anthropic) -> None:
    user: MessageParam = {"role": "user", "content": "Say it."}
    with messaging.messages.stream(
        model="tiny", max_tokens=64, messages=[user]
    ) as stream:
        assert "".join(stream.text_stream) == SAYS
        assert stream.get_final_message().stop_reason == "end_turn"


def test_anthropic_uses_a_tool_and_hands_its_result_back(
    messaging: anthropic.Anthropic,
) -> None:
    user: MessageParam = {"role": "user", "content": "Weather in Paris?"}
    asked = messaging.messages.create(
        model="tiny", max_tokens=64, messages=[user], tools=[MESSAGES_TOOL]
    )
    (use,) = [block for block in asked.content if block.type == "tool_use"]
    assert (use.name, use.input) == ("get_weather", {"city": "Paris"})
    done = messaging.messages.create(
        model="tiny",
        max_tokens=64,
        messages=[
            user,
            {"role": "assistant", "content": [use]},
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": use.id,
                        "content": "sunny",
                    }
                ],
            },
        ],
        tools=[MESSAGES_TOOL],
    )
    assert [block.text for block in done.content if block.type == "text"] == [TOOL_SAID]


def test_anthropic_counts_tokens(messaging: anthropic.Anthropic) -> None:
    user: MessageParam = {"role": "user", "content": "Say it."}
    counted = messaging.messages.count_tokens(model="tiny", messages=[user])
    assert counted.input_tokens > 0
