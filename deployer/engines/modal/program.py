"""The client's own command line, for what it offers in no other way."""

import importlib.util
import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from deployer import install_command
from deployer.engines.modal.types import Version
from deployer.errors import EngineError
from deployer.system.children import MODAL, python_command, variables

INSTALL: Final = install_command("modal")
_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Program:
    """`modal app …`, `modal container …` and `modal billing …` of one environment."""

    variables: Mapping[str, str]
    environment: str | None

    def history(self, name: str) -> tuple[Version, ...]:
        """The deployments of an app, newest first; none of one that is not there."""
        return tuple(_version(entry) for entry in self._listed("app", "history", name))

    def deployed(self) -> tuple[str, ...]:
        """The names of all apps that are deployed."""
        listed = self._listed("app", "list")
        found = (it for it in listed if it.get("state") == "deployed")
        return tuple(str(it.get("name") or it.get("description")) for it in found)

    def containers(self, app_id: str) -> tuple[str, ...]:
        """The ids of the containers of an app."""
        listed = self._listed("container", "list", "--app-id", app_id)
        return tuple(str(it["container_id"]) for it in listed)

    def rollback(self, name: str, version: int) -> None:
        """Make an earlier version of an app the one that serves.

        Raises EngineError with what the client says.
        """
        place = () if self.environment is None else ("--env", self.environment)
        words = ("app", "rollback", name, f"v{version}", *place)
        done = self._run(*words)
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines() or ["no answer"]
            raise EngineError(
                f"app `{name}` was not rolled back to version {version}: {said[-1]}",
                hint=f"run `modal {' '.join(words)}`",
            )

    def rates(self) -> Mapping[str, str]:
        """Dollars for an hour of each thing that is billed; none if it does not say."""
        found = self._asked("billing", "rates")
        return found if isinstance(found, dict) else {}

    def _listed(self, *words: str) -> list[Mapping[str, Any]]:
        place = () if self.environment is None else ("--env", self.environment)
        found = self._asked(*words, *place)
        return found if isinstance(found, list) else []

    def _asked(self, *words: str) -> object:
        try:
            return json.loads(self._run(*words, "--json").stdout)
        except ValueError:
            return None

    def _run(self, *words: str) -> "subprocess.CompletedProcess[str]":
        refuse_missing_client()
        return subprocess.run(  # noqa: S603 - the client's own program
            python_command("-m", "modal", *words),
            env=variables(self.variables, *MODAL),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
            start_new_session=True,  # Ctrl-C is ours to act on
        )


def refuse_missing_client() -> None:
    """Raise EngineError where the client is not installed."""
    if importlib.util.find_spec("modal") is None:
        raise EngineError(
            "the client of Modal is not installed", hint=f"run `{INSTALL}`"
        )


def _version(entry: Mapping[str, Any]) -> Version:
    return Version(
        int(str(entry["version"]).removeprefix("v")),
        str(entry.get("time_deployed") or ""),
        str(entry.get("deployed_by") or ""),
        str(entry.get("tag") or ""),
    )
