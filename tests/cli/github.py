"""GitHub on loopback, as far as the action and the example workflows ask it.

`gh` is the real one: its configuration sends every request to a socket of this fake,
which keeps the comments of a pull request, runs and artifacts, and can refuse.
"""

import json
import re
import shutil
import socketserver
import tempfile
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

GH = shutil.which("gh")
BOT = "github-actions"
"""Who writes with the token of a workflow; where it asks, it is `…[bot]`."""
PAGE = 100
"""Comments of an answer, as GitHub gives them."""


@dataclass
class GitHub:
    """What the API knows of the repository `o/r` and its pull request 7."""

    comments: dict[int, tuple[str, str]] = field(default_factory=dict)
    """Author and body by number."""
    faults: deque[tuple[str, int, str]] = field(default_factory=deque)
    """A method, and the status and message that the next request of it gets."""
    seen: list[str] = field(default_factory=list)
    heads: dict[str, str] = field(default_factory=dict)
    """Last commit of the pull request that a commit merged."""
    artifacts: dict[str, bytes] = field(default_factory=dict)
    """The archive that the run of a commit left."""

    @property
    def plans(self) -> list[str]:
        """The comments of the action."""
        return [body for author, body in self.comments.values() if author == BOT]

    def answer(self, method: str, url: str, body: bytes) -> tuple[int, Any]:
        """Status and content."""
        parts = urlsplit(url)
        self.seen.append(f"{method} {parts.path}")
        if self.faults and self.faults[0][0] == method:
            _, status, message = self.faults.popleft()
            return status, {"message": message}
        asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
        path = parts.path.removeprefix("/repos/o/r/")
        match method, path.split("/"):
            case "POST", ["", "graphql"]:
                return 200, self._listed(json.loads(body)["variables"])
            case "POST", ["issues", "7", "comments"]:
                self.comments[len(self.comments) + 1] = (BOT, json.loads(body)["body"])
                return 201, {}
            case "PATCH", ["issues", "comments", number]:
                self.comments[int(number)] = (BOT, json.loads(body)["body"])
                return 200, {}
            case "GET", words:
                return self._found(words, asked)
            case _:
                pass
        return 404, {"message": "Not Found"}

    def _listed(self, asked: dict[str, Any]) -> dict[str, Any]:
        assert (asked["owner"], asked["name"], asked["number"]) == ("o", "r", 7)
        begin = int(asked.get("endCursor") or 0)
        known = [
            {"databaseId": number, "body": body, "author": {"login": author}}
            for number, (author, body) in self.comments.items()
        ]
        more = {
            "hasNextPage": begin + PAGE < len(known),
            "endCursor": f"{begin + PAGE}",
        }
        comments = {"nodes": known[begin : begin + PAGE], "pageInfo": more}
        repository = {"pullRequest": {"comments": comments}}
        return {"data": {"viewer": {"login": f"{BOT}[bot]"}, "repository": repository}}

    def _found(self, words: list[str], asked: dict[str, str]) -> tuple[int, Any]:
        """Commits lead to heads, heads to runs, runs to artifacts; one name for all."""
        match words:
            case ["commits", commit, "pulls"]:
                head = self.heads.get(commit)
                return 200, [{"head": {"sha": head}}] if head else []
            case ["actions", "workflows", "deployer-plan.yml", "runs"]:
                head = asked["head_sha"]
                known = head in self.heads.values()
                return 200, {"workflow_runs": [{"id": head}] if known else []}
            case ["actions", "runs", run, "artifacts"] if run in self.heads.values():
                there = run in self.artifacts
                return 200, {"artifacts": [{"id": run}] if there else []}
            case ["actions", "artifacts", run, "zip"]:
                return 200, self.artifacts[run]
            case _:
                pass
        return 404, {"message": "Not Found"}


@contextmanager
def github() -> Iterator[tuple[GitHub, dict[str, str]]]:
    """The fake, and the variables with which `gh` speaks to it and to nobody else."""
    fake = GitHub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, content = fake.answer(self.command, self.path, body)
            raw = (
                content if isinstance(content, bytes) else json.dumps(content).encode()
            )
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        do_GET = do_POST = do_PATCH = _answer  # noqa: N815 - names of http.server

        def log_message(self, *said: object) -> None:
            del said

        def address_string(self) -> str:
            return "gh"

    class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
        daemon_threads = True

    with tempfile.TemporaryDirectory(prefix="gh-") as folder:
        socket = Path(folder) / "s"  # short: a path of a socket holds 107 bytes
        (Path(folder) / "config.yml").write_text(f"http_unix_socket: {socket}\n")
        with Server(str(socket), Handler) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.02,))
            thread.start()
            yield fake, {"GH_CONFIG_DIR": folder, "GH_NO_UPDATE_NOTIFIER": "1"}
            server.shutdown()
            thread.join()


def filled(text: str, values: dict[str, str]) -> str:
    """A text with its `${{ … }}` filled in; what is not known is empty."""
    return re.sub(r"\$\{\{ *(.*?) *\}\}", lambda m: values.get(m[1], ""), str(text))


def holds(condition: str, values: dict[str, str]) -> bool:
    """Whether a condition of comparisons with `&&` between them holds."""
    terms = [t for t in condition.split(" && ") if t != "always()"]
    found = [re.fullmatch(r"(\S+) (==|!=) '(.*)'", term) for term in terms]
    return all(m and (values.get(m[1], "") == m[3]) is (m[2] == "==") for m in found)
