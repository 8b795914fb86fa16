"""A draft and two adapters on the real server: applied, changed, and rolled back."""

from deployer.engines.local.snapshot.proof import Door
from tests.cli.project import KEY, STACK, Project
from tests.models.adapter import write_lora

BESIDE = """\
  alias: tiny
  draft: {path: tiny.gguf}
  lora:
    - {path: a.gguf, scale: 0.5}
    - {path: b.gguf}
"""
FULL = STACK.replace("  alias: tiny\n", BESIDE).replace(
    "server:\n", "server:\n  speculative: {type: draft-simple, n_max: 4}\n"
)
APPLY = ("apply", "stacks/demo.yaml", "--yes")


def adapters(project: Project) -> list[float]:
    """How strongly the live server applies each adapter."""
    door = Door("127.0.0.1", project.port, KEY)
    status, found = door.get("/lora-adapters", 60)
    assert status == 200
    assert isinstance(found, list)
    return [round(float(str(it["scale"])), 3) for it in found if isinstance(it, dict)]


def test_a_draft_and_two_adapters_from_apply_to_rollback(project: Project) -> None:
    folder = project.stack.parent
    write_lora(folder / "a.gguf")
    first = write_lora(folder / "b.gguf", alpha=2.0).read_bytes()
    project.write(FULL)

    done = project.run(*APPLY)
    assert done.code == 0, done.out + done.err
    assert adapters(project) == [0.5, 1.0]
    pid = project.server()

    project.write(FULL.replace("scale: 0.5", "scale: 0.8"))
    done = project.run(*APPLY)
    assert done.code == 0, done.out + done.err
    assert "model.lora.0.scale   0.5 → 0.8" in done.out
    assert adapters(project) == [0.8, 1.0]
    assert project.server() == pid, "it was changed in place"

    write_lora(folder / "b.gguf", alpha=3.0)
    plan = project.run("plan", "stacks/demo.yaml").out
    assert "± lora-1" in plan
    assert "because lora-1 is replaced" in plan
    done = project.run(*APPLY)
    assert done.code == 0, done.out + done.err
    assert project.server() != pid

    (folder / "b.gguf").write_bytes(first)
    done = project.run("rollback", "stacks/demo.yaml", "--yes")
    assert done.code == 0, done.out + done.err
    assert adapters(project) == [0.8, 1.0]

    write_lora(folder / "a.gguf", architecture="llama")
    refused = project.run("plan", "stacks/demo.yaml")
    assert refused.code == 3
    assert "made for `llama`, and the model is `gemma4`" in refused.err
