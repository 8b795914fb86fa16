"""A webhook: what it is told, how it is signed, and what it never gets."""

import hmac
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from deployer.usecases.context.settings import Settings
from deployer.usecases.runs import Ran, notify, ran_now

SECRET = "whsec-of-the-tests"


@dataclass
class Hook:
    """What answers on loopback, and what it was told."""

    url: str = ""
    answers: list[int] = field(default_factory=list)
    """Statuses of the next answers; then 200."""
    told: list[tuple[dict[str, str], bytes]] = field(default_factory=list)


@contextmanager
def listening() -> Iterator[Hook]:
    hook = Hook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            hook.told.append((dict(self.headers), body))
            self.send_response(hook.answers.pop(0) if hook.answers else 200)
            self.send_header("Location", "http://127.0.0.1:9/")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *said: object) -> None:
            del said

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        hook.url = f"http://127.0.0.1:{server.server_port}/T000/B000"
        yield hook
        server.shutdown()
        thread.join()


def released(folder: Path, **environment: str) -> Ran:
    ran = ran_now(Settings(environment, folder), folder, "apply", changes=["a 1 → 2"])
    return replace(ran, release=3)


def test_it_is_told_what_was_done_and_can_check_by_whom(tmp_path: Path) -> None:
    with listening() as hook:
        env = {"DEPLOYER_WEBHOOK": hook.url, "DEPLOYER_WEBHOOK_SECRET": SECRET}
        assert notify("demo", released(tmp_path), env) == ""
    ((head, body),) = hook.told
    told = json.loads(body)
    assert (told["stack"], told["outcome"], told["release"]) == ("demo", "released", 3)
    assert told["changes"] == ["a 1 → 2"]
    signed = head["X-Deployer-Timestamp"].encode() + b"." + body
    digest = hmac.new(SECRET.encode(), signed, "sha256").hexdigest()
    assert head["X-Deployer-Signature"] == f"sha256={digest}"


def test_slack_gets_one_line_in_which_nothing_is_markup(tmp_path: Path) -> None:
    with listening() as hook:
        env = {"DEPLOYER_WEBHOOK": hook.url, "DEPLOYER_WEBHOOK_FORM": "slack"}
        ran = replace(released(tmp_path), why="<!channel> a\nb")
        assert notify("demo", ran, env) == ""
    ((_, body),) = hook.told
    text = json.loads(body)["text"]
    assert text.startswith("demo: apply released 3, by ")
    assert "&lt;!channel&gt; a b" in text
    assert "\n" not in text


def test_no_secret_reaches_it(tmp_path: Path) -> None:
    with listening() as hook:
        env = {"DEPLOYER_WEBHOOK": hook.url, "LLAMA_API_KEY": "sk-very-secret"}
        ran = replace(released(tmp_path), error="refused sk-very-secret")
        assert notify("demo", ran, env) == ""
    assert b"sk-very-secret" not in hook.told[0][1]


@pytest.mark.parametrize(
    ("answers", "count", "told"),
    [([503], 2, ""), ([500, 429, 502], 3, "HTTP 502"), ([404], 1, "HTTP 404")],
)
def test_it_is_told_again_where_that_may_help(
    tmp_path: Path, answers: list[int], count: int, told: str
) -> None:
    with listening() as hook:
        hook.answers = answers
        assert (
            notify("demo", released(tmp_path), {"DEPLOYER_WEBHOOK": hook.url}) == told
        )
    assert len(hook.told) == count


def test_no_redirect_is_followed(tmp_path: Path) -> None:
    with listening() as hook:
        hook.answers = [307]
        said = notify("demo", released(tmp_path), {"DEPLOYER_WEBHOOK": hook.url})
    assert said == "HTTP 307"


def test_nothing_is_sent_in_the_clear_and_no_address_is_shown(tmp_path: Path) -> None:
    env = {"DEPLOYER_WEBHOOK": "http://example.com/T000/B000"}
    said = notify("demo", released(tmp_path), env)
    assert said == "`DEPLOYER_WEBHOOK` does not begin with https://"
    assert notify("demo", released(tmp_path), {}) == ""
