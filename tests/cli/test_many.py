"""Many stacks at once: helpers read ahead, and nobody can tell but by the time."""

import os
import shutil
import signal
import sys
from pathlib import Path

import psutil
import pytest

from deployer.app.helpers import FEWEST
from deployer.app.planning import Options, prepare
from deployer.app.settings import settings_of
from deployer.core.progress import unwatched
from deployer.errors import UsageError
from tests.cli.project import COMMAND, STACK, Done, Project, finished, gone, read_until

COUNT = FEWEST + 20
AHEAD = """
import os, sys
from pathlib import Path
import psutil
from deployer.app.helpers import helped
from deployer.app.planning import Options
from deployer.app.settings import settings_of
files = sorted(Path("stacks").glob("*.yaml"))
helpers = lambda: psutil.Process().children()
"""
"""What the scripts below begin with."""

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
    """A project of so many stacks that helpers pay; all of them are locked."""
    paper.stack.unlink()
    for number in range(COUNT):
        paper.write(stack(number), f"demo-{number:03}")
    done = paper.run("lock", "stacks")
    assert done.code == 0, done.err
    return paper


@pytest.fixture
def crowd(many: Project) -> Project:
    """So many that a run nobody reads from stands still: the pipe is full."""
    for number in range(COUNT, 3 * COUNT):
        many.write(stack(number), f"demo-{number:03}")
    return many


def forget(project: Project) -> None:
    shutil.rmtree(project.home / "cache", ignore_errors=True)


def alone(project: Project, *words: str) -> Done:
    """The same on one core: there, nobody helps."""
    core = min(os.sched_getaffinity(0))
    told = " ".join((f"taskset -c {core}", *COMMAND, *words))
    return project.shell(told)


def script(project: Project, text: str) -> Done:
    file = project.folder / "script.py"
    file.write_text(text, encoding="utf-8")
    return project.shell(f"{sys.executable} {file}")


@pytest.mark.parametrize("words", [(), ("--json",), ("--format", "markdown")])
def test_the_answer_is_that_of_a_run_without_helpers(
    many: Project, words: tuple[str, ...]
) -> None:
    many.write(stack(3).replace("ctx_size", "ctx_sise"), "demo-003")
    many.write(stack(COUNT - 2).replace("name:", "name: ["), f"demo-{COUNT - 2:03}")
    (many.stack.parent / f"demo-{COUNT - 5:03}.lock.json").unlink()
    asked = ("plan", "stacks", *words, "--annotate", "--detailed-exitcode")
    forget(many)
    without = alone(many, *asked)
    forget(many)
    helped = many.run(*asked)

    assert helped == without
    assert helped.code == 3
    assert helped.err.count("::error ") == 2


def test_helpers_keep_what_the_run_asks_for_next(many: Project) -> None:
    forget(many)
    done = script(
        many,
        f"""{AHEAD}
with helped(files, settings_of(), Options()):
    started = helpers()
    for it in started:
        os.waitid(os.P_PID, it.pid, os.WEXITED | os.WNOWAIT)
print(bool(started), len(helpers()))
print("deployer.cli" in sys.modules)
""",
    )
    assert done.out == "True 0\nFalse\n", done.err
    kept = len(list((many.home / "cache" / "stacks").iterdir()))
    assert kept > COUNT // 2  # what changed a moment ago may not be kept yet


def test_helpers_that_die_lose_no_answer(crowd: Project) -> None:
    before = alone(crowd, "plan", "stacks")
    forget(crowd)
    with crowd.running("plan", "stacks") as process:
        begun = read_until(process, "demo-000 on local")
        helpers = psutil.Process(process.pid).children()
        for helper in helpers:
            helper.kill()
        assert process.stdout is not None
        out = begun + process.stdout.read()
        done = finished(process)

    assert helpers
    assert (done.code, out, done.err) == (0, before.out, before.err)


def test_what_is_kept_already_needs_no_helper(many: Project) -> None:
    many.run("plan", "stacks")
    text = f"{AHEAD}\nwith helped(files, settings_of(), Options()):\n"
    done = script(many, f"{text}    print(helpers(), 'pydantic' in sys.modules)\n")

    assert done.out == "[] False\n", done.err


def test_a_few_stacks_need_no_helper(many: Project) -> None:
    forget(many)
    some = f"files[:{FEWEST - 1}]"
    text = f"{AHEAD}\nwith helped({some}, settings_of(), Options()):\n"
    done = script(many, f"{text}    print(helpers(), 'pydantic' in sys.modules)\n")

    assert done.out == "[] False\n", done.err


def test_ctrl_c_ends_the_run_and_its_helpers(crowd: Project) -> None:
    with crowd.running("plan", "stacks") as process:
        read_until(process, "demo-000 on local")
        helpers = psutil.Process(process.pid).children()
        process.send_signal(signal.SIGINT)
        done = finished(process)

    assert helpers
    assert (done.code, done.err) == (8, "\ncancelled\n")
    assert all(gone(helper.pid) for helper in helpers)


def test_a_helper_asks_no_source(paper: Project) -> None:
    """Nobody listens there: who asked would end in an error of the source."""
    text = STACK.replace("path: tiny.gguf", "url: http://127.0.0.1:9/tiny.gguf")
    file = paper.write(text)
    env = {"DEPLOYER_ALLOW_OUTSIDE": str(paper.binary.parent)}
    settings = settings_of({**env, "DEPLOYER_HOME": str(paper.home)})
    with pytest.raises(UsageError, match=r"is not there|was made for another"):
        prepare(file, settings, Options(offline=True), unwatched)


def test_a_stack_more_takes_less_than_60_kb(many: Project) -> None:
    def peak(files: list[Path]) -> int:
        names = [str(file) for file in files]
        done = script(many, f"names = {names}\n{GROWTH}")
        return int(done.err) * 1024

    files = sorted(many.stack.parent.glob("*.yaml"))
    for _ in ("unread", "kept"):
        few, all_of_them = peak(files[:10]), peak(files)
        assert all_of_them - few < 60_000 * (len(files) - 10)
