"""An engine is added by a row: commands know it without a change in `deployer/`."""

import inspect
import os
import re
import subprocess
import sys
from importlib.resources import files
from typing import get_type_hints

import pytest

from deployer.engines.contract import Engine
from deployer.engines.registry import ENGINES, EngineInfo, load
from deployer.stack.fields.marks import Section, fields_of
from tests.cli.conftest import paper  # noqa: F401 - a fixture
from tests.cli.project import ROOT, Project

STACK = """\
version: 1
name: demo
engine: fake
llama_cpp: {tag: b10434, binary: BINARY}
model: {path: tiny.gguf, alias: tiny}
server: {ctx_size: 1024}
gates: {health: {}}
"""


def ran(project: Project, *commands: str) -> str:
    """Return what commands print, run in one process in which the row was added."""
    words = " -- ".join(commands).split()
    done = subprocess.run(
        (sys.executable, "-m", "tests.engines.fake", *words),
        cwd=project.folder,
        env={**os.environ, "DEPLOYER_HOME": str(project.home), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return done.stdout + done.stderr


@pytest.fixture
def fake(paper: Project) -> Project:  # noqa: F811 - the fixture
    """A project with a stack on the fake engine."""
    paper.stack.write_text(STACK.replace("BINARY", "llama-server"), "utf-8")
    binary = paper.stack.parent / "llama-server"
    binary.write_bytes(paper.binary.read_bytes())
    binary.chmod(0o755)
    return paper


DEMO = "stacks/demo.yaml"


def test_a_new_engine_is_planned_applied_rolled_back_and_destroyed(
    fake: Project,
) -> None:
    out = ran(
        fake,
        f"validate {DEMO}",
        f"plan {DEMO}",
        f"render {DEMO}",
        f"apply {DEMO} --yes",
        f"plan {DEMO}",
        f"edit {DEMO} 1024 2048",
        f"apply {DEMO} --yes",
        f"rollback {DEMO} --yes",
        f"doctor {DEMO}",
        f"destroy {DEMO} --yes",
    )
    ended = re.findall(r"^\[(\w+) .*: (\d+)\]$", out, re.MULTILINE)
    assert ended == [
        *(("validate", "0"), ("plan", "0"), ("render", "0"), ("apply", "0")),
        *(("plan", "0"), ("edit", "0"), ("apply", "0"), ("rollback", "0")),
        *(("doctor", "0"), ("destroy", "0")),
    ], out
    assert "note: nothing of a fake world is real" in out
    assert "world.txt" in out
    assert "server.ctx_size   1024 → 2048" in out, out
    assert "the fake world is there" in out
    assert "nothing of `demo` runs any more" in out


def test_its_section_is_in_the_schema_and_its_checks_and_template_are_used(
    fake: Project,
) -> None:
    text = fake.stack.read_text("utf-8")
    fake.stack.write_text(text + "fake: {zone: nowhere}\n", "utf-8")
    out = ran(
        fake, "schema", f"validate {DEMO}", "init --template fake stacks/mine.yaml"
    )
    assert '"description": "Zone of the world; unset: the first."' in out
    assert "error: no zone `nowhere`" in out
    assert "wrote stacks/mine.yaml" in out, out
    assert "engine: fake" in (fake.folder / "stacks/mine.yaml").read_text("utf-8")


def test_a_part_that_a_row_leaves_out_is_empty() -> None:
    for part, value in EngineInfo._field_defaults.items():
        assert not value, part


CONTRACT = {
    name: inspect.signature(method)
    for name, method in vars(Engine).items()
    if not name.startswith("_")
}


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_has_every_method_of_the_contract(name: str) -> None:
    made = load(ENGINES[name].engine)
    kind = made if isinstance(made, type) else get_type_hints(made)["return"]
    for method, wanted in CONTRACT.items():
        own = getattr(kind, method, None)
        assert own is not None, f"{kind.__name__} lacks `{method}` of the contract"
        given = inspect.signature(own).parameters
        assert [*given] == [*wanted.parameters], f"{kind.__name__}.{method}"


@pytest.mark.parametrize("name", ENGINES)
def test_every_part_of_a_row_is_there(name: str) -> None:
    info = ENGINES[name]
    for part, value in info._asdict().items():
        if isinstance(value, str) and ":" in value:
            assert callable(load(value)), part
    section = load(info.section)
    assert issubclass(section, Section)
    section()  # a stack may leave it out
    for field_name in filter(None, (info.place, info.memory)):
        assert field_name in fields_of(section)
    for template in info.templates.values():
        package, _, file = template.file.partition(":")
        assert (files(package) / file).is_file()
