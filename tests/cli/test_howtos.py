"""The how-to guides as they stand: their commands on a real llama-server."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.playing import DOCS, parts, play, yaml_of
from tests.cli.project import STACK, Project
from tests.ports import quiet_port
from tests.sources.conftest import sites
from tests.sources.hub import REPO, Hub, readable_by

NOT_PLAYED = {"systemd": "a unit of root; its commands and its form are checked below"}
TOKEN = "hf_ofTheTests"
SERVER = """\
#!/bin/sh
case " $* " in
  *" --version "*) echo 'version: 10434 (7e4c0a9)' >&2 ;;
  *) exec {} "$@" ;;
esac
"""
"""A server that says which build it is, as the one of the tests does not."""
PROD = {"stacks/prod.yaml": "stacks/demo.yaml", "10m": "0s"}


def test_a_how_to_guide_is_played_or_says_why_not() -> None:
    pages = {page.stem for page in (DOCS / "howto").glob("*.md")}
    played = {name for name in pages if parts(f"howto/{name}.md")}
    assert pages - played == NOT_PLAYED.keys()


def test_changes_and_a_lost_state(live: Project) -> None:
    """On one stack, in an order in which each finds what it begins with."""
    said = play(live, "howto/add-a-gate.md")
    assert any("Plan: 1 to re-validate." in text for text in said)

    live.write(STACK.replace("ctx_size: 1024", "ctx_size: 512"))
    assert live.run("apply", "stacks/demo.yaml", "--yes").code == 0
    said = play(live, "howto/rollback.md")
    assert any("server.ctx_size   1024 → 512" in text for text in said)
    refused = live.run("apply", "stacks/demo.yaml", "--yes")
    assert "still asks for it" in refused.err

    live.state.write_text("damaged", encoding="utf-8")
    said = play(live, "howto/lost-state.md", slice(1))
    shutil.rmtree(live.state.parent)
    said += play(live, "howto/lost-state.md", slice(1, None))
    assert any("goes on from serial" in text for text in said)
    assert any("it is taken as live" in text for text in said)


def test_a_key_a_second_model_and_looks(live: Project) -> None:
    said = play(live, "howto/rotate-key.md", slice(1))
    assert "✔ pass  auth" in said[-1]
    restarted = live.run("server", "restart", "stacks/demo.yaml")  # with its old key
    assert restarted.code == 0

    (second,) = yaml_of("howto/second-model.md")
    live.write(second.replace("8081", str(quiet_port())), "second")
    said = play(live, "howto/second-model.md")
    assert "in the store" in said[0]
    assert len(live.servers()) == 2
    assert live.run("destroy", "stacks/second.yaml", "--yes").code == 0

    said = play(live, "howto/no-answer.md", values=PROD)
    assert any("doctor" in text or "healthy" in text for text in said)
    for page in ("out-of-memory", "cost", "cold-start"):
        play(live, f"howto/{page}.md", values=PROD)


def test_staging_is_proven_before_production(project: Project) -> None:
    prod = STACK.replace("name: demo", "name: prod")
    project.write(prod, "prod")
    assert project.run("apply", "stacks/prod.yaml", "--yes").code == 0
    local, modal = yaml_of("howto/staging-to-production.md")
    assert "environment: staging" in modal
    project.write(local.replace("8081", str(quiet_port())), "prod-staging")
    project.write(prod.replace("ctx_size: 1024", "ctx_size: 512"), "prod")
    said = play(project, "howto/staging-to-production.md")
    assert "Release 1 is live" in said[0]
    assert any("server.ctx_size   1024 → 512" in text for text in said)
    assert "Release 2 is live" in said[-1]
    assert len(project.servers()) == 2


def test_a_file_of_your_own(project: Project, tiny_model: Path) -> None:
    (project.folder / ".git").mkdir()  # the project reaches from here down
    models = project.folder / "models"
    models.mkdir()
    shutil.copy(tiny_model, models / "mine.gguf")
    server = project.folder / "llama-server"
    server.write_text(SERVER.format(project.binary), encoding="utf-8")
    server.chmod(0o755)
    values = {"$(which llama-server)": str(server)}
    said = play(project, "howto/own-gguf.md", slice(1), values)
    stack = project.stack.with_stem("mine")
    text = stack.read_text(encoding="utf-8")
    text += f"local: {{port: {project.port}}}\n"
    stack.write_text(text, encoding="utf-8")
    said += play(project, "howto/own-gguf.md", slice(1, None))
    assert "gemma4" in said[0]
    assert "Release 1 is live" in said[-1]


def test_a_compose_file_is_adopted(project: Project, tiny_model: Path) -> None:
    models = project.folder / "models"
    models.mkdir()
    shutil.copy(tiny_model, models / "mine.gguf")
    (compose,) = yaml_of("howto/adopt.md")
    (project.folder / "compose.yaml").write_text(compose, encoding="utf-8")
    (project.folder / ".git").mkdir()
    said = play(project, "howto/adopt.md")
    page = " ".join((DOCS / "howto/adopt.md").read_text("utf-8").split())
    lines = (it for it in said[0].splitlines() if not it.startswith("wrote "))
    assert " ".join(" ".join(lines).split()) in page


@pytest.fixture
def hub(tiny_model: Path) -> Iterator[Hub]:
    """A hub with the model of the tests, in a repository for one token alone."""
    with sites() as make:
        api, cdn = make(), make()
        made = Hub(api, cdn, {"HF_ENDPOINT": api.url})
        made.publish({"tiny-Q4_K_M.gguf": tiny_model.read_bytes()})
        yield made


def test_a_private_model(
    project: Project, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.environment["HF_ENDPOINT"])
    monkeypatch.delenv("HF_TOKEN", raising=False)
    page = "howto/private-model.md"
    local, _ = yaml_of(page)
    model = local.replace("your-name/your-model-GGUF", REPO)
    project.write(re.sub(r"(?s)model:\n.*?\n\n", f"{model}\n", STACK), "prod")

    hub.api.refusal = readable_by(TOKEN, gated=True)
    refused = [_refused(project, None), _refused(project, "hf_another")]
    hub.api.refusal = readable_by(TOKEN, gated=False)
    refused += [_refused(project, None), _refused(project, "hf_another")]
    messages = re.findall(
        r"^\| `… (.*)` \|", (DOCS / page).read_text("utf-8"), re.MULTILINE
    )
    found = [next(it for it in messages if it in text) for text in refused]
    assert [*dict.fromkeys(found)] == messages

    said = play(project, page, slice(1), {"hf_…": TOKEN})
    assert "Release 1 is live" in said[-1]
    asked = {request.headers.get("authorization") for request in hub.cdn.requests}
    assert asked == {None}
    kept = [file for file in project.folder.rglob("*") if file.is_file()]
    assert [it for it in kept if TOKEN.encode() in it.read_bytes()] == []
    assert project.run("plan", "stacks/prod.yaml").code == 0  # without a token


def _refused(project: Project, token: str | None) -> str:
    done = project.run("lock", "stacks/prod.yaml", env={"HF_TOKEN": token})
    assert done.code in (1, 4), done.out + done.err
    return done.err.replace("`", "")
