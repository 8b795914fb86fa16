"""Addresses of git repositories, as git would read them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from deployer.stack.addresses import leads_out, trouble_of


@pytest.mark.parametrize(
    "repo",
    [
        "https://github.com/ggml-org/llama.cpp",
        "https://example.org/a%20b",
        "ssh://git@example.org/llama.cpp",
        "git@example.org:ggml-org/llama.cpp",
        "file:///srv/git/llama cpp.git",
    ],
)
def test_an_address_that_says_where_it_leads(repo: str) -> None:
    assert trouble_of(repo) is None


@pytest.mark.parametrize(
    ("repo", "what"),
    [
        ("file:///p/%2e%2e/private", "contains `%`: git decodes it"),
        ("file:///p/%252e%252e/private", "contains `%`: git decodes it"),
        ("file://localhost/etc", "names a host"),
        ("FILE:///etc", "names a host"),
        ("file://../private", "names a host"),
        ("file:///~root/private", "contains `~`"),
        ("file:///p\\..\\private", "contains `\\`"),
        ("file:///p\n/private", "control characters"),
        ("ext::sh -c touch% /tmp/x", "not an address"),
        ("host:path", "not an address"),
        ("/etc", "not an address"),
        ("../private", "not an address"),
        ("~/private", "not an address"),
        ("fd::7", "not an address"),
        ("http://example.org/x", "not an address"),
        ("ssh://-oProxyCommand=touch/x", "not an address"),
        ("ssh://-l@example.org/x", "not an address"),
        ("-oProxyCommand=x@example.org:y", "not an address"),
        ("git@example.org:-x", "not an address"),
        ("https://[::1", "not an address"),
        ("https://me:secret@example.org/x", "carries a user name or password"),
    ],
)
def test_an_address_that_may_mean_another_place(repo: str, what: str) -> None:
    told = trouble_of(repo)
    assert told is not None
    assert what in told[0]
    assert "secret" not in told[0]


@pytest.mark.parametrize(
    "lead",
    [
        lambda repo, out: (repo / "commondir").write_text(f"{out}\n"),
        lambda repo, out: (repo / "objects/info/alternates").write_text(f"{out}\n"),
        lambda repo, out: (repo / "objects/pack").symlink_to(out),
        lambda repo, out: (repo / "refs/heads").symlink_to(out),
        lambda repo, out: (repo / ".git").write_text(f"gitdir: {out}\n"),
        lambda repo, out: (repo / ".git").symlink_to(out),
    ],
)
def test_a_repository_that_takes_from_elsewhere(
    tmp_path: Path, lead: Callable[[Path, Path], None]
) -> None:
    repo = tmp_path / "llama.git"
    for name in ("objects/info", "refs"):
        (repo / name).mkdir(parents=True)
    assert leads_out(repo) == ""
    lead(repo, tmp_path)
    assert leads_out(repo)
