"""The plans that were approved for what was merged last, into a folder.

A merge is looked up by its commit, so squash, rebase and merge queues are all the same
here: whether what is on the branch is what was approved, `deployer apply --approved`
compares by content.  The artefact is taken from the one run that showed it: of this
repository's workflow, for this pull request and its last commit, the newest attempt.
The comment has to show what the plans were saved with, and a reviewer has to have
approved that commit.  What is missing is a warning: nothing of that pull request counts
as approved then.
"""

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

REPOSITORY = os.environ["GITHUB_REPOSITORY"]
LARGEST = 16 * 2**20
"""Bytes of an archive, and of a plan in it."""
MOST_REVIEWS = 100
"""Reviews of a pull request that GitHub gives at once."""
INSIDERS = ("OWNER", "MEMBER", "COLLABORATOR")
"""Whose approval counts, by the `author_association` of GitHub's REST API."""
FOOTER = "\n<sub>deployer \N{MIDDLE DOT} "
COMMENTS = """query(
  $owner: String!, $name: String!, $number: Int!, $endCursor: String
) {
  viewer { login }
  repository(owner: $owner, name: $name) { pullRequest(number: $number) {
    comments(first: 100, after: $endCursor) {
      nodes { databaseId body author { login } }
      pageInfo { hasNextPage endCursor } } } } }"""


class NotApprovedError(Exception):
    """Why the plans of a pull request do not count."""


def main() -> None:
    """Fill the folder `deployer-approved`, and list there what this push merged."""
    folder = Path(os.environ["RUNNER_TEMP"], "deployer-approved")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    newest = os.environ["GITHUB_SHA"]
    new = pushed(newest)
    merged = []
    for commit, pull in merges(newest):
        number = pull["number"]
        merged += [f"{number}\n"] * (commit in new)
        try:
            plans = approved(pull)
        except NotApprovedError as error:
            warning = "::warning title=deployer::" * (commit in new)
            print(f"{warning}pull request {number}: {error}")
            continue
        place = folder / f"{number:08}"
        place.mkdir()
        for name, content in plans.items():
            (place / name).write_bytes(content)
    (folder / "merged.txt").write_text("".join(merged))


