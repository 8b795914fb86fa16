"""Marks of chat templates that must never reach a client as text."""

from typing import Final

THINKING: Final = (
    "<|channel>",
    "<channel|>",
    "<|channel|>",
    "<think>",
    "</think>",
    "[THINK]",
    "[/THINK]",
)
TOOLS: Final = (
    "<|tool_call>",
    "<tool_call|>",
    "<|tool_response>",
    "<tool_response|>",
    "<tool_call>",
    "</tool_call>",
    "<function=",
    "[TOOL_CALLS]",
    "<|python_tag|>",
    '<|"|>',
)


def leak_in(*texts: str | None) -> str:
    """The first mark that stands in one of the texts; empty when none does."""
    found = (
        mark for mark in (*THINKING, *TOOLS) for text in texts if text and mark in text
    )
    return next(found, "")
