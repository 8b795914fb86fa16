"""What the client of Modal raises, in words of ours."""

from dataclasses import dataclass
from types import ModuleType
from typing import Final

from deployer.errors import AuthError, DeployerError, EngineError, TimedOutError

NEW_TOKEN: Final = "modal token new"  # noqa: S105 - a command
TOKEN: Final = ("MODAL_TOKEN_ID", "MODAL_TOKEN_SECRET")


@dataclass(frozen=True, slots=True)
class Refusal:
    """How one kind of error is told."""

    names: tuple[str, ...]
    """Classes of `modal.exception`."""
    becomes: type[DeployerError]
    what: str
    """With `{about}` and `{said}`."""
    hint: str


REFUSALS: Final = (
    Refusal(
        ("AuthError",),
        AuthError,
        "Modal refuses the token: {said}",
        f"run `{NEW_TOKEN}`, or set {' and '.join(TOKEN)}",
    ),
    Refusal(
        ("PermissionDeniedError",),
        AuthError,
        "Modal does not allow it, {about}: {said}",
        "ask an owner of the workspace for the right",
    ),
    Refusal(
        ("ImageBuildError",),
        EngineError,
        "an image was not built, {about}: {said}",
        "correct what its last line names, and run `deployer apply` again",
    ),
    Refusal(
        ("ConnectionError", "ServiceError", "ClientClosed"),
        EngineError,
        "Modal could not be reached, {about}: {said}",
        "look at https://status.modal.com and your network; running `deployer apply`"
        " again carries on",
    ),
    Refusal(("TimeoutError",), TimedOutError, "Modal gave up, {about}: {said}", ""),
    Refusal(
        ("ResourceExhaustedError",),
        EngineError,
        "a limit of the workspace is reached, {about}: {said}",
        "`modal app list` shows what runs; stop what is not needed",
    ),
    Refusal(("Error",), EngineError, "Modal refuses {about}: {said}", ""),
)
"""The first that fits tells; the last one fits all."""


def in_our_words(
    raised: Exception, about: str, said: str, its: ModuleType
) -> DeployerError:
    """The error of ours for one of ``its``, the client's module of exceptions."""
    for refusal in REFUSALS:
        kinds = tuple(getattr(its, name) for name in refusal.names)
        if isinstance(raised, kinds):
            what = refusal.what.format(about=about, said=said)
            return refusal.becomes(what, hint=refusal.hint)
    return EngineError(f"{about}: {said}")
