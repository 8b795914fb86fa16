"""Finding what was deployed from a stack, without needing the stack to be right.

Rolling back or stopping must work while the file is being edited, so the name alone
is read from it; engine and everything else come from the state.
"""

from dataclasses import dataclass
from pathlib import Path

from deployer.app.planning import Options, prepare, refuse_other_file
from deployer.app.settings import Settings
from deployer.app.subjects import name_in, text_of
from deployer.core.state import Record, State
from deployer.core.values import Flat
from deployer.engines import Engine
from deployer.errors import UsageError
from deployer.state import StateStore


@dataclass(frozen=True, slots=True)
class Deployed:
    """A stack that has a state."""

    file: Path
    state: State
    store: StateStore
    engine: Engine

    @property
    def server(self) -> Record:
        """The live server; raises UsageError when nothing is live."""
        found = self.state.server
        if found is None:
            raise UsageError(
                f"nothing of stack `{self.state.stack}` is live",
                hint=f"run `deployer apply {self.file}`",
            )
        return found

    @property
    def needs(self) -> dict[str, Flat]:
        """Outputs of what the live server is made from, by kind."""
        return {r.kind.value: r.outputs for r in self.state.live.values()}


def deployed(stack_file: Path, settings: Settings, name: str | None = None) -> Deployed:
    """What is recorded of a stack; raises UsageError when it was never applied.

    ``name`` is that of a stack that the file no longer asks for.
    """
    name = name or name_of(stack_file, settings)
    store = settings.states(stack_file, name)
    state = store.read()
    if state is None:
        raise UsageError(
            f"stack `{name}` was never applied from here",
            hint=f"run `deployer apply {stack_file}`",
        )
    refuse_other_file(state, stack_file)
    return Deployed(stack_file, state, store, settings.engine(state.engine, stack_file))


def name_of(stack_file: Path, settings: Settings, *, cached: bool = True) -> str:
    """The name in a stack file, even in one with mistakes elsewhere."""
    if (name := name_in(text_of(stack_file))) is not None:
        return name
    return prepare(stack_file, settings, Options(cached=cached))[0].name
