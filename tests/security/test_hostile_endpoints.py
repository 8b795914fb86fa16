"""Endpoints of a stranger: no credential is sent, and no metadata service is asked."""

import json
import shutil
import subprocess
import sys
from typing import Any

import pytest

from tests.security.endpoints import ODD, cases
from tests.security.harness import ROOT

pytestmark = pytest.mark.trust
NAMESPACE = ("unshare", "--map-root-user", "--net")


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What every case came to; the first is the control."""
    possible = shutil.which("unshare") and shutil.which("ip")
    if not possible or subprocess.run((*NAMESPACE, "true"), check=False).returncode:
        pytest.skip("no network namespace can be made here")
    folder = tmp_path_factory.mktemp("endpoints")
    program = (sys.executable, "-m", "tests.security.endpoints", str(folder))
    done = subprocess.run(
        (*NAMESPACE, *program), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_what_is_allowed_is_asked(told: list[dict[str, Any]]) -> None:
    """The listeners hear, and the addresses are ours."""
    assert "::ffff:127.0.0.1:9000" in told[0]["met"]


def test_eighty_project_files_of_strangers_are_tried(
    told: list[dict[str, Any]],
) -> None:
    assert len(told) == len(cases()) + 1 > 80
    assert len(ODD) > 15


def test_no_host_of_a_project_file_is_connected_to(told: list[dict[str, Any]]) -> None:
    """So no credential is sent, to a metadata service or anybody."""
    assert [it for it in told[1:] if it["met"] or it["heard"]] == []


def test_each_ends_in_an_error_with_words(told: list[dict[str, Any]]) -> None:
    assert [it for it in told[1:] if it["harm"]] == []
    assert [it for it in told[1:] if it["code"] not in range(10)] == []
    quiet = ("plan", "refresh")  # of several stacks they go on with the others
    failed = [it for it in told[1:] if it["words"][0] not in quiet]
    assert [it for it in failed if it["code"] not in (1, 3, 4)] == []
