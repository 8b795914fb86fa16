"""A run as JSON lines on stdout, for programs; see docs/events.md."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from deployer import __version__
from deployer.cli.for_each_stack import error_data
from deployer.cli.output import json_line
from deployer.cli.progress_display import Show
from deployer.engines.place import costs_of
from deployer.errors import CancelledError, DeployerError
from deployer.planning.events import Event, Judged, Progress
from deployer.show.data import Applied as AppliedLine
from deployer.show.data import Summary, Version, data_of, line_of, plan_data
from deployer.usecases.apply import Applied
from deployer.usecases.plan import Planned

INTERNAL_ERROR = 70


class Stream(Show):
    """Says every event as one JSON line; a context manager that ends in a summary."""

    def __init__(self, command: str) -> None:
        super().__init__(command)
        self._counts: Counter[str] = Counter()
        self._tenths: dict[str, int] = {}
        self.stacks = 0

    @contextmanager
    def whole(self) -> Iterator[None]:
        """The version before, and the summary after, whatever happens between."""
        json_line(data_of(Version(__version__)))
        code = 0
        try:
            yield
        except click.exceptions.Exit as stop:
            code = stop.exit_code
            raise
        except click.Abort:
            code = CancelledError.exit_code
            raise
        except DeployerError as error:
            code = error.exit_code
            raise
        except BaseException:
            code = INTERNAL_ERROR
            raise
        finally:
            last = Summary(dict(self._counts), self.stacks, code)
            json_line(data_of(last))

    def planned(self, planned: Planned, file: Path) -> None:
        """A plan that is about to be carried out, or that changes nothing."""
        data = plan_data(
            planned.plan,
            planned.places,
            fit=planned.fit,
            costs=costs_of(planned.plan),
        )
        self._say({**data, "file": str(file)})

    def applied(self, done: Applied, file: Path) -> None:
        """The end of one stack."""
        end = done.endpoint
        line = AppliedLine(
            stack=done.state.stack,
            file=str(file),
            changed=not done.planned.plan.is_empty,
            release=done.state.released,
            url=None if end is None else end.url,
            api_key_env=None if end is None else end.api_key_env,
        )
        self._say(data_of(line))

    def failed(self, error: DeployerError, file: Path) -> None:
        """Why a stack was not applied."""
        self._say({"type": "error", "file": str(file), **error_data(error)})

    def _show(self, event: Event) -> None:
        if isinstance(event, Progress) and not self._is_news(event):
            return
        if isinstance(event, Judged):
            self.verdicts.append(event.verdict)
        if (line := line_of(event)) is not None:
            self._say(data_of(line))

    def _is_news(self, progress: Progress) -> bool:
        """Return whether another tenth was reached; without an end, nothing is told."""
        if not progress.total:
            return False
        tenth = progress.done * 10 // progress.total
        if self._tenths.get(progress.name) == tenth:
            return False
        self._tenths[progress.name] = tenth
        return True

    def _say(self, line: dict[str, Any]) -> None:
        self._counts[line["type"]] += 1
        json_line(line)
