import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.frozen import Frozen, frozen
from tests.cli.project import Project, link_store
from tests.ports import quiet_port

MakeProject = Callable[[Path], Project]


@pytest.fixture(scope="session")
def make_project(
    llama_server: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MakeProject]:
    """Projects with the real llama-server, which is copied into a store only once."""
    made: list[Project] = []

    def make(folder: Path) -> Project:
        project = _project(folder, llama_server)
        (project.stack.parent / "tiny.gguf").write_bytes(tiny_model.read_bytes())
        link_store(seed.home, project.home)
        made.append(project)
        return project

    folder = tmp_path_factory.mktemp("seed")
    seed = _project(folder, llama_server)
    (seed.stack.parent / "tiny.gguf").write_bytes(tiny_model.read_bytes())
    seed.write()
    done = seed.run("fetch", "stacks/demo.yaml")
    assert done.code == 0, done.err
    yield make
    for project in made:
        project.end()


@pytest.fixture
def project(make_project: MakeProject, tmp_path: Path) -> Iterator[Project]:
    """A project with a stack of the tiny model that is not deployed."""
    made = make_project(tmp_path / "project")
    made.write()
    yield made
    made.end()


@pytest.fixture
def live(project: Project) -> Project:
    """A project whose stack is live."""
    done = project.run("apply", "stacks/demo.yaml", "--yes")
    assert done.code == 0, done.out + done.err
    return project


@pytest.fixture
def paper(tmp_path: Path) -> Project:
    """A project whose binary and model only look right: nothing of it can run."""
    binary = tmp_path / "llama-server"
    binary.write_bytes(Path(sys.executable).read_bytes()[:4096])
    binary.chmod(0o755)
    made = _project(tmp_path / "project", binary)
    made.home.mkdir()
    (made.stack.parent / "tiny.gguf").write_bytes(b"GGUF\x03\0\0\0" + bytes(100))
    made.write()
    return made


@pytest.fixture(scope="module")
def deployed(
    make_project: MakeProject, criu: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Frozen]:
    """A stack that is live from its snapshot, for all tests of a module."""
    project = make_project(tmp_path_factory.mktemp("frozen") / "project")
    with frozen(project, criu) as made:
        yield made


@pytest.fixture
def crashed(deployed: Frozen) -> Iterator[Frozen]:
    """A server that comes from a snapshot, and was killed."""
    deployed.kill()
    with deployed.kept():
        yield deployed
        deployed.kill()


def _project(folder: Path, binary: Path) -> Project:
    (folder / "stacks").mkdir(parents=True)
    return Project(folder, folder / "home", quiet_port(), binary)
