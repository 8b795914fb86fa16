"""A state in a bucket, and two machines: only the one that runs the servers acts."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cli.project import Done, Project
from tests.cli.test_lost_states import DEMO, only, small_project, write
from tests.ports import quiet_port
from tests.state.s3 import REGION, Proxy

REFUSAL = (
    "error: stack `demo` runs on host `gpu-1`, and this is `build-7`\n"
    f"  hint: run the command on `gpu-1`; if that machine is gone: `deployer state"
    f" take-over {DEMO} gpu-1`\n"
)


class Machines:
    """`gpu-1`, where the stack is live, and `build-7` with a home of its own."""

    def __init__(self, here: Project, url: str) -> None:
        self.here = here
        self.there = replace(here, home=here.folder / "home-of-build-7")
        self.env = {
            "AWS_ACCESS_KEY_ID": "of-the-tests",
            "AWS_SECRET_ACCESS_KEY": "of-the-tests",
            "DEPLOYER_STATE_URL": f"s3://states/{here.port}?endpoint={url}"
            f"&region={REGION}",
        }

    def on_gpu_1(self, *words: str) -> Done:
        return self.here.run(*words, env={**self.env, "DEPLOYER_HOST": "gpu-1"})

    def on_build_7(self, *words: str) -> Done:
        return self.there.run(*words, env={**self.env, "DEPLOYER_HOST": "build-7"})


@pytest.fixture
def machines(tmp_path: Path, s3: tuple[Proxy, str]) -> Iterator[Machines]:
    project = small_project(tmp_path / "project", tmp_path / "programs")
    made = Machines(project, s3[1])
    done = made.on_gpu_1("apply", DEMO, "--yes")
    assert done.code == 0, done.out + done.err
    yield made
    made.here.end()
    made.there.end()


def test_another_machine_changes_nothing(machines: Machines) -> None:
    write(machines.here, 2048)
    for words in (
        ("apply", DEMO, "--yes"),
        ("destroy", DEMO, "--yes"),
        ("rollback", DEMO, "1", "--yes"),
        ("start", DEMO),
        ("stop", DEMO),
        ("logs", DEMO),
        ("refresh", DEMO),
    ):
        done = machines.on_build_7(*words)
        assert (done.code, done.err) == (1, REFUSAL), words
    only(machines.here, 1024)
    assert machines.on_gpu_1("apply", DEMO, "--yes").code == 0
    only(machines.here, 2048)


def test_another_machine_is_told_where_it_runs(machines: Machines) -> None:
    write(machines.here, 2048)
    plan = machines.on_build_7("plan", DEMO)
    status = machines.on_build_7("status", DEMO)

    assert "server.ctx_size   1024 → 2048" in plan.out
    assert "note: `demo` runs on host `gpu-1`: apply it there\n" in plan.out
    assert "  server   ? runs on host `gpu-1`, and cannot be seen" in status.out
    assert "  release  1 since " in status.out


def test_a_machine_takes_over_what_is_named(machines: Machines) -> None:
    wrong = machines.on_build_7("state", "take-over", DEMO, "gpu-2")
    mine = machines.on_gpu_1("state", "take-over", DEMO, "gpu-1")
    right = machines.on_build_7("state", "take-over", DEMO, "gpu-1")
    machines.there = replace(machines.there, port=quiet_port())
    write(machines.there, 1024)
    done = machines.on_build_7("apply", DEMO, "--yes")

    assert wrong.code == mine.code == 3
    assert "runs on host `gpu-1`, not on `gpu-2`" in wrong.err
    assert "runs on no other machine" in mine.err
    assert right.code == 0, right.err
    assert f"Release 2 is live at {machines.there.url}" in done.out
    only(machines.there, 1024)
    assert "runs on host `build-7`" in machines.on_gpu_1("stop", DEMO).err


def test_a_machine_with_another_id_knows_its_server(machines: Machines) -> None:
    """The server is found by its run folder, whatever the machine is called by now."""
    done = machines.here.run("stop", DEMO, env={**machines.env, "DEPLOYER_HOST": "new"})

    assert done.code == 0, done.err
    assert machines.here.servers() == set()


def test_a_state_that_names_no_machine_belongs_to_any(machines: Machines) -> None:
    """As one of an older deployer does; the next change writes the machine down."""
    text = machines.on_gpu_1("state", "pull", DEMO).out
    assert '"host": "gpu-1"' in text
    older = machines.here.folder / "older.json"
    older.write_text(text.replace('"host": "gpu-1"', '"host": ""'))
    lines = older.read_text().splitlines()
    machine = next(line for line in lines if '"machine"' in line)
    older.write_text(older.read_text().replace(machine, '  "machine": "",'))
    pushed = machines.on_gpu_1("state", "push", DEMO, str(older), "--force")
    write(machines.here, 2048)

    assert pushed.code == 0, pushed.err
    assert "runs on host" not in machines.on_build_7("plan", DEMO).out
    assert machines.on_gpu_1("apply", DEMO, "--yes").code == 0
    assert "apply it there" in machines.on_build_7("plan", DEMO).out
