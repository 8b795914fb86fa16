"""Ctrl-C while the command still imports: exit 8, one word, no traceback."""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from deployer.cli.print_error import tell
from deployer.errors import CancelledError

ROOT = Path(__file__).parents[1]
DELAYS = range(5, 101, 5)
"""Milliseconds after exec."""
BEFORE_ANY_CODE = {-signal.SIGINT, 1}
"""Python itself is interrupted while it starts: `run` of deployer was not called, and
nothing can be done there."""


def interrupted(after: float, tmp_path: Path, *words: str) -> tuple[int, str, str]:
    """Code, stdout and stderr of a command that gets a SIGINT after some seconds."""
    with subprocess.Popen(
        [sys.executable, "-m", "deployer", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "DEPLOYER_HOME": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        select.select([], [], [], after)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.mark.parametrize("words", [("validate", "none.yaml"), ("store", "ls")])
def test_an_early_ctrl_c_ends_without_a_traceback(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    whole = subprocess.run(
        [sys.executable, "-m", "deployer", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "DEPLOYER_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    for delay in DELAYS:
        code, out, err = interrupted(delay / 1000, tmp_path, *words)
        assert "in run\n" not in err, (delay, err)
        if code == whole.returncode:  # it had ended, or all was decided
            assert out == whole.stdout, delay
        elif code == CancelledError.exit_code:
            # Of a module of C that was interrupted in its import, CPython itself warns.
            lines = [it for it in err.splitlines() if it and "/libmpdec/" not in it]
            assert lines == ["cancelled"], delay
        else:
            assert code in BEFORE_ANY_CODE, (delay, err)


def test_a_ctrl_c_while_a_class_is_made_is_a_ctrl_c(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Python 3.11 raises another error from what `__set_name__` raises."""

    class Interrupted:
        def __set_name__(self, owner: type, name: str) -> None:
            raise KeyboardInterrupt

    with pytest.raises((RuntimeError, KeyboardInterrupt)) as caught:
        type("Owner", (), {"name": Interrupted()})
    assert tell(caught.value, debug=False) == CancelledError.exit_code
    assert capsys.readouterr().err == "cancelled\n"
