"""Where deployer keeps what belongs to this user and not to a project."""

import os


def home_of(environment: dict[str, str]) -> str:
    """The store of this user: DEPLOYER_HOME, or below the XDG data directory."""
    if chosen := environment.get("DEPLOYER_HOME"):
        folder = os.path.expanduser(chosen)
        return folder if os.path.isabs(folder) else f"{os.getcwd()}/{folder}"
    data = environment.get("XDG_DATA_HOME", "")
    if not data.startswith("/"):  # the standard: a relative path is to be ignored
        home = environment.get("HOME") or os.path.expanduser("~")
        data = f"{home}/.local/share"
    return f"{data}/deployer"
