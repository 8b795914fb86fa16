"""Where deployer keeps what belongs to this user and not to a project."""

from collections.abc import Mapping
from pathlib import Path


def home_of(environment: Mapping[str, str]) -> Path:
    """The store of this user: DEPLOYER_HOME, or below the XDG data directory."""
    if chosen := environment.get("DEPLOYER_HOME"):
        return Path(chosen).expanduser().absolute()
    data = environment.get("XDG_DATA_HOME", "")
    if not data.startswith("/"):  # the standard: a relative path is to be ignored
        data = f"{environment.get('HOME') or Path.home()}/.local/share"
    return Path(data) / "deployer"
