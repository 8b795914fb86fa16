"""Short ways to break one thing of the server in miniature."""

from collections.abc import Callable, Mapping
from typing import Any

from deployer.planning.events import Outcome
from tests.gates import fake_http as http
from tests.gates import fake_server as fake
from tests.gates.fake_http import Reply, Request, Responder, Script
from tests.gates.fake_model import Body, Said, usual_answer

FAIL, ERROR, UNCLEAR = Outcome.FAIL, Outcome.ERROR, Outcome.INCONCLUSIVE
CHAT = "POST /v1/chat/completions"


def answers(route: str, reply: Reply | Responder) -> Script:
    """A server of which one route answers differently."""

    def respond(request: Request) -> Reply:
        return reply(request) if callable(reply) else reply

    return Script(routes={route: respond})


def text(body: str | bytes, content_type: str = "application/json") -> Reply:
    raw = body.encode() if isinstance(body, str) else body
    return Reply((raw,), content_type=content_type)


def props(**changed: object) -> Script:
    """/props with other values."""
    return answers("GET /props", http.as_json({**fake.props_value(), **changed}))


def completion(**changed: object) -> Script:
    """A chat answer with other values at its top."""
    return answers(CHAT, http.as_json({**fake.completion(Said()), **changed}))


def choice(**changed: object) -> Script:
    """A chat answer with other values in its choice."""
    whole = fake.completion(Said())
    return completion(choices=[{**whole["choices"][0], **changed}])


def message(**changed: object) -> Script:
    """A chat answer with other values in its message."""
    whole = fake.completion(Said())["choices"][0]["message"]
    return choice(message={**whole, **changed})


def stream(*items: object) -> Script:
    """A chat stream of these events."""
    return answers(CHAT, http.events(*items))


def without(value: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {name: item for name, item in value.items() if name not in keys}


def listed(*names: str) -> Reply:
    """/v1/models with these."""
    return http.as_json({"data": [{"id": name} for name in names]})


def model(says: Callable[[Body], Said]) -> Script:
    """A server whose model answers otherwise."""
    return Script(says=says)


def when(applies: Callable[[Body], bool], said: Said) -> Script:
    """A model that says this where it applies, and the usual elsewhere."""
    return model(lambda body: said if applies(body) else usual_answer(body))


def template(text_of_it: str, *, tools: bool = True) -> Script:
    """A chat template, with or without tools."""
    caps = {"supports_tools": tools}
    value = {**fake.props_value(), "chat_template": text_of_it}
    return answers("GET /props", http.as_json({**value, "chat_template_caps": caps}))
