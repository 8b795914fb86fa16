"""A checkout does not decide where credentials go: the environment or the base does."""

import shlex
import subprocess
from collections.abc import Mapping

import pytest

from deployer.errors import AuthError, UsageError
from deployer.stack.addresses import host_of, is_loopback, is_metadata
from deployer.state.objects import open_bucket, refuse_none
from tests.cli.project import STACK, Done, Project
from tests.state.s3 import REGION, Proxy

pytestmark = pytest.mark.trust
DEMO = "stacks/demo.yaml"
KEYS = {"AWS_ACCESS_KEY_ID": "of-the-tests", "AWS_SECRET_ACCESS_KEY": "of-the-tests"}
NEAR = "version: 1\nstate: {backend: s3, bucket: team, prefix: prod}\n"
REFUSED = "which this environment does not allow: a checkout does not decide where"


def git(project: Project, *words: str) -> str:
    words = ("git", "-c", "user.name=t", "-c", "user.email=t@example.org", *words)
    done = subprocess.run(
        words, cwd=project.folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def based(paper: Project) -> Project:
    """A branch of a repository whose `main` names a bucket that nobody answers for."""
    (paper.folder / "deployer.yaml").write_text(NEAR.replace("team", "based"))
    git(paper, "init", "-q", "-b", "main")
    git(paper, "add", "-A")
    git(paper, "commit", "-qm", "base")
    git(paper, "update-ref", "refs/remotes/origin/main", "main")
    git(paper, "switch", "-qc", "work")
    paper.write(STACK.replace("1024", "2048"))
    git(paper, "commit", "-qam", "change")
    return paper


def is_believed(project: Project, env: Mapping[str, str], *more: str) -> bool:
    """Whether the place was let in: without credentials it is the next trouble."""
    done = project.run("plan", DEMO, *more, env=env)
    assert ("no credentials for `s3://" in done.err) != (REFUSED in done.err), done
    return REFUSED not in done.err


def test_a_bucket_of_the_base_is_believed_and_another_is_not(based: Project) -> None:
    since = ("--changed-since", "main")
    assert is_believed(based, {}, *since)
    assert not is_believed(based, {})
    (based.folder / "deployer.yaml").write_text(NEAR)
    git(based, "commit", "-qam", "theirs")
    assert not is_believed(based, {}, *since)


def test_a_pull_request_is_compared_with_its_target(based: Project) -> None:
    github = {"GITHUB_ACTIONS": "true", "GITHUB_BASE_REF": "main"}
    gitlab = {"GITLAB_CI": "true", "CI_MERGE_REQUEST_TARGET_BRANCH_NAME": "main"}
    for env in (github, gitlab):
        assert is_believed(based, env)
    (based.folder / "deployer.yaml").write_text(NEAR)
    git(based, "commit", "-qam", "theirs")
    mine = {"GITHUB_SHA": git(based, "rev-parse", "HEAD")}
    for env in (github, gitlab, {**github, **mine, "GITHUB_REF_PROTECTED": "true"}):
        assert not is_believed(based, env)


def test_a_protected_branch_is_its_own_base(based: Project) -> None:
    commit = git(based, "rev-parse", "HEAD")
    github = {"GITHUB_ACTIONS": "true", "GITHUB_SHA": commit}
    gitlab = {"GITLAB_CI": "true", "CI_COMMIT_SHA": commit}
    assert is_believed(based, {**github, "GITHUB_REF_PROTECTED": "true"})
    assert is_believed(based, {**gitlab, "CI_COMMIT_REF_PROTECTED": "true"})
    assert not is_believed(based, {**github, "GITHUB_REF_PROTECTED": "false"})
    (based.folder / "deployer.yaml").write_text(NEAR)  # another checkout than that
    assert not is_believed(based, {**github, "GITHUB_REF_PROTECTED": "true"})


def test_a_base_says_nothing_of_plain_http(based: Project) -> None:
    clear = '{backend: s3, bucket: b, endpoint: "http://127.0.0.1:9"}'
    (based.folder / "deployer.yaml").write_text(f"version: 1\nstate: {clear}\n")
    git(based, "commit", "-qam", "clear")
    git(based, "update-ref", "refs/remotes/origin/main", "HEAD")
    github = {"GITHUB_ACTIONS": "true", "GITHUB_BASE_REF": "main"}
    assert not is_believed(based, github)
    allowed = {"DEPLOYER_ALLOW_STATE": "s3://b?endpoint=http://127.0.0.1:9"}
    assert is_believed(based, allowed)


@pytest.mark.parametrize(
    ("allowed", "believed"),
    [
        ("s3://team/prod", True),
        ("s3://team", True),
        ("gs://team, s3://team/prod/", True),
        ("s3://team/prod?region=eu-west-1", True),
        ("s3://team/pro", False),
        ("s3://team/prod/stacks", False),  # the project is wider
        ("s3://other/prod", False),
        ("gs://team/prod", False),
        ("s3://team/prod?endpoint=https://minio.example.org", False),
        ("", False),
    ],
)
def test_the_environment_allows_a_place_and_what_lies_below(
    paper: Project, allowed: str, *, believed: bool
) -> None:
    (paper.folder / "deployer.yaml").write_text(NEAR)
    assert is_believed(paper, {"DEPLOYER_ALLOW_STATE": allowed}) is believed


def test_the_error_holds_the_line_to_type_and_the_line_works(
    paper: Project, s3: tuple[Proxy, str]
) -> None:
    proxy, url = s3
    place = f"{{backend: s3, bucket: states, prefix: typed, endpoint: {url}}}"
    (paper.folder / "deployer.yaml").write_text(f"version: 1\nstate: {place}\n")
    refused = paper.run("plan", DEMO, env=KEYS)
    assert refused.code == 3
    assert refused.err.startswith(
        f"error: `deployer.yaml` names `s3://states/typed?endpoint={url}` for the"
        f" states, {REFUSED}"
    )
    assert proxy.connections == 0
    typed = refused.err.partition("`export ")[2].partition("`")[0]
    name, _, value = typed.partition("=")
    allowed = {**KEYS, "AWS_REGION": REGION, name: shlex.split(value)[0]}
    done = paper.run("plan", DEMO, env=allowed)
    assert done.code == 0, done.err
    assert proxy.connections > 0


@pytest.mark.parametrize("command", ["status", "history", "destroy", "state list"])
def test_a_pull_request_gets_no_credential_of_the_job(
    paper: Project, s3: tuple[Proxy, str], command: str
) -> None:
    proxy, url = s3
    account = f'account: acc, bucket: c, endpoint: "{url}"'
    text = f"version: 1\nstate: {{backend: az, {account}}}\n"
    (paper.folder / "deployer.yaml").write_text(text)
    where = "stacks" if command == "state list" else DEMO
    keys = {"AZURE_STORAGE_ACCOUNT_KEY": "b2YtdGhlLXRlc3Rz"}
    done: Done = paper.run(*command.split(), where, env=keys)
    assert done.code == 3
    assert REFUSED in done.err
    assert proxy.connections == 0


def test_a_plan_without_state_asks_nobody_and_needs_no_allowance(
    paper: Project,
) -> None:
    (paper.folder / "deployer.yaml").write_text(NEAR)
    paper.write(STACK.replace("name: demo", "name: two"), "two")
    done = paper.run("plan", "stacks", "--without-state")
    assert done.code == 0, done.err


def test_a_folder_of_states_lies_in_the_project(
    paper: Project, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("elsewhere")
    text = f"version: 1\nstate: {{backend: file, path: {outside}}}\n"
    (paper.folder / "deployer.yaml").write_text(text)
    (paper.folder / ".git").mkdir()
    done = paper.run("plan", DEMO)
    assert done.code == 3
    assert f"keeps states in `{outside}`, outside of its project" in done.err
    allowed = f"{paper.binary.parent}:{outside}"
    assert paper.run("plan", DEMO, env={"DEPLOYER_ALLOW_OUTSIDE": allowed}).code == 0


@pytest.mark.parametrize(
    "where", ["model.url", "llama_cpp.repo https", "llama_cpp.repo ssh"]
)
def test_no_field_names_a_metadata_service(paper: Project, where: str) -> None:
    host = "metadata.google.internal"
    texts = {
        "model.url": STACK.replace("path: tiny.gguf", f"url: https://{host}/m.gguf"),
        "llama_cpp.repo https": STACK.replace(
            "binary: BINARY", f"source: git\n  repo: https://{host}/llama.git"
        ),
        "llama_cpp.repo ssh": STACK.replace(
            "binary: BINARY", f"source: git\n  repo: git@{host}:llama.git"
        ),
    }
    paper.write(texts[where])
    done = paper.run("plan", DEMO)
    assert done.code == 3
    assert "an address at which clouds give machines their credentials" in done.err


def test_plain_http_is_for_this_machine_only() -> None:
    for host in ("minio", "203.0.113.7", "localhost.example.org"):
        with pytest.raises(UsageError, match="over plain http, which shows the cred"):
            open_bucket("s3://b", {"endpoint": f"http://{host}:9000"})


@pytest.mark.parametrize("scheme", ["s3", "gs", "az"])
def test_the_machine_is_asked_for_credentials_only_where_that_is_said(
    scheme: str,
) -> None:
    half = {"AWS_ACCESS_KEY_ID": "a", "AZURE_CLIENT_ID": "a"}
    off = {"AWS_SKIP_SIGNATURE": "false", "AZURE_USE_AZURE_CLI": "0"}
    for environment in ({}, half, off, {"DEPLOYER_INSTANCE_CREDENTIALS": "no"}):
        with pytest.raises(AuthError, match="no credentials for `x` are in the env"):
            refuse_none(scheme, "x", environment)
    refuse_none(scheme, "x", {"DEPLOYER_INSTANCE_CREDENTIALS": "1"})


@pytest.mark.parametrize(
    "host",
    [
        *("169.254.169.254", "169.254.170.2", "[fd00:ec2::254]", "[fe80::1%eth0]"),
        *("2852039166", "0xA9FEA9FE", "0251.0376.0251.0376", "169.254.43518"),
        *("0xa9.254.169.254", "[::ffff:169.254.169.254]", "[64:ff9b::a9fe:a9fe]"),
        *("metadata.google.internal", "METADATA.GOOGLE.INTERNAL.", "169.254.169.254."),
    ],
)
def test_a_metadata_service_is_known_however_it_is_written(host: str) -> None:
    assert is_metadata(host)
    assert is_metadata(host_of(f"https://me:pw@{host}:80/latest"))


@pytest.mark.parametrize(
    "host",
    ["huggingface.co", "10.0.0.1", "127.0.0.1", "09.1", "1.2.3.4.5", "", "[::1]"],
)
def test_any_other_host_is_none(host: str) -> None:
    assert not is_metadata(host)
    assert not is_loopback("169.254.169.254")
