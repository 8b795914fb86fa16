"""A chat with what is live, or with any llama-server."""

from dataclasses import dataclass
from pathlib import Path

from deployer.engines.contract import Endpoint
from deployer.gates.checks.server import context_per_slot
from deployer.gates.harness.conversation import Conversation
from deployer.show.client_configs import Live
from deployer.stack.fields.values import Flat
from deployer.usecases.check import release_fields, target_of
from deployer.usecases.context.deployed import deployed
from deployer.usecases.context.settings import Settings


def live_of(stack_file: Path, settings: Settings) -> Live:
    """Return what clients need to know; raises UsageError where nothing is live."""
    found = deployed(stack_file, settings)
    end = found.engine.endpoint(found.server, candidate=False)
    fields = release_fields(found.state.live)
    alias = fields.get("model.alias")
    return Live(
        stack=found.state.stack,
        url=end.url,
        # Of several names a client takes the first; the server answers to all.
        model=alias.split(",")[0] if isinstance(alias, str) else found.state.stack,
        api_key_env=end.api_key_env,
        context=_context(fields),
    )


def _context(fields: Flat) -> int | None:
    """Return what one slot has: all of them share what the stack states."""
    whole, parallel = fields.get("server.ctx_size"), fields.get("server.parallel")
    if not isinstance(whole, int) or not whole:
        return None
    slots = parallel if isinstance(parallel, int) and parallel > 0 else None
    unified = fields.get("server.kv_unified") is True
    return context_per_slot(whole, slots, unified=unified)


@dataclass(frozen=True, slots=True)
class Chatting:
    """How it is talked with the server."""

    system: str = ""
    budget: int | None = None
    """Tokens to think with; None: as the server does."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A conversation, and who it is with."""

    conversation: Conversation
    name: str
    url: str


def chat_with(stack_file: Path, settings: Settings, chatting: Chatting) -> Opened:
    """A conversation with the live release; raises UsageError where there is none."""
    live = live_of(stack_file, settings)
    found = deployed(stack_file, settings)
    endpoint = found.engine.endpoint(found.server, candidate=False)
    folder = stack_file.parent.absolute()
    conversation = Conversation(
        target_of(endpoint, settings.keys(folder), {}),
        model=live.model,
        system=chatting.system,
        budget=chatting.budget,
        hint=f"`deployer status {stack_file}` says how it is, `deployer logs` why",
    )
    release = found.state.releases[-1].number if found.state.releases else 0
    return Opened(conversation, f"{live.stack} · release {release}", live.url)


def chat_at(
    url: str, api_key_env: str | None, settings: Settings, chatting: Chatting
) -> Opened:
    """A conversation with any llama-server."""
    endpoint = Endpoint(url=url, api_key_env=api_key_env)
    conversation = Conversation(
        target_of(endpoint, settings.keys(), {}),
        system=chatting.system,
        budget=chatting.budget,
        hint="look at the log of the server",
    )
    return Opened(conversation, "llama-server", url)
