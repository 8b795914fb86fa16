"""The vocabulary of `deployer.yaml`: what holds for every stack of a project."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from deployer.diagnostics import Diagnostic
from deployer.stack.fields.marks import Section
from deployer.stack.fields.server import Text

FILE = "deployer.yaml"

_ENDPOINT = (
    r"^https?://([A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9a-fA-F:.]+\])(:[0-9]{1,5})?"
    r"(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*/?$"
)
"""A server by its plain name or address, so that nothing hides in it."""

_NEEDS = {
    "file": (),
    "s3": ("bucket",),
    "gs": ("bucket",),
    "az": ("bucket", "account"),
}
_TAKES = {
    "file": ("path", "keep"),
    "s3": ("bucket", "prefix", "region", "endpoint", "keep"),
    "gs": ("bucket", "prefix", "keep"),
    "az": ("bucket", "prefix", "account", "endpoint", "keep"),
}


class StateOptions(Section):
    """Where the states of the stacks are kept."""

    backend: Literal["file", "s3", "gs", "az"]
    """A folder of this machine, S3, Google Cloud Storage, or Azure."""

    path: Text | None = None
    """Folder for `file`, relative to this file; unset: beside each stack."""

    bucket: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] | None = None
    """Bucket, or for `az` the container."""

    prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$")] | None = (
        None
    )
    """Folder in the bucket."""

    region: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")] | None = None
    """Region of an S3 bucket."""

    endpoint: Annotated[str, Field(pattern=_ENDPOINT)] | None = None
    """Server that speaks the protocol, where it is not the cloud's own."""

    account: Annotated[str, Field(pattern=r"^[a-z0-9]{1,24}$")] | None = None
    """Storage account for `az`."""

    keep: PositiveInt | None = None
    """Versions of each state that are kept; unset: 10."""


class Project(Section):
    """What holds for every stack of a project."""

    version: Literal[1]
    """Version of this form."""

    state: StateOptions | None = None
    """Where states are kept; unset: in `.deployer/state` beside each stack."""


def problems_of(options: StateOptions) -> list[Diagnostic]:
    """Every rule between the options that is broken."""
    given = options.model_dump(exclude_none=True)
    takes = _TAKES[options.backend]
    found = [
        Diagnostic("state", f"`{options.backend}` needs `{name}`")
        for name in _NEEDS[options.backend]
        if name not in given
    ]
    found += [
        Diagnostic(
            f"state.{name}",
            f"`{options.backend}` takes no `{name}`",
            f"it takes {', '.join(f'`{other}`' for other in takes)}",
        )
        for name in given
        if name not in (*takes, "backend")
    ]
    return found
