"""Many stacks at once: in order, each with its own end, in little memory."""

import shutil
import signal
import sys
from pathlib import Path

import pytest

from deployer.errors import UsageError
from deployer.planning.progress import unwatched
from deployer.usecases.context.settings import Options, settings_of
from deployer.usecases.plan import prepare
from tests.cli.project import STACK, Done, Project, finished, read_until

COUNT = 40

GROWTH = """
import resource, sys
from deployer.cli.main import main
main(["plan", *names], standalone_mode=False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
"""


def stack(number: int) -> str:
    return STACK.replace("name: demo", f"name: demo-{number:03}")


@pytest.fixture
def many(paper: Project) -> Project:
    """A project of many stacks; all of them are locked."""
    paper.stack.unlink()
    for number in range(COUNT):
        paper.write(stack(number), f"demo-{number:03}")
    done = paper.run("lock", "stacks")
    assert done.code == 0, done.err
    return paper


def forget(project: Project) -> None:
    shutil.rmtree(project.home / "cache", ignore_errors=True)


def script(project: Project, text: str) -> Done:
    file = project.folder / "script.py"
    file.write_text(text, encoding="utf-8")
    return project.shell(f"{sys.executable} {file}")


@pytest.mark.parametrize("words", [(), ("--json",), ("--format", "markdown")])
def test_the_answer_is_that_of_a_run_without_cache(
    many: Project, words: tuple[str, ...]
) -> None:
    many.write(stack(3).replace("ctx_size", "ctx_sise"), "demo-003")
    many.write(stack(COUNT - 2).replace("name:", "name: ["), f"demo-{COUNT - 2:03}")
    (many.stack.parent / f"demo-{COUNT - 5:03}.lock.json").unlink()
    asked = ("plan", "stacks", *words, "--annotate", "--detailed-exitcode")
    forget(many)
    unread, kept = many.run(*asked), many.run(*asked)

    assert unread == kept == many.run(*asked, "--no-cache")
    assert kept.code == 3
    assert kept.err.count("::error ") == 2


def test_ctrl_c_ends_the_run(many: Project) -> None:
    """Of so many that a run nobody reads from stands still: the pipe is full."""
    for number in range(COUNT, 5 * COUNT):
        many.write(stack(number), f"demo-{number:03}")
    with many.running("plan", "stacks") as process:
        read_until(process, "demo-000 on local")
        process.send_signal(signal.SIGINT)
        done = finished(process)

    assert (done.code, done.err) == (8, "\ncancelled\n")


def test_a_locked_plan_asks_no_source(paper: Project) -> None:
    """Nobody listens there: who asked would end in an error of the source."""
    text = STACK.replace("path: tiny.gguf", "url: http://127.0.0.1:9/tiny.gguf")
    file = paper.write(text)
    env = {"DEPLOYER_ALLOW_OUTSIDE": str(paper.binary.parent)}
    settings = settings_of({**env, "DEPLOYER_HOME": str(paper.home)})
    with pytest.raises(UsageError, match=r"does not exist|was made for another"):
        prepare(file, settings, Options(locked=True), unwatched)


def test_a_stack_more_takes_less_than_60_kb(many: Project) -> None:
    def peak(files: list[Path]) -> int:
        names = [str(file) for file in files]
        done = script(many, f"names = {names}\n{GROWTH}")
        return int(done.err.splitlines()[-1]) * 1024

    files = sorted(many.stack.parent.glob("*.yaml"))
    for _ in ("unread", "kept"):
        few, all_of_them = peak(files[:5]), peak(files)
        assert all_of_them - few < 60_000 * (len(files) - 5)
