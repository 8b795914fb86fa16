"""A chat with what is live, or with any llama-server."""

from dataclasses import dataclass
from pathlib import Path

from deployer.engines.contract import Endpoint
from deployer.gates.harness.conversation import Conversation
from deployer.usecases.applying.run_gates import target_of
from deployer.usecases.connect import live_of
from deployer.usecases.context.deployed import deployed
from deployer.usecases.context.settings import Settings


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
