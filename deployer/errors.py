"""Errors a user can act on, and the exit code each ends in.

* DeployerError            1
  - UsageError             3   the command line or the stack is wrong
    - StackError           3   carries every problem of the files at once
  - AuthError              4   a credential is missing or refused
  - LockedError            5   somebody else works on the stack
    - HeldError            5   the stack is on hold, or the project is frozen
  - GateError              6   a candidate did not pass; nothing was promoted
  - StalePlanError         7   the state moved since the plan was made
  - CancelledError         8   the user stopped the run
  - TimedOutError          9   a limit of the stack ran out
  - EngineError            1   the engine could not make something real
    - PromotionError       1   a server could not take over; nothing changed
  - SourceError            1   an artefact could not be resolved or fetched
  - StoreError             1   the artefact store is damaged or cannot be written
  - StateError             1   the state cannot be read or written
  - PendingError           1   an earlier run did not end, and that was not to be
  - InternalError         70   a defect of ours

`drift --detailed-exitcode` ends in 2 where something drifted, and in 10 where a stack
was never applied.  Of several stacks the most severe code counts (`worst_of`).

A message says what is wrong in lower case, with literals in backticks;
``hint`` is what to type or change.  Neither ever holds a secret.
"""

import errno
from collections.abc import Mapping, Sequence
from pathlib import Path

from deployer.diagnostics import Diagnostic, in_order

_BY_SEVERITY = (0, 2, 10, 8, 5, 7, 9, 6, 3, 4, 1, 70)
"""Exit codes, worst last: a defect above what failed, that above what is waited for."""


def worst_of(*codes: int) -> int:
    """Return the exit code of several stacks: the most severe of theirs."""
    known = {code: rank for rank, code in enumerate(_BY_SEVERITY)}
    return max(codes, key=lambda code: known.get(code, len(known)))


_ADVICE: Mapping[int | None, str] = {
    errno.ENOSPC: "free some space; `DEPLOYER_HOME` moves the store to another disk",
    errno.EDQUOT: "free some space; `DEPLOYER_HOME` moves the store to another disk",
    errno.EFBIG: "raise the limit of the file size: `ulimit -f`",
    errno.EACCES: "look at its owner and mode; run `deployer` as one user",
    errno.EPERM: "look at its owner and mode; run `deployer` as one user",
    errno.EROFS: "`DEPLOYER_HOME` moves the store to another disk",
    errno.EMFILE: "raise the limit of open files: `ulimit -n`",
}
"""Hints where the system refuses a file."""


class DeployerError(Exception):
    """Base of all errors that the command line turns into a message."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(DeployerError):
    """The command line or a file it names cannot be used as it stands."""

    exit_code = 3


class StackError(UsageError):
    """The stack files are wrong; carries every problem found, sorted by place."""

    def __init__(self, problems: Sequence[Diagnostic]) -> None:
        count = len(problems)
        super().__init__(f"{count} problem{'s' if count != 1 else ''} in the stack")
        self.problems = tuple(in_order(problems))


class NeverAppliedError(UsageError):
    """Nothing is recorded of the stack."""


class AuthError(DeployerError):
    """A credential is missing, or was refused."""

    exit_code = 4


class LockedError(DeployerError):
    """Somebody else holds the lock of the stack."""

    exit_code = 5


class HeldError(LockedError):
    """Nothing is to be applied for a while."""


class GateError(DeployerError):
    """A candidate did not pass its gates; the live release was not touched."""

    exit_code = 6


class StalePlanError(DeployerError):
    """The state is not the one that the plan was made from."""

    exit_code = 7


class CancelledError(DeployerError):
    """The user stopped the run; running `apply` again carries on."""

    exit_code = 8


class TimedOutError(DeployerError):
    """A limit ran out."""

    exit_code = 9


class EngineError(DeployerError):
    """The engine could not make something real."""


class PromotionError(EngineError):
    """A server could not take over; what had the traffic before has it still."""


class SourceError(DeployerError):
    """An artefact could not be resolved or fetched."""


class UnreachableError(SourceError):
    """A source gave no answer: nothing is known of what it has."""


class StoreError(DeployerError):
    """The artefact store is damaged, or cannot be written."""


class StateError(DeployerError):
    """The state cannot be read or written."""


class PendingError(DeployerError):
    """An earlier run did not end, and nothing was to be done in that case."""


class InternalError(DeployerError):
    """A defect of ours."""

    exit_code = 70


def error_of(error: BaseException, file: Path | None = None) -> DeployerError:
    """The error to report for any other, while a file was read.

    A file that the system refuses has a name and a reason; whatever else is not an
    error of ours is a defect of ours, and says so.
    """
    match error:
        case DeployerError():
            return error
        case OSError():
            place = f"`{error.filename}`: " if error.filename else ""
            return DeployerError(
                f"{place}{error.strerror or error}", hint=_ADVICE.get(error.errno, "")
            )
        case _:
            place = "" if file is None else f"`{file}`: "
            return InternalError(
                f"{place}internal error ({type(error).__name__}: {error})",
                hint="run again with `deployer --debug …` and report it",
            )
