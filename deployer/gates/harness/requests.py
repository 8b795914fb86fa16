"""Request bodies that several gates send."""

from typing import Final

from deployer.stack.fields.values import JsonValue

PROMPT: Final = "Say in one short sentence what the capital of France is."

QUESTION: Final = "Which is larger, 9.11 or 9.9? Think about it, then answer."
"""Makes a model that can think do so."""

Body = dict[str, JsonValue]


def chat_body(prompt: str, max_tokens: int, **more: JsonValue) -> Body:
    """A chat request that answers alike every time, and at once: without thinking.

    Templates that know no `enable_thinking` do not look at it.
    """
    return {
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "seed": 1,
        "chat_template_kwargs": {"enable_thinking": False},
        **more,
    }
