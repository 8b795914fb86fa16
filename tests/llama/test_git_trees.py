"""Source trees from a repository."""

from pathlib import Path

import pytest

from deployer.errors import SourceError
from deployer.llama.build.trees import SourceRequest, fetch_tree, pin_tree
from deployer.llama.git import nearest_tags, pulls_between
from tests.llama.small_source import FILES, around, fetched, git, names, write_tree


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A bare repository with two builds, the second also a release."""
    checkout = write_tree(tmp_path / "checkout")
    git(checkout, "init", "--quiet", "--initial-branch=master")
    for tag, release in (("b1", None), ("b2", "v0.1.0")):
        (checkout / "VERSION").write_text(tag)
        git(checkout, "add", "--all")
        git(checkout, "commit", "--quiet", "--message", tag)
        git(checkout, "tag", tag)
        if release:
            git(checkout, "tag", "--annotate", "--message", release, release)
    git(tmp_path, "clone", "--quiet", "--bare", str(checkout), "llama.git")
    return tmp_path / "llama.git"


def from_git(repository: Path, tag: str, commit: str | None = None) -> SourceRequest:
    return SourceRequest("git", tag, commit=commit, repo=repository.as_uri())


def test_a_tag_is_pinned_by_its_commit(repository: Path, tmp_path: Path) -> None:
    pin = pin_tree(from_git(repository, "b1"), (), around(tmp_path))
    commit = git(repository, "rev-parse", "b1")
    assert pin.identity == {"commit": commit}
    assert pin.about == {"number": 1, "commit": commit}


def test_a_release_is_the_build_of_the_same_commit(
    repository: Path, tmp_path: Path
) -> None:
    pin = pin_tree(from_git(repository, "v0.1.0"), (), around(tmp_path))
    assert pin.about["number"] == 2
    assert pin.identity == {"commit": git(repository, "rev-parse", "b2")}


def test_a_commit_without_tag_is_counted_as_upstream_does(
    repository: Path, tmp_path: Path
) -> None:
    commit = git(repository, "rev-parse", "b2")
    for tag in ("b2", "v0.1.0"):
        git(repository, "tag", "--delete", tag)
    git(repository, "config", "uploadpack.allowFilter", "true")
    pin = pin_tree(from_git(repository, commit), (), around(tmp_path))
    assert pin.about["number"] == 2


def test_the_tree_of_the_commit_is_fetched_and_no_more(
    repository: Path, tmp_path: Path
) -> None:
    where = around(tmp_path)
    pin = pin_tree(from_git(repository, "b1"), (), where)
    tree = fetched(pin, tmp_path, where)
    assert (tree / "VERSION").read_text() == "b1"
    assert names(tree) == FILES.keys() | {"VERSION"}
    (cache,) = (where.downloads / "git").iterdir()
    assert git(cache, "rev-list", "--all", "--count") in ("0", "1")


def test_what_was_fetched_needs_no_network(repository: Path, tmp_path: Path) -> None:
    where = around(tmp_path)
    pin = pin_tree(from_git(repository, "b1"), (), where)
    fetched(pin, tmp_path, where)
    repository.rename(tmp_path / "away")
    (tmp_path / "again").mkdir()
    fetch_tree(pin, tmp_path / "again", where)
    assert (tmp_path / "again/VERSION").read_text() == "b1"


def test_pull_requests_between_two_builds_come_from_the_log(
    repository: Path, tmp_path: Path
) -> None:
    checkout = tmp_path / "checkout"
    git(repository, "config", "uploadpack.allowFilter", "true")
    for name, subject in (
        ("b3", "server : fix a thing (#31)"),
        ("b4", "sync"),
        ("b5", "llama : add (#7) again (#32)"),
    ):
        git(checkout, "commit", "--quiet", "--allow-empty", "--message", subject)
        git(checkout, "tag", name)
    git(checkout, "push", "--quiet", "--tags", str(repository))
    where = around(tmp_path)
    asked = repository.as_uri(), "b2", "b5", where.downloads, where.environment
    where.downloads.mkdir(parents=True)
    found = pulls_between(*asked)
    assert [*map(tuple, found)] == [
        (32, "llama : add (#7) again"),
        (31, "server : fix a thing"),
    ]
    with pytest.raises(SourceError, match="has no tag `b9`"):
        pulls_between(asked[0], "b2", "b9", *asked[3:])


def check_git(request: SourceRequest, folder: Path, what: str, hint: str) -> None:
    with pytest.raises(SourceError) as caught:
        pin_tree(request, (), around(folder))
    assert what in caught.value.message
    assert hint in caught.value.hint


def test_the_tags_near_one_without_an_archive(repository: Path, tmp_path: Path) -> None:
    near = nearest_tags(repository.as_uri(), "b3", tmp_path / "downloads", {})
    assert sorted(near) == ["b1", "b2"]


def test_a_tag_that_is_not_there_names_the_nearest(
    repository: Path, tmp_path: Path
) -> None:
    request = from_git(repository, "b7")
    check_git(request, tmp_path, "has no tag `b7`", "nearest: `b1`, `b2`")


def test_a_release_that_is_not_there_names_releases(
    repository: Path, tmp_path: Path
) -> None:
    request = from_git(repository, "v9.9.9")
    check_git(request, tmp_path, "has no tag `v9.9.9`", "nearest: `v0.1.0`")


def test_a_commit_that_is_not_there(repository: Path, tmp_path: Path) -> None:
    request = from_git(repository, "0123456789" * 4)
    check_git(request, tmp_path, "has no commit 012345678", "was it pushed?")


def test_a_short_commit_must_be_known(repository: Path, tmp_path: Path) -> None:
    check_git(from_git(repository, "0123456"), tmp_path, "`0123456`", "all 40 digits")


def test_a_short_commit_of_a_tag_is_enough(repository: Path, tmp_path: Path) -> None:
    commit = git(repository, "rev-parse", "b1")
    pin = pin_tree(from_git(repository, commit[:9]), (), around(tmp_path))
    assert pin.identity == {"commit": commit}


def test_a_tag_that_is_another_commit(repository: Path, tmp_path: Path) -> None:
    request = from_git(repository, "b1", commit="abcdef0")
    check_git(request, tmp_path, "the stack says abcdef0", "the tag was moved")


def test_a_repository_that_cannot_be_reached(tmp_path: Path) -> None:
    request = from_git(tmp_path / "nowhere.git", "b1")
    check_git(request, tmp_path, "could not be reached", "`llama_cpp.source: pypi`")


@pytest.mark.parametrize(
    "repo", ["ext::sh -c id", "--upload-pack=id", "http://x/y", "/srv/llama.git"]
)
def test_what_is_no_address_is_not_asked(tmp_path: Path, repo: str) -> None:
    request = SourceRequest("git", "b1", repo=repo)
    check_git(request, tmp_path, "is not an address of a git repository", "https://")


def test_a_password_in_an_address_is_refused_and_not_shown(tmp_path: Path) -> None:
    request = SourceRequest("git", "b1", repo="https://me:hunter2@host/x")
    check_git(request, tmp_path, "carries a user name or password", "credential")
    with pytest.raises(SourceError) as caught:
        pin_tree(request, (), around(tmp_path))
    assert "hunter2" not in caught.value.message
