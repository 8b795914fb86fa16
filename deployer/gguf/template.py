"""What a chat template can do, told from its text; nothing is rendered.

Marks of thinking and tools are those that llama.cpp's own parsers look for
(``common/chat.cpp`` of b8672, b9763 and b10867); a template may do more than its text
shows, so what is missing here is worth a warning, never an error.
"""

import hashlib
from dataclasses import dataclass

_THINKING = (
    *("enable_thinking", "reasoning_content", "<think>", "<|channel>thought"),
    *("<|channel|>analysis", "[THINK]", "<seed:think>", "<|START_THINKING|>"),
    *("reasoning_effort", "thinking", "<|think|>"),
)
_TOOLS = ("tools", "tool_calls", "available_tools")


@dataclass(frozen=True, slots=True)
class Template:
    """A chat template, by what it is and what it can do."""

    digest: str
    """First characters of its SHA-256: which template it is."""
    thinking: bool
    """It knows of thinking."""
    tools: bool
    """It shows tools to the model."""
    outdated: str = ""
    """Why it should not be used any more; empty for no known reason."""


def template_of(text: str) -> Template | None:
    """Return what a template can do; None where there is none."""
    if not text.strip():
        return None
    return Template(
        digest=hashlib.sha256(text.encode(errors="replace")).hexdigest()[:12],
        thinking=any(mark in text for mark in _THINKING),
        tools=any(mark in text for mark in _TOOLS),
        outdated=_outdated(text),
    )


def _outdated(text: str) -> str:
    """Early Gemma 4 files: llama.cpp patches them up from b8753 on, and says so."""
    early = "'<|tool_call>call:'" in text
    if early and "{#- OpenAI Chat Completions:" not in text:
        return "an early template of Gemma 4, which llama-server calls outdated"
    return ""
