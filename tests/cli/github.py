"""GitHub on loopback, as far as the action and the example workflows ask it.

`gh` is the real one: its configuration sends every request to a socket of this fake,
which keeps pull requests with their reviews and comments, runs and artifacts, and can
refuse.
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


OURS = "o/r"
WORKFLOW = ".github/workflows/deployer-plan.yml"


@dataclass
class Pull:
    """A pull request."""

    number: int
    head: str
    """Its last commit."""
    branch: str = "work"
    repository: str = OURS
    author: str = "author"
    merged: str = ""
    """The commit on main, however it was merged; empty: it is open."""
    reviews: list[tuple[str, str, str]] = field(default_factory=list)
    """Who, `APPROVED` or another state, and the commit that was read.

    A `stranger` does not belong to the repository.
    """

    def approve(self, who: str = "reviewer") -> None:
        """Approve the last commit."""
        self.reviews.append((who, "APPROVED", self.head))


@dataclass
class Run:
    """A run of the workflow that plans."""

    id: int
    head: str
    branch: str = "work"
    repository: str = OURS
    attempt: int = 1
    event: str = "pull_request"
    path: str = WORKFLOW
    conclusion: str | None = "success"
    artifacts: list[tuple[str, bytes]] = field(default_factory=list)


@dataclass
class GitHub:
    """What the API knows of the repository `o/r`."""

    talk: dict[int, dict[int, tuple[str, str]]] = field(default_factory=dict)
    """Author and body of comments, by pull request and number."""
    faults: deque[tuple[str, int, str]] = field(default_factory=deque)
    """A method, and the status and message that the next request of it gets."""
    seen: list[str] = field(default_factory=list)
    pulls: dict[int, Pull] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)

    @property
    def comments(self) -> dict[int, tuple[str, str]]:
        """The comments of pull request 7."""
        return self.talk.setdefault(7, {})

    @property
    def plans(self) -> list[str]:
        """The plans that the action showed on pull request 7."""
        return self.plans_of(7)

    def plans_of(self, number: int) -> list[str]:
        """The comments of the action with a plan."""
        return self._ours(number, "<!-- deployer:plan")

    def results_of(self, number: int) -> list[str]:
        """The comments of the action with what an apply did."""
        return self._ours(number, "<!-- deployer:applied")

    def _ours(self, number: int, mark: str) -> list[str]:
        known = self.talk.get(number, {}).values()
        return [body for author, body in known if author == BOT and mark in body]

    def answer(self, method: str, url: str, body: bytes) -> tuple[int, Any]:
        """Status and content."""
        parts = urlsplit(url)
        self.seen.append(f"{method} {parts.path}")
        if self.faults and self.faults[0][0] == method:
            _, status, message = self.faults.popleft()
            return status, {"message": message}
        asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
        path = parts.path.removeprefix(f"/repos/{OURS}/")
        match method, path.split("/"):
            case "POST", ["", "graphql"]:
                return 200, self._listed(json.loads(body)["variables"])
            case "POST", ["issues", pull, "comments"]:
                every = [0, *(n for it in self.talk.values() for n in it)]
                known = self.talk.setdefault(int(pull), {})
                known[max(every) + 1] = (BOT, json.loads(body)["body"])
                return 201, {}
            case "PATCH", ["issues", "comments", number]:
                known = next(it for it in self.talk.values() if int(number) in it)
                known[int(number)] = (BOT, json.loads(body)["body"])
                return 200, {}
            case "GET", words:
                return self._found(words, asked)
            case _:
                pass
        return 404, {"message": "Not Found"}

    def _listed(self, asked: dict[str, Any]) -> dict[str, Any]:
        assert (asked["owner"], asked["name"]) == ("o", "r")
        begin = int(asked.get("endCursor") or 0)
        known = [
            {"databaseId": number, "body": body, "author": {"login": author}}
            for number, (author, body) in self.talk.get(asked["number"], {}).items()
        ]
        more = {
            "hasNextPage": begin + PAGE < len(known),
            "endCursor": f"{begin + PAGE}",
        }
        comments = {"nodes": known[begin : begin + PAGE], "pageInfo": more}
        repository = {"pullRequest": {"comments": comments}}
        return {"data": {"viewer": {"login": f"{BOT}[bot]"}, "repository": repository}}

    def _found(self, words: list[str], asked: dict[str, str]) -> tuple[int, Any]:
        """What a GET finds, as docs.github.com/rest describes it."""
        match words:
            case ["commits", commit, "pulls"]:
                return 200, [
                    _pull(it) for it in self.pulls.values() if commit == it.merged
                ]
            case ["pulls", number, "reviews"]:
                return 200, [*map(_review, self.pulls[int(number)].reviews)]
            case ["actions", "workflows", "deployer-plan.yml", "runs"]:
                # A commit may be the last one of a fork's branch, too.
                found = [it for it in self.runs if it.head == asked["head_sha"]]
                return 200, {"workflow_runs": [*map(_run, found)]}
            case ["actions", "runs", run, "artifacts"]:
                return 200, {"artifacts": [*self._artifacts(int(run), asked["name"])]}
            case ["actions", "artifacts", number, "zip"]:
                left = next(it for it in self.runs if it.id == int(number) // 100)
                return 200, left.artifacts[int(number) % 100][1]
            case _:
                pass
        return 404, {"message": "Not Found"}

    def _artifacts(self, number: int, name: str) -> Iterator[dict[str, Any]]:
        run = next(it for it in self.runs if it.id == number)
        for at, (known, content) in enumerate(run.artifacts):
            if known == name:
                yield {
                    "id": 100 * number + at,
                    "name": known,
                    "size_in_bytes": len(content),
                    "expired": False,
                    "workflow_run": {"id": number, "head_sha": run.head},
                }


def _pull(pull: Pull) -> dict[str, Any]:
    return {
        "number": pull.number,
        "merged_at": "2026-11-30T00:00:00Z" if pull.merged else None,
        "user": {"login": pull.author},
        "base": {"ref": "main"},
        "head": {
            "sha": pull.head,
            "ref": pull.branch,
            "repo": {"full_name": pull.repository},
        },
    }


def _review(review: tuple[str, str, str]) -> dict[str, Any]:
    who, state, commit = review
    belongs = "NONE" if who == "stranger" else "COLLABORATOR"
    return {
        "user": {"login": who},
        "state": state,
        "commit_id": commit,
        "author_association": belongs,
    }


def _run(run: Run) -> dict[str, Any]:
    return {
        "id": run.id,
        "run_number": run.id,
        "run_attempt": run.attempt,
        "event": run.event,
        "status": "completed" if run.conclusion else "in_progress",
        "conclusion": run.conclusion,
        "path": run.path,
        "head_sha": run.head,
        "head_branch": run.branch,
        "head_repository": {"full_name": run.repository},
    }


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
    terms = [t for t in condition.split(" && ") if t not in ("", "always()")]
    found = [re.fullmatch(r"(\S+) (==|!=) '(.*)'", term) for term in terms]
    return all(m and (values.get(m[1], "") == m[3]) is (m[2] == "==") for m in found)
