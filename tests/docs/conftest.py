"""The site, built once for all tests that look at it."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, ROOT

BUILD = """\
import logging, sys
from mkdocs.commands.build import build
from mkdocs.config import load_config
logging.basicConfig()
docs, site = sys.argv[1:]
build(load_config("mkdocs.yml", docs_dir=docs, site_dir=site, strict=True))
"""


def build(docs: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """As `mkdocs build --strict` does, with another folder of pages."""
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BUILD, docs, site],
        cwd=ROOT,
        env={"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(DOCS, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder
