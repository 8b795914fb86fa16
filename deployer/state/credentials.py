"""Whether the environment holds credentials for a store of a cloud.

Where it holds none, clients ask the address at which clouds give a machine its own
(169.254.169.254).  On any network but a cloud's somebody else may answer there, and on
a cloud's every process of a job gets the rights of the machine, so it is asked only
where the environment says so.
"""

from collections.abc import Mapping
from pathlib import Path

from deployer.errors import AuthError

INSTANCE = "DEPLOYER_INSTANCE_CREDENTIALS"
"""Variable that lets the credentials of the machine be asked for: `1`."""

_ENOUGH: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "s3": (
        ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN"),
        ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",),
        (
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
        ),
        ("AWS_SKIP_SIGNATURE",),
    ),
    "gs": (
        ("GOOGLE_APPLICATION_CREDENTIALS",),
        ("GOOGLE_SERVICE_ACCOUNT",),
        ("GOOGLE_SERVICE_ACCOUNT_PATH",),
        ("GOOGLE_SERVICE_ACCOUNT_KEY",),
        ("GOOGLE_BEARER_TOKEN",),
        ("GOOGLE_SKIP_SIGNATURE",),
    ),
    "az": (
        ("AZURE_STORAGE_ACCOUNT_KEY",),
        ("AZURE_STORAGE_ACCESS_KEY",),
        ("AZURE_STORAGE_SAS_KEY",),
        ("AZURE_STORAGE_SAS_TOKEN",),
        ("AZURE_STORAGE_TOKEN",),
        ("AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_TENANT_ID"),
        (
            *("AZURE_STORAGE_CLIENT_ID", "AZURE_STORAGE_CLIENT_SECRET"),
            "AZURE_STORAGE_TENANT_ID",
        ),
        ("AZURE_CLIENT_ID", "AZURE_TENANT_ID", "AZURE_FEDERATED_TOKEN_FILE"),
        ("AZURE_USE_AZURE_CLI",),
        ("AZURE_SKIP_SIGNATURE",),
    ),
}
"""Variables that together are enough, so that the client looks no further."""
_NO = ("", "0", "false", "no", "off")
"""Values of a switch that is not on."""
_GCLOUD = ".config/gcloud/application_default_credentials.json"
"""File of `gcloud auth application-default login`."""


def refuse_none(scheme: str, url: str, environment: Mapping[str, str]) -> None:
    """Raise AuthError where a client would have to ask the machine for credentials."""
    if environment.get(INSTANCE) == "1":
        return
    given = {name for name, value in environment.items() if value.lower() not in _NO}
    if any(given.issuperset(names) for names in _ENOUGH[scheme]):
        return
    if scheme == "gs" and Path(environment.get("HOME", ""), _GCLOUD).is_file():
        return
    first = " and ".join(f"`{name}`" for name in _ENOUGH[scheme][0])
    raise AuthError(
        f"no credentials for `{url}` are in the environment",
        hint=f"set {first}; where the machine has credentials of its own:"
        f" `export {INSTANCE}=1`",
    )
