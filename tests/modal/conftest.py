import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.modal.emulated import Emulated, emulator
from tests.modal.project import KEY, SECRET, Project, digest_of, make_source, served

VOLUME = "deployer-store"
BUILDS = "deployer-builds"


@pytest.fixture(scope="session")
def sources(
    llama_server: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mapping[str, str]]:
    """Where a build and weights come from, as a stack names them."""
    repository = make_source(tmp_path_factory.mktemp("source"), llama_server)
    with served(tiny_model.parent) as site:
        yield {
            "REPOSITORY": repository,
            "MODEL": f"{site}/{tiny_model.name}",
            "SHA256": digest_of(tiny_model),
        }


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Emulated]:
    """A control plane, with the secret that the stack names."""
    with emulator(tmp_path / "cloud") as made:
        made.secret(SECRET, {"LLAMA_API_KEY": KEY})
        yield made


@pytest.fixture
def project(cloud: Emulated, sources: Mapping[str, str], tmp_path: Path) -> Project:
    """A project with a stack that is not deployed."""
    made = Project(tmp_path / "project", cloud, sources)
    made.write()
    return made


@pytest.fixture(scope="session")
def filled(
    sources: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Volumes with the build and the weights of the stack."""
    folder = tmp_path_factory.mktemp("filled")
    with emulator(folder / "cloud") as cloud:
        cloud.secret(SECRET, {"LLAMA_API_KEY": KEY})
        project = Project(folder / "project", cloud, sources)
        project.write()
        done = project.run("fetch", "stacks/tiny.yaml")
        assert done.code == 0, done.out + done.err
        return (cloud.folder / "volumes").rename(folder / "volumes")


@pytest.fixture
def ready(project: Project, filled: Path) -> Project:
    """A project whose build and weights are there already."""
    return _with_artefacts(project, filled)


@pytest.fixture
def live(ready: Project) -> Project:
    """A project whose stack is live."""
    ready.apply()
    return ready


@pytest.fixture(scope="module")
def lasting(
    sources: Mapping[str, str], filled: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Project]:
    """A project whose stack is live, for all tests of a module: each leaves it so."""
    folder = tmp_path_factory.mktemp("lasting")
    with emulator(folder / "cloud") as cloud:
        cloud.secret(SECRET, {"LLAMA_API_KEY": KEY})
        project = Project(folder / "project", cloud, sources)
        project.write()
        _with_artefacts(project, filled).apply()
        yield project


def _with_artefacts(project: Project, filled: Path) -> Project:
    target = project.cloud.folder / "volumes"
    shutil.copytree(filled, target, copy_function=os.link, dirs_exist_ok=True)
    return project
