"""What goes wrong while a llama-server answers, as its log, a client or a gate tells.

The texts marked b8672 and b10434 were provoked with those builds, those marked gate
are what gates of deployer print.
"""

from typing import Final

from deployer.core.notices import Severity
from deployer.llama.symptom import Symptom

USE: Final = (
    Symptom(
        "no-key-sent",
        # b8672, b10434: log of the server, answer, and what gates make of it
        r"[Uu]nauthorized: Invalid API Key|\"Invalid API Key\"|the key was refused",
        "a request came without the API key, or with another one (401)",
        "send `Authorization: Bearer $KEY`; check that the variable of `auth.api_key`"
        " is set where the client runs (an unset one sends an empty key)",
        Severity.WARNING,
    ),
    Symptom(
        "open-server",
        r"all origins \('\*'\) and no API key is set"  # b10434
        r"|no API key is set and CORS allows all origins"  # b11434
        r"|everybody may use \S+: it answers without an API key",  # deployer
        "the server asks for no API key: whoever reaches it may use it, and so may any"
        " web page that is open beside it",
        "set `auth.api_key`, and `local.host: 127.0.0.1` where only this machine needs"
        " it",
        Severity.WARNING,
    ),
    Symptom(
        "variable-not-set",
        r"the API key is to be in `([^`]+)`, which is not set",  # deployer
        "the variable `\\1` that holds the API key is not set",
        "`export \\1=…`, or write `\\1=…` into `.env` beside the stack",
    ),
    Symptom(
        "loading",
        r"\"Loading model\"|HTTP 503 \d+ times",  # b8672, b10434, gate
        "it was asked while the model still loads (503)",
        "wait until /health is 200; a client has to try again after a 503",
        Severity.WARNING,
    ),
    Symptom(
        "budget-ignored",
        r"budget \d+: thought \d+ tokens, as much as",  # gate, b8672
        "the thinking budget has no effect on this build",
        "add the patch `gemma4-thinking-tags`, or set `llama_cpp.tag` to b8744 or"
        " later",
    ),
    Symptom(
        "thinking-invisible",
        r"no reasoning came with thinking on",  # gate
        "the model thinks and nothing of it shows, or it does not think",
        "set `server.reasoning_format: auto` and `server.chat_template_kwargs:"
        " {enable_thinking: true}`; Gemma 4 needs b8665 or later",
    ),
    Symptom(
        "thinking-not-boolean",
        r"invalid type for \\?\"enable_thinking\\?\" \(expected boolean",  # both
        "a request gives `enable_thinking` as a text (400)",
        "send `true` or `false` without quotes",
        Severity.WARNING,
    ),
    Symptom(
        "empty-answer",
        # gate
        r"the answer is empty|the answer without thinking is empty"
        r"|only thinking came within \d+ tokens|no answer followed the thinking",
        "answers are empty: thinking takes all tokens that a request may use",
        "raise `max_tokens`, set `server.reasoning_budget`, or turn thinking off with"
        " `chat_template_kwargs: {enable_thinking: false}`",
    ),
    Symptom(
        "raw-call",
        r"raw `<[^`]*tool_call[^`]*` stands in the answer",  # gate, b8672
        "with `tool_choice: none` the text of a call reaches the user",
        "upstream leaves the tools in the prompt: send none, or accept it with"
        " `gates: {tools: {expect: known_limits}}`",
    ),
    Symptom(
        "named-tool-ignored",
        r"Wrong type supplied for parameter 'tool_choice'",  # b8672, b10434
        "a request names a tool in `tool_choice`: this is silently `auto`",
        "send only that tool, with `tool_choice: required` (llama.cpp issue 26535)",
        Severity.WARNING,
    ),
    Symptom(
        "unknown-tool-choice",
        r"Invalid tool_choice: (\S+?)[\"\\,]",  # b8672, b10434
        "a request has the unknown `tool_choice: \\1` (400)",
        "send `auto`, `required` or `none`",
        Severity.WARNING,
    ),
    Symptom(
        "responses-tools-refused",
        r"'type' of tool must be 'function'",  # b8672
        "an agent offers a built-in tool on /v1/responses: this build refuses it (400)",
        "set `llama_cpp.tag` to a newer build (b10434 skips such tools)",
    ),
    Symptom(
        "responses-tool-skipped",
        r"unsupported Responses tool type '([^']+)' skipped",  # b10434
        "an agent offers the built-in tool `\\1` on /v1/responses: it is left out",
        "give the agent a function of its own for it",
        Severity.NOTE,
    ),
    Symptom(
        "responses-stateless",
        r"does not support 'previous_response_id'",  # b8672, b10434
        "an agent refers to an earlier answer with `previous_response_id` (400)",
        "let it send the whole conversation (`store: false`)",
        Severity.WARNING,
    ),
    Symptom(
        "prompt-too-long",
        r"request \((\d+) tokens\) exceeds the available context size \((\d+) tokens\)",
        "a prompt of \\1 tokens does not fit the \\2 tokens of a slot (400)",  # both
        "raise `server.ctx_size`, lower `server.parallel`, or shorten the prompt",
        Severity.WARNING,
    ),
    Symptom(
        "no-mmproj",
        r"image input is not supported|audio input is not supported",  # both
        "a request carries a picture or sound, and the server has no projector (500)",
        "set `model.mmproj`, such as `F16`",
        Severity.WARNING,
    ),
    Symptom(
        "images-unknown-to-template",
        r"number of bitmaps \(\d+\) does not match number of markers \(0\)",  # b8672
        "the chat template leaves pictures out, so a request with one is refused (400)",
        "take the template of the model's newest GGUF: `server.chat_template`",
    ),
    Symptom(
        "wrong-json",
        r"json\.exception\.parse_error",  # b8672, b10434
        "a request is not JSON (500; 400 on newer builds)",
        "look at what the client sends",
        Severity.WARNING,
    ),
    Symptom(
        "endpoint-off",
        # b8672, b10434
        r"This server does not support (\w+)(?: endpoint)?\. Start it with `--(\w+)`",
        "/\\1 is not served (501)",
        "set `server.\\2: true`",
        Severity.WARNING,
    ),
    Symptom(
        "outdated-template",
        r"detected an outdated gemma4 chat template",  # b10434
        "the chat template in the GGUF is an early one of Gemma 4, with known faults",
        "fetch the GGUF again: `deployer lock STACK --upgrade`, or set"
        " `server.chat_template`",
        Severity.WARNING,
    ),
    Symptom(
        "deprecated-option",
        r"DEPRECATED: (\S+) .*deprecated",  # b10434
        "the option `\\1` is deprecated: a later build will refuse it",
        "`deployer flags TAG NAME` shows what to write instead",
        Severity.NOTE,
    ),
    Symptom(
        "no-build-number",
        r"build_info[\":= ]+b[01]-|version: \S+ \(build [01], "
        r"|reports build [01], commit",
        "the server was built without history and reports build 0 or 1",  # b10434
        "pass `-DLLAMA_BUILD_NUMBER=` when building, or let deployer build it; state"
        " `llama_cpp.commit` to prove this one",
        Severity.NOTE,
    ),
    Symptom(
        "stale-build",
        r"the server is `b(\d+)-[^`]*`, the stack pins `([^`]+)`",  # gate
        "build b\\1 answers, and the stack pins \\2: an older server is still running",
        "run `deployer apply`; something else may have the port (`deployer doctor`)",
    ),
    Symptom(
        "request-too-slow",
        r"\b408\b.{0,40}[Tt]ime-?out|HTTP(?:/[\d.]+)? 408\b",  # Modal, proxies
        "a body did not arrive in time (408)",
        "a large picture on a slow line: make it smaller, and try again",
        Severity.WARNING,
    ),
)
