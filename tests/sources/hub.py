"""A hub as the real client speaks to it: its API, its file servers, its refusals."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.sources.conftest import Page, Request

REPO = "owner/tiny-GGUF"
COMMIT = "c0ffee" * 6 + "beef"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass
class Hub:
    """A hub on one address and its file servers on another, as in the world."""

    api: Any
    cdn: Any
    environment: dict[str, str]

    def publish(self, files: Mapping[str, bytes]) -> None:
        siblings = [self._sibling(name, body) for name, body in files.items()]
        info = {"id": REPO, "sha": COMMIT, "siblings": siblings}
        body = json.dumps(info).encode()
        for path in ("", "/revision/main", f"/revision/{COMMIT}"):
            self.api.serve(
                f"/api/models/{REPO}{path}",
                body,
                headers={"Content-Type": "application/json"},
            )
        for name, content in files.items():
            digest = sha256(content)
            self.cdn.serve(f"/blobs/{digest}", content)
            self.api.serve(
                f"/{REPO}/resolve/{COMMIT}/{name}",
                b"",
                status=302,
                headers={
                    "Location": f"{self.cdn.url}/blobs/{digest}",
                    "ETag": f'"{digest[:40]}"',
                    "X-Linked-Etag": f'"{digest}"',
                    "X-Linked-Size": str(len(content)),
                    "X-Repo-Commit": COMMIT,
                },
            )

    def refuse(self, status: int, headers: Mapping[str, str]) -> None:
        for page in self.api.pages.values():
            page.status, page.headers = status, dict(headers)

    @staticmethod
    def _sibling(name: str, body: bytes) -> dict[str, object]:
        plain = {"rfilename": name, "size": len(body), "blobId": "0" * 40}
        if not name.endswith(".gguf"):
            return plain
        lfs = {"sha256": sha256(body), "size": len(body), "pointerSize": 134}
        return {**plain, "lfs": lfs}


def readable_by(token: str, *, gated: bool) -> Callable[[Request], Page | None]:
    """What the hub answers to others than the owner of one token.

    Private repositories are hidden, those with a licence are not:
    https://huggingface.co/docs/hub/models-gated, and `hf_raise_for_status` of the
    client, which reads these codes.
    """

    def refusal(request: Request) -> Page | None:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if given == token:
            return None
        if gated:
            status, code = (403 if given else 401), "GatedRepo"
        else:
            status, code = (404 if given else 401), "RepoNotFound"
        return Page(status=status, headers={"X-Error-Code": code})

    return refusal
