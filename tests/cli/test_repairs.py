"""What apply needs and finds damaged is made again, and the plan says why."""

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.cli.project import STACK, Project

pytestmark = [pytest.mark.real, pytest.mark.trust]
DEMO = "stacks/demo.yaml"
MODEL = "tiny.gguf"
Damage = Callable[[Path], None]


def build_of(project: Project) -> Path:
    """The one build in the store of a project."""
    (folder,) = (project.home / "build").iterdir()
    return folder


def library_of(build: Path) -> Path:
    """The largest file of a build: a library without which nothing starts."""
    files = [f for f in build.rglob("*") if f.is_file() and not f.is_symlink()]
    return max(files, key=lambda file: file.stat().st_size)


def rewrite(file: Path, content: bytes) -> None:
    """Put other content at a path; the file is shared with the store of other tests."""
    status = file.stat()
    file.unlink()
    file.write_bytes(content)
    file.chmod(0o555)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def cut(build: Path) -> None:
    rewrite(library_of(build), b"")


def zero(build: Path) -> None:
    library = library_of(build)
    rewrite(library, bytes(library.stat().st_size))


def flip(build: Path) -> None:
    library = library_of(build)
    content = bytearray(library.read_bytes())
    content[-1] ^= 1
    rewrite(library, bytes(content))


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (shutil.rmtree, "its folder is gone"),
        (cut, "` is 0 B, was "),
        (zero, "` has other content than when it was published"),
        (flip, "` has other content than when it was published"),
    ],
)
def test_a_damaged_build_is_seen_while_the_server_lives_and_made_again(
    live: Project, damage: Damage, why: str
) -> None:
    build, server = build_of(live), live.server()
    library = library_of(build)
    content = library.read_bytes()
    damage(build)
    plan = live.run("plan", DEMO, "--refresh", "--detailed-exitcode")
    applied = live.run("apply", DEMO, "--yes")
    after = live.run("plan", DEMO, "--refresh", "--detailed-exitcode")

    assert plan.code == 2, plan.out + plan.err
    (drift,) = (line for line in plan.out.splitlines() if "! drift" in line)
    assert drift.startswith("  ! drift    demo/build: ")
    assert why in drift
    assert applied.code == 0, applied.out + applied.err
    assert why in applied.out
    assert library.read_bytes() == content
    assert live.server() == server
    assert after.code == 0, after.out


def test_a_server_whose_build_is_gone_is_started_again(live: Project) -> None:
    live.end()
    shutil.rmtree(build_of(live))
    applied = live.run("apply", DEMO, "--yes")

    assert applied.code == 0, applied.out + applied.err
    assert "its folder is gone" in applied.out
    assert "crashed or was killed" in applied.out
    assert live.server()


def test_a_rollback_makes_a_damaged_build_again(live: Project) -> None:
    text = live.stack.read_text("utf-8")
    live.stack.write_text(text.replace("ctx_size: 1024", "ctx_size: 512"), "utf-8")
    assert live.run("apply", DEMO, "--yes").code == 0
    shutil.rmtree(build_of(live))
    done = live.run("rollback", DEMO, "1", "--yes")

    assert done.code == 0, done.out + done.err
    assert "its folder is gone" in done.out


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def download(project: Project) -> Iterator[Project]:
    """A stack that is live with weights that are fetched over HTTP."""
    model = project.stack.with_name(MODEL)
    serve = partial(_Quiet, directory=str(model.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        digest = hashlib.sha256(model.read_bytes()).hexdigest()
        url = f"http://127.0.0.1:{server.server_port}/{MODEL}"
        pinned = f"url: {url}\n  sha256: {digest}"
        project.write(STACK.replace(f"path: {MODEL}", pinned))
        done = project.run("apply", DEMO, "--yes")
        assert done.code == 0, done.out + done.err
        yield project
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (shutil.rmtree, "its folder is gone"),
        (lambda folder: (folder / MODEL).unlink(), "`tiny.gguf` is gone"),
        (lambda folder: rewrite(folder / MODEL, b"GGUF"), "is 4 B, was "),
        (lambda folder: _zeroed(folder / MODEL), "` has other content than"),
    ],
)
def test_damaged_weights_are_seen_and_fetched_again(
    download: Project, damage: Damage, why: str
) -> None:
    (folder,) = (download.home / "weights").iterdir()
    content, server = (folder / MODEL).read_bytes(), download.server()
    damage(folder)
    plan = download.run("plan", DEMO, "--refresh", "--detailed-exitcode")
    applied = download.run("apply", DEMO, "--yes")

    assert plan.code == 2, plan.out + plan.err
    assert "  ! drift    demo/weights: " in plan.out
    assert why in plan.out
    assert applied.code == 0, applied.out + applied.err
    assert (folder / MODEL).read_bytes() == content
    assert download.server() == server


def test_weights_of_the_user_that_changed_are_deployed_with_the_cause(
    live: Project,
) -> None:
    model = live.stack.with_name(MODEL)
    content = model.read_bytes()
    rewrite(model, content[:-1] + bytes([content[-1] ^ 1]))
    changed = live.run("apply", DEMO, "--yes")
    model.unlink()
    gone = live.run("plan", DEMO, "--refresh")

    assert changed.code == 0, changed.err
    assert f"! drift    demo/weights: `{model}` has other content than" in changed.out
    assert "Release 2 is live" in changed.out
    assert gone.code == 3
    assert gone.err.startswith(f"{DEMO}:10:3: error: there is no file `{MODEL}`")


def test_no_cache_reads_what_no_stamp_shows(live: Project) -> None:
    """The stamp of the flipped file is put into the manifest: a disk that decays."""
    build = build_of(live)
    library = library_of(build)
    content = library.read_bytes()
    flip(build)
    names = {library.relative_to(build).as_posix()}
    _know_stamps(build, names)
    plan = live.run("plan", DEMO, "--refresh", "--detailed-exitcode")
    read = live.run("plan", DEMO, "--refresh", "--no-cache", "--detailed-exitcode")
    applied = live.run("apply", DEMO, "--no-cache", "--yes")

    assert plan.code == 0, plan.out
    assert read.code == 2, read.out
    assert "has other content than when it was published" in read.out
    assert applied.code == 0, applied.err
    assert library.read_bytes() == content


def _zeroed(file: Path) -> None:
    rewrite(file, bytes(file.stat().st_size))


def _know_stamps(build: Path, names: set[str]) -> None:
    manifest = build / "manifest.json"
    told = json.loads(manifest.read_text("utf-8"))
    for name in names:
        status = (build / name).stat()
        told["files"][name] |= {
            "mtime_ns": status.st_mtime_ns,
            "ctime_ns": status.st_ctime_ns,
            "inode": status.st_ino,
        }
    rewrite(manifest, json.dumps(told).encode())
