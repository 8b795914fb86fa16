"""`chat`: streamed answers, what they took, and what goes wrong, told plainly."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cli.project import COMMAND, KEY, Done, Project
from tests.cli.terminal import CTRL_C, CTRL_D, Terminal, terminal
from tests.gates import fake_http
from tests.gates.fake_http import FakeServer, Part, Reply, Script, error, events, html
from tests.gates.fake_model import Body, Said
from tests.gates.fake_server import chunk, fake_server, timings

CHAT = "POST /v1/chat/completions"
KEYS = {"CHAT_KEY": fake_http.KEY}
PROMPT = "\n> "
JOINED = "👩\u200d🚀 1\u202f000 km"
EVIL = "\x1b]0;owned\x07 \x1b[2J \x9b31m \u202eright \x08 \r over"


def ask(project: Project, server: FakeServer, *words: str, typed: str = "") -> Done:
    where = ("--url", server.url, "--api-key-env", "CHAT_KEY")
    return project.run("chat", *where, *words, typed=typed, env=KEYS)


@contextmanager
def talk(
    project: Project, server: FakeServer, *words: str, **variables: str
) -> Iterator[Terminal]:
    where = ("--url", server.url, "--api-key-env", "CHAT_KEY")
    environment = project.environment({**KEYS, "TERM": "dumb", **variables})
    argv = (*COMMAND, "chat", *where, *words)
    with terminal(argv, project.folder, environment) as it:
        yield it


def told(reply: Reply) -> Script:
    return Script(routes={CHAT: lambda _: reply})


def test_the_real_server_answers_and_says_what_it_took(live: Project) -> None:
    for _ in range(2):
        done = live.run("chat", "stacks/demo.yaml", "--once", "Hello")
        assert (done.code, done.out) == (0, "The answer is 42.\n")
    assert " of them thinking) · " in done.err
    assert " tokens/s · TTFT " in done.err
    assert "0 of 20 prompt tokens" not in done.err
    assert "of 20 prompt tokens cached" in done.err
    assert KEY not in done.out + done.err

    short = live.run(
        "chat", "stacks/demo.yaml", "--once", "Hello", "--thinking-budget", "8"
    )
    tokens = int(short.err.split()[0])
    assert tokens < 60


def test_stdin_is_the_prompt_and_stdout_the_plain_answer(paper: Project) -> None:
    asked: list[Body] = []

    def says(body: Body) -> Said:
        asked.append(body)
        return Said(" It is **so**.", reasoning="hm hm")

    with fake_server(Script(says=says)) as server:
        done = ask(paper, server, "--system", "Be brief", typed="Is it so?\n")
    assert (done.code, done.out) == (0, "It is **so**.\n")
    assert "hm" not in done.out + done.err
    (body,) = asked
    assert body["messages"] == [
        {"role": "system", "content": "Be brief"},
        {"role": "user", "content": "Is it so?"},
    ]


def test_figures_of_the_server_are_told_as_they_are(paper: Project) -> None:
    details = {"prompt_tokens_details": {"cached_tokens": 30}}
    usage = {"prompt_tokens": 41, "completion_tokens": 7, "total_tokens": 48}
    last = {"id": "chatcmpl-1", "choices": [], "usage": {**usage, **details}}
    reply = events(chunk({"content": "x"}), {**last, **timings(7, 0.5)}, "[DONE]")
    with fake_server(told(reply)) as server:
        done = ask(paper, server, "--once", "x")
    first, *_ = done.err.partition(" · TTFT ")
    assert first == "7 tokens · 14.0 tokens/s"
    assert done.err.endswith("as seen here · 30 of 41 prompt tokens cached\n")


def test_what_the_server_does_not_tell_is_measured_and_said_so(paper: Project) -> None:
    usage = {"prompt_tokens": 4, "completion_tokens": 7, "total_tokens": 11}
    last = {"id": "chatcmpl-1", "choices": [], "usage": usage}
    words = [chunk({"content": f"w{n}"}) for n in range(50)]
    with fake_server(told(events(*words, last, "[DONE]"))) as server:
        done = ask(paper, server, "--once", "x")
    assert " tokens/s as seen here · TTFT " in done.err
    assert done.err.endswith(" as seen here · 4 prompt tokens\n")

    with fake_server(told(events(*words, "[DONE]"))) as server:
        done = ask(paper, server, "--once", "x")
    assert "tokens/s" not in done.err


def test_thinking_is_apart_and_the_conversation_goes_on(paper: Project) -> None:
    asked: list[Body] = []

    def says(body: Body) -> Said:
        asked.append(body)
        return Said(f" answer {len(asked)}", reasoning="let me see")

    script = Script(says=says)
    with fake_server(script) as server, talk(paper, server, NO_COLOR="1") as it:
        for number in (1, 2):
            it.until(PROMPT)
            it.type("why\n")
            it.until("── thinking")
            it.until("let me see\n")
            it.until(f"── answer\nanswer {number}\n")
        it.until(PROMPT)
        it.type("/system be kind\n")
        it.until(PROMPT)
        it.type("/clear\n")
        it.until("forgotten")
        it.until(PROMPT)
        it.type("//slash\n")
        it.until(PROMPT)
        it.type("/exi\n")
        it.until("there is no `/exi`; did you mean `/exit`?")
        it.until(PROMPT)
        it.type("/exit\n")
        assert it.end() == 0
    contents = [[m["content"] for m in body["messages"]] for body in asked]
    assert contents == [
        ["why"],
        ["why", " answer 1", "why"],
        ["be kind", "/slash"],
    ]


def test_thinking_is_dim_where_there_are_colours(paper: Project) -> None:
    script = Script(says=lambda _: Said(" yes", reasoning="hm"))
    with fake_server(script) as server:
        for variables, dim in (
            ({"TERM": "xterm"}, True),
            ({"TERM": "xterm", "NO_COLOR": "1"}, False),
        ):
            with talk(paper, server, "--once", "x", **variables) as it:
                assert it.end() == 0
                assert ("\x1b[2m hm" in it.seen or "\x1b[2mhm" in it.seen) == dim
                assert ("\x1b" in it.seen) == dim


def test_ctrl_c_ends_an_answer_and_then_the_chat(paper: Project) -> None:
    head = chunk({"role": "assistant", "content": "It begins"})
    reply = events(head, Part.DRIP)
    with fake_server(told(reply)) as server, talk(paper, server) as it:
        it.until(PROMPT)
        it.type("tell\n")
        it.until("It begins")
        it.type(CTRL_C)
        it.until("ended by you")
        assert server.hung_up.wait(30)
        it.until(PROMPT)
        it.type(CTRL_C)
        assert it.end() == 0


def test_ctrl_c_ends_the_only_answer_with_8(paper: Project) -> None:
    reply = events(chunk({"content": "It begins"}), Part.DRIP)
    with fake_server(told(reply)) as server, talk(paper, server, "--once", "x") as it:
        it.until("It begins")
        it.type(CTRL_C)
        assert it.end() == 8
        assert "error: the answer was ended" in it.seen


def test_ctrl_d_ends_the_chat(paper: Project) -> None:
    with fake_server(Script()) as server, talk(paper, server) as it:
        it.until(PROMPT)
        it.type(CTRL_D)
        assert it.end() == 0


def test_an_error_does_not_end_the_chat_nor_stay_in_it(paper: Project) -> None:
    asked: list[Body] = []

    def says(body: Body) -> Said:
        asked.append(body)
        return Said(" fine")

    with fake_server(Script(says=says)) as server, talk(paper, server) as it:
        it.until(PROMPT)
        it.type("word " * 500 + "\n")
        it.until(PROMPT)
        server.script = Script(says=says, routes={CHAT: lambda _: error(500, "oh no")})
        it.type("one\n")
        it.until("error: answered HTTP 500: oh no")
        it.until(PROMPT)
        server.script = Script(says=says)
        it.type("/clear\n")
        it.until(PROMPT)
        it.type("two\n")
        it.until("fine\n")
    assert [m["content"] for m in asked[-1]["messages"]] == ["two"]


@pytest.mark.parametrize("where", ["content", "reasoning_content"])
def test_nothing_that_a_model_says_moves_the_cursor(paper: Project, where: str) -> None:
    words = [
        chunk({where: part}) for part in (EVIL, EVIL[:3], "👩\u200d🚀 1\u202f000 km")
    ]
    reply = events(*words, chunk({"content": "ok"}), "[DONE]")
    with fake_server(told(reply)) as server:
        with talk(paper, server, "--once", "x", NO_COLOR="1") as it:
            assert it.end() == 0
        piped = ask(paper, server, "--once", "x")
    for text in (it.seen, piped.out + piped.err):
        assert not set(text) & set("\x1b\x07\x08\x9b\u202e\r")
    assert "\\x1b]0;owned\\x07 \\x1b[2J \\x9b31m \\u202eright" in it.seen
    assert JOINED in it.seen


TROUBLES: Mapping[str, tuple[Script, int, str]] = {
    "another key": (
        Script(key="sk-another"),
        4,
        "error: the server refuses the key: Invalid API Key\n  hint: the variable",
    ),
    "loading": (
        told(error(503, "Loading model", "unavailable_error")),
        1,
        "error: the server is not ready: Loading model\n  hint: it loads its model",
    ),
    "died": (
        told(events(chunk({"content": "It was"}), Part.RESET)),
        1,
        "error: the server broke off in mid-answer: the connection",
    ),
    "cut off in order": (
        told(events(chunk({"content": "It was"}))),
        1,
        "error: the answer ended without `[DONE]`\n",
    ),
    "an error in the stream": (
        told(events(chunk({"content": "It"}), {"error": {"message": "no memory"}})),
        1,
        "error: the server sent an error: no memory\n",
    ),
    "a web page": (told(html()), 1, "error: the stream is a web page"),
    "no JSON": (
        told(events("{")),
        1,
        "error: the server sent something that is no answer\n",
    ),
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_trouble_is_told_plainly(paper: Project, trouble: str) -> None:
    script, code, message = TROUBLES[trouble]
    with fake_server(script) as server:
        done = ask(paper, server, "--once", "x")
    assert done.code == code
    assert message in done.err
    assert "Traceback" not in done.err
    assert fake_http.KEY not in done.err


def test_a_prompt_over_the_context_says_what_helps(paper: Project) -> None:
    with fake_server(Script()) as server:
        done = ask(paper, server, typed="word " * 3000)
    assert done.code == 3
    assert "does not fit into the context: request (3007 tokens) exceeds" in done.err
    assert "hint: `/clear` forgets" in done.err


def test_wrong_calls_say_what_to_type(paper: Project) -> None:
    calls: list[tuple[tuple[str, ...], dict[str, Any], str]] = [
        (
            ("stacks", "--url", "http://127.0.0.1:1"),
            {},
            "error: give a stack or `--url`, one of the two\n",
        ),
        (("--url", "http://127.0.0.1:1"), {}, "error: no prompt was given\n"),
        (
            ("--url", "http://127.0.0.1:1", "--api-key-env", "NOT_SET", "--once", "x"),
            {},
            "error: environment variable `NOT_SET` (API key) is not set\n",
        ),
        (("stacks/demo.yaml", "--once", "x"), {}, "was never applied from here"),
        (
            ("--url", "http://127.0.0.1:1", "--once", "x"),
            {},
            "error: nothing answers at `http://127.0.0.1:1`",
        ),
    ]
    for words, env, message in calls:
        done = paper.run("chat", *words, env=env)
        assert done.code != 0
        assert message in done.err


def test_bytes_that_are_no_text_are_asked_as_well_as_can_be(
    paper: Project, tmp_path: Path
) -> None:
    (tmp_path / "prompt").write_bytes(b"a\xff\n")
    with fake_server(Script(key=None)) as server:
        chat = f"{sys.executable} -m deployer chat --url {server.url}"
        line = f"{chat} < {tmp_path}/prompt"
        done = paper.shell(line)
    assert (done.code, done.out) == (0, "The answer is 42.\n")


def test_answers_are_capped_and_files_go_with_the_prompt(paper: Project) -> None:
    asked: list[Body] = []

    def says(body: Body) -> Said:
        asked.append(body)
        return Said("yes")

    (paper.folder / "notes.txt").write_text("a note")
    (paper.folder / "x.png").write_bytes(b"\x89PNG")
    (paper.folder / "x.bin").write_bytes(b"\xff\xfe")
    words = ("--file", "notes.txt", "--file", "x.png", "--max-tokens", "7")
    with fake_server(Script(says=says)) as server:
        done = ask(paper, server, *words, typed="Is it so?")
        refused = ask(paper, server, "--file", "x.bin", typed="?")
        missing = ask(paper, server, "--file", "none", typed="?")
    (body,) = asked
    assert body["max_tokens"] == 7
    (message,) = body["messages"]
    kinds = [part["type"] for part in message["content"]]
    assert kinds == ["text", "image_url", "text"]
    assert "a note" in message["content"][0]["text"]
    assert "stopped: stop" in done.err
    assert (refused.code, missing.code) == (3, 3)
    assert "is no text, and no image" in refused.err
