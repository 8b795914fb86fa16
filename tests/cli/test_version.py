"""`--version` asks nobody; `doctor --self` a real index, through the real pip."""

import os
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from deployer import DISTRIBUTION, __version__
from deployer.artefacts.sources.pypi import Newest
from deployer.diagnostics import Severity
from deployer.usecases.upgrade import compare, out_of_bounds
from tests.cli.project import Done, Project

WHEEL = DISTRIBUTION.replace("-", "_")
OURS = "Plan and apply for llama.cpp servers"


@dataclass
class Index:
    """A package index on loopback."""

    folder: Path
    url: str = ""
    asked: list[str] = field(default_factory=list)

    def add(self, version: str, summary: str = OURS) -> None:
        below = self.folder / DISTRIBUTION
        below.mkdir(exist_ok=True)
        info = f"{WHEEL}-{version}.dist-info"
        about = f"Metadata-Version: 2.1\nName: {DISTRIBUTION}\nVersion: {version}\n"
        with zipfile.ZipFile(below / f"{WHEEL}-{version}-py3-none-any.whl", "w") as it:
            it.writestr(f"{info}/METADATA", f"{about}Summary: {summary}\n")
            it.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
            it.writestr(f"{info}/RECORD", "")


class _Handler(SimpleHTTPRequestHandler):
    index: Index

    def log_message(self, *_: object) -> None:
        self.index.asked.append(self.path)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    found = Index(tmp_path / "simple")
    found.folder.mkdir()
    handler = type("Handler", (_Handler,), {"index": found})
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(handler, directory=str(found.folder))
    )
    found.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


def asked(project: Project, index: Index, *words: str) -> Done:
    clean: dict[str, str | None] = {k: None for k in os.environ if k.startswith("PIP_")}
    pip = {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": index.url,
        "PIP_RETRIES": "0",
    }
    return project.run(*words, env={**clean, **pip})


def test_alone_it_asks_nobody(paper: Project, index: Index) -> None:
    done = asked(paper, index, "--version")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"deployer {__version__} (Python 3.")
    assert len(done.out.splitlines()) == 1
    assert index.asked == []


def test_a_newer_version_is_told_and_is_no_fault(paper: Project, index: Index) -> None:
    index.add("0.0.1")
    index.add("99.1")
    done = asked(paper, index, "doctor", "--self")
    assert done.code == 0, done.out + done.err
    assert "  ↑ newest        99.1 is there\n    hint: " in done.out
    assert f"upgrade {DISTRIBUTION}" in done.out
    assert "  ✔ dependencies  all within their bounds\n" in done.out
    assert "  ✔ states        0 there, and this version reads them\n" in done.out
    assert f"/{DISTRIBUTION}/" in index.asked

    (told,) = asked(paper, index, "doctor", "--self", "--json").results()
    assert (told["newest"], told["newer"], told["version"]) == (
        "99.1",
        True,
        __version__,
    )


def test_the_newest_is_told_to_be_the_newest(paper: Project, index: Index) -> None:
    index.add(__version__)
    done = asked(paper, index, "doctor", "--self")
    assert done.code == 0
    assert f"✔ newest        the index has {__version__}, and none" in done.out


def test_what_could_not_be_told_exits_1(paper: Project, index: Index) -> None:
    done = asked(paper, index, "doctor", "--self")
    assert done.code == 1
    assert "✖ newest        unknown: the index has no package" in done.out

    index.url = "http://127.0.0.1:9"
    done = asked(paper, index, "doctor", "--self", "--json")
    told = done.results()[0]
    assert (done.code, told["newest"], told["newer"]) == (1, None, False)
    assert "the package index could not be reached" in told["findings"][0]["text"]


def test_forms_that_only_a_newer_one_reads_are_told(
    paper: Project, index: Index
) -> None:
    index.add(__version__)
    paper.state.parent.mkdir(parents=True)
    paper.state.write_text('{"version": 99}')
    (paper.stack.parent / "demo.lock.json").write_text('{"version": 99}')
    done = asked(paper, index, "doctor", "--self", "stacks/demo.yaml")
    assert done.code == 1
    assert "was written by a newer deployer (state version 99, this" in _flat(done)
    assert "was written by a newer deployer (lock version 99, this" in _flat(done)
    assert "hint: upgrade deployer" in done.out


def test_another_project_of_the_name_is_not_taken_for_a_newer_one() -> None:
    found = compare(Newest("3.0", "Deploy anything to anywhere", ()), "0.1.0")
    assert found.severity is Severity.ERROR
    assert "another project: Deploy anything to anywhere" in found.what
    ours = compare(Newest("3.0", "", ("llama.cpp",)), "0.1.0")
    assert ours.severity is Severity.FINE
    odd = compare(Newest("x.y!", OURS, ()), "0.1.0")
    assert odd.severity is Severity.ERROR


def test_versions_are_compared_as_versions() -> None:
    assert compare(Newest("0.10.0", OURS, ()), "0.9.0").what == "0.10.0 is there"
    assert "none that is newer" in compare(Newest("0.9.0", OURS, ()), "0.10.0").what


def test_bounds_hold_for_what_is_needed_and_for_what_is_there() -> None:
    wanted = (
        "click>=8.2",
        "filelock>=3.16",
        "rich<14",
        "modal<2,>=1.6.4; extra == 'modal'",
        "cmake>=3.25; extra == 'build'",
        "pytest>=99; extra == 'dev'",
        "six<1; python_version < '3'",
        "six<1; python_version < '3' and extra == 'hub'",
    )
    there = {
        "click": "8.1.7",
        "rich": "13.7.0",
        "modal": "2.0.0",
        "pytest": "8.2",
        "six": "1.16",
    }
    found = [it.what for it in out_of_bounds(wanted, there.get)]
    assert found == [
        "`click` is 8.1.7, and has to be >=8.2",
        "`filelock` is not installed, and has to be >=3.16",
        "`modal` is 2.0.0, and has to be <2,>=1.6.4",
    ]


def _flat(done: Done) -> str:
    return " ".join(done.out.split())