def merges(newest: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The last pull requests that were merged into this branch, oldest first."""
    most = os.environ["LOOK_BACK"]
    done = started("git", "rev-list", "--first-parent", "-n", most, newest)
    if done.returncode:
        refuse(done)
    seen: set[int] = set()
    branch = os.environ["GITHUB_REF_NAME"]
    for commit in reversed(done.stdout.decode().split()):
        for pull in api(f"commits/{commit}/pulls"):
            is_one = pull["merged_at"] and pull["base"]["ref"] == branch
            if is_one and pull["number"] not in seen:
                seen.add(pull["number"])
                yield commit, pull


def pushed(newest: str) -> set[str]:
    """The commits of this push; the last one where GitHub does not say which."""
    before = os.environ.get("BEFORE", "")
    if not before.strip("0"):
        return {newest}
    done = started("git", "rev-list", "--first-parent", f"{before}..{newest}")
    return set(done.stdout.decode().split()) or {newest}


def approved(pull: Mapping[str, Any]) -> Mapping[str, bytes]:
    """The plans of a pull request; raises NotApprovedError."""
    number, head = pull["number"], pull["head"]
    if (head["repo"] or {}).get("full_name") != REPOSITORY:
        raise NotApprovedError("it comes from a fork, whose plan knows no state")
    if os.environ["APPROVALS"] == "true":
        refuse_unreviewed(pull)
    run = run_of(head["sha"], head["ref"])
    plans = plans_of(run, head["sha"])
    page = f"/actions/runs/{run['id']}/attempts/{run['run_attempt']}"
    for name, content in plans.items():
        shown = json.loads(content).get("shown", {})
        if shown.get("commit") != head["sha"]:
            raise NotApprovedError(f"`{name}` was planned from another commit")
        if shown.get("pull_request") != str(number):
            raise NotApprovedError(f"`{name}` was planned for another pull request")
        if not str(shown.get("run")).endswith(page):
            raise NotApprovedError(f"`{name}` is of another run, or attempt")
    digests = {json.loads(it)["shown"]["digest"] for it in plans.values()}
    if plans and digests != {comment_of(number)}:
        raise NotApprovedError(
            "the comment does not show what its plans were made from"
        )
    return plans


def refuse_unreviewed(pull: Mapping[str, Any]) -> None:
    """Raise NotApprovedError unless its last commit was approved, and not refused.

    Anybody may approve a pull request of a public repository: only who belongs to it
    counts.  Who of these may write, the protection of the branch knows.
    """
    last: dict[str, Mapping[str, Any]] = {}
    reviews = api(f"pulls/{pull['number']}/reviews?per_page={MOST_REVIEWS}")
    if len(reviews) >= MOST_REVIEWS:
        raise NotApprovedError("it has more reviews than are read")
    for review in reviews:
        who = (review["user"] or {}).get("login", "")
        if review["state"] != "COMMENTED" and who != pull["user"]["login"]:
            last[who] = review
    if any(it["state"] == "CHANGES_REQUESTED" for it in last.values()):
        raise NotApprovedError("a reviewer asked for changes")
    head = pull["head"]["sha"]
    if not any(
        it["state"] == "APPROVED"
        and it["commit_id"] == head
        and it["author_association"] in INSIDERS
        for it in last.values()
    ):
        raise NotApprovedError(f"nobody approved its last commit {head[:12]}")


def run_of(head: str, branch: str) -> Mapping[str, Any]:
    """The newest run of the workflow for a commit of this repository's own branch."""
    workflow = os.environ["PLAN_WORKFLOW"]
    asked = f"actions/workflows/{workflow}/runs?event=pull_request&head_sha={head}"
    found = [
        it
        for it in api(f"{asked}&per_page=100")["workflow_runs"]
        if it["event"] == "pull_request"
        and it["head_sha"] == head
        and it["head_branch"] == branch
        and it["head_repository"]["full_name"] == REPOSITORY
        and it["path"].partition("@")[0] == f".github/workflows/{workflow}"
    ]
    if not found:
        raise NotApprovedError(f"no run of {workflow} planned {head[:12]}")
    newest: Mapping[str, Any] = max(found, key=lambda it: it["run_number"])
    if newest["conclusion"] != "success":
        what = newest["conclusion"] or newest["status"]
        raise NotApprovedError(f"the newest run that planned {head[:12]}: {what}")
    return newest


def plans_of(run: Mapping[str, Any], head: str) -> Mapping[str, bytes]:
    """The saved plans that a run left; none where nothing would change."""
    name = os.environ["ARTIFACT"]
    found = [
        it
        for it in api(f"actions/runs/{run['id']}/artifacts?name={name}")["artifacts"]
        if it["name"] == name and it["workflow_run"]["head_sha"] == head
    ]
    if not found:
        return {}
    newest = max(found, key=lambda it: it["id"])
    if newest["expired"] or newest["size_in_bytes"] > LARGEST:
        raise NotApprovedError("its saved plans are expired, or too large")
    plans = {}
    with zipfile.ZipFile(
        io.BytesIO(raw(f"actions/artifacts/{newest['id']}/zip"))
    ) as it:
        for entry in it.infolist():
            if re.fullmatch(r"[\w.%-]+\.plan", entry.filename):
                if entry.file_size > LARGEST:
                    raise NotApprovedError(f"`{entry.filename}` is too large")
                plans[entry.filename] = it.read(entry)
    return plans


def comment_of(number: int) -> str:
    """The digest of what our comment shows, as `show.markdown.digest_of` has it."""
    owner, _, name = REPOSITORY.partition("/")
    label = os.environ.get("LABEL", "")
    mark = f"<!-- deployer:plan{' ' * bool(label)}{label} -->"
    given = [f"owner={owner}", f"name={name}", f"number={number}"]
    words = ["graphql", "--paginate", "-f", f"query={COMMENTS}"]
    fields = [word for pair in given for word in ("-F", pair)]
    ours = (
        '.data | (.viewer.login | rtrimstr("[bot]")) as $me'
        " | .repository.pullRequest.comments.nodes[]"
        " | select(.author.login == $me) | .body | @json"
    )
    for line in gh(*words, *fields, "--jq", ours).decode().splitlines():
        body = json.loads(line)
        if mark in body:
            shown = f"\n{body}".partition(FOOTER)[0].partition("\n<!-- deployer")[0]
            lines = "\n".join(it.rstrip() for it in shown.splitlines())
            return hashlib.sha256(lines.strip().encode()).hexdigest()
    raise NotApprovedError("it has no comment with its plan")


def api(path: str) -> Any:  # noqa: ANN401 - JSON
    """The answer of the repository's API."""
    return json.loads(raw(path))


def raw(path: str) -> bytes:
    """The answer, as it is."""
    return gh(f"repos/{REPOSITORY}/{path}")


def gh(*words: str) -> bytes:
    """What GitHub answers; ends the run where it does not."""
    host = os.environ.get("GITHUB_SERVER_URL", "https://github.com").partition("://")[2]
    env = {**os.environ, "GH_HOST": host}
    if host != "github.com":
        env["GH_ENTERPRISE_TOKEN"] = env.pop("GH_TOKEN", "")
    done = started("gh", "api", *words, env=env)
    if done.returncode:
        refuse(done)
    return done.stdout


def started(
    *words: str, env: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[bytes]":
    """A program of the runner, once it has ended."""
    return subprocess.run(words, capture_output=True, env=env, check=False)  # noqa: S603 - fixed programs


def refuse(done: "subprocess.CompletedProcess[bytes]") -> NoReturn:
    """End the run where it cannot be known what was approved."""
    said = done.stderr.decode(errors="replace").strip().replace("%", "%25")
    print(f"::error title=deployer::what was approved is not known: {said!r}")
    sys.exit(1)


if __name__ == "__main__":
    main()
