"""Stories by a seed: deploy, change, fail, cancel, crash, lose the network, roll back.

    python -m tests.modal.stories 1000        # all, or from seed 400 on:
    python -m tests.modal.stories 1000 400

The engine, the loop over its steps and Modal's client are the real ones; containers of
the emulated platform are simulated, so that a story takes a second.  A client asks
production all the while: whatever happens, it is answered, and by a version that has
proven itself.
"""

import multiprocessing
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import modal
from modal.cli.entry_point import entrypoint_cli

from deployer.engines.modal import apps
from deployer.engines.modal.drive import Account, Program, Version
from deployer.engines.modal.engine import ModalEngine, place_of
from deployer.engines.modal.lower import lower_builder, outputs_of
from deployer.engines.modal.render import SERVER_FILE, on_disk, rendered_server
from deployer.engines.place import Keys, Place
from deployer.errors import CancelledError, DeployerError, EngineError
from deployer.planning.events import Event, Outcome, Verdict
from deployer.planning.plan import make_plan
from deployer.planning.resources import Graph, Kind, Node
from deployer.planning.state import Record, State
from deployer.planning.steps import steps_of
from deployer.testing import CrashError, Fuse, MemoryStateStore
from deployer.testing import stack as stack_of
from deployer.usecases.steps import World, apply
from tests.engines.modal.lowering import graph_of
from tests.modal.client_loop import Counts, clients
from tests.modal.emulated import Emulated, emulator

KINDS = (
    "change",
    "broken",
    "cancelled",
    "crashed",
    "cut off",
    "gate fails",
    "rolled back",
    "preempted",
    "candidate of the key that is live",
)
CHUNK = 25
"""Stories on one platform."""
PLATFORMS = 4
HASTE = 20.0
_ANSWER_SECONDS = 20
_LOG_SECONDS = 10.0
"""Lines that take so long are lost ones: the longest delay here is 0.3 s."""
_KEEP = 5
STACK = """\
version: 1
name: NAME
engine: modal
llama_cpp: {tag: b9763}
model: {repo: some/model-GGUF, quant: Q4_K_M}
server: {ctx_size: SIZE, parallel: 4}
snapshot: {enabled: true}
scaling: {max_containers: 3, scaledown_window: 2m}
gates: {health: {}, restore: {}}
"""


class StoryProgram(Program):
    """The client's own program without a start of Python for each question."""

    def __init__(self, variables: Mapping[str, str], cloud: Emulated) -> None:
        super().__init__(variables, None)
        object.__setattr__(self, "_cloud", cloud)

    def history(self, name: str) -> tuple[Version, ...]:
        app = self._found(name)
        rows = [] if app is None else app["rows"]
        return tuple(
            Version(row["version"], "", "tests", row["tag"]) for row in reversed(rows)
        )

    def containers(self, app_id: str) -> tuple[str, ...]:
        seen = self._cloud_().seen()
        names = {app["id"]: app["name"] for app in seen["apps"]}
        return tuple(
            it["task"]
            for it in seen["containers"]
            if it["runs"] and it["app"] == names[app_id]
        )

    def rates(self) -> Mapping[str, str]:
        return {}

    def rollback(self, name: str, version: int) -> None:
        try:
            entrypoint_cli.main(
                ["app", "rollback", name, f"v{version}"], standalone_mode=False
            )
        except modal.exception.Error as error:
            raise EngineError(str(error)) from None

    def _found(self, name: str) -> dict[str, Any] | None:
        return self._cloud_().app(name)

    def _cloud_(self) -> Emulated:
        found: Emulated = self.__dict__["_cloud"]
        return found


def _joined(
    account: Account, cloud: Emulated, log_seconds: float = _LOG_SECONDS
) -> Account:
    account.program = StoryProgram(cloud.environment, cloud)
    account._client = modal.Client.from_env()
    account.log_seconds = log_seconds
    return account


class FusedAccount(Account):
    """An account whose run ends at some call: for good, or as if by the network."""

    def __init__(self, variables: Mapping[str, str], fuse: Fuse, *, cut: bool) -> None:
        super().__init__(variables, None)
        self._fuse = fuse
        self._cut = cut

    @contextmanager
    def translated(self, about: str) -> Iterator[None]:
        self._burn(about)
        with super().translated(about):
            yield
        self._burn(about)  # done, and nobody hears of it

    def _burn(self, about: str) -> None:
        try:
            self._fuse.run(lambda: None)
        except CrashError:
            if not self._cut:
                raise
            raise EngineError(f"Modal could not be reached, {about}") from None


def _fetches(node: Node) -> tuple[apps.Fetch, ...]:
    if node.kind is not Kind.WEIGHTS:
        return ()
    return tuple(lower_builder(None, [node], ()).fetches)


@dataclass
class Stack:
    """A stack that is live, and what was ever promoted of it."""

    name: str
    cloud: Emulated
    folder: Path
    store: MemoryStateStore = field(default_factory=MemoryStateStore)
    gates_pass: bool = True
    text: str = STACK
    log_seconds: float = _LOG_SECONDS
    engine: ModalEngine | None = None
    """Of the last run."""

    def graph(self, size: int) -> Graph:
        text = self.text.replace("NAME", self.name).replace("SIZE", str(size))
        return graph_of(stack_of(text))

    def place_artefacts(self, graph: Graph) -> None:
        """What build, fetch and tryout would leave on the Volumes."""
        volumes = self.cloud.folder / "volumes"
        nodes = {node.kind: node for node in graph.values()}
        needs = {kind.value: outputs_of(node) for kind, node in nodes.items()}
        for kind in (Kind.BUILD, Kind.WEIGHTS):
            volume, path = place_of(kind, nodes[kind].key)
            folder = volumes / volume / path.lstrip("/")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / apps.COMPLETE).write_text('{"version": "b9763"}')
            for fetched in _fetches(nodes[kind]):
                for file in fetched.files:
                    (folder / file.name).touch()
        for kind in nodes.keys() & {Kind.SNAPSHOT, Kind.SERVER}:
            server = rendered_server(nodes[kind], needs, self.folder).server
            folder = volumes / apps.VOLUME / "tried" / server.run_key
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "result.json").write_text('{"seconds": 60.0, "waited": 60.0}')

    def account(self) -> Account:
        """An account; all share one connection."""
        account = Account(self.cloud.environment, None)
        return _joined(account, self.cloud, self.log_seconds)

    def run(
        self,
        graph: Graph,
        *,
        account: Account | None = None,
        say: Callable[[Event], None] = lambda _event: None,
    ) -> None:
        """Plan and carry out, as `deployer apply` does."""
        state = self.store.read() or State(self.name, "modal", lineage=self.name)
        environment = self.cloud.environment
        account = account or self.account()
        place = Place(
            self.folder, self.folder, environment, Keys(environment), self.folder
        )
        self.engine = engine = ModalEngine(place)
        engine._accounts[None] = account
        world = World(
            engine=engine,
            judge=self._judge,
            store=self.store,
            say=say,
            now=lambda: "2026-11-29T12:00:00+00:00",
            clock=time.monotonic,
            workers=1,
        )
        steps = steps_of(make_plan(graph, state))
        apply(steps, state, world, cause="apply", keep=_KEEP)

    def _judge(
        self, record: Record, gates: object, *, candidate: bool
    ) -> tuple[Verdict, ...]:
        del record, gates
        good = self.gates_pass or not candidate
        outcome = Outcome.PASS if good else Outcome.FAIL
        return (Verdict("health", outcome, "as the story wants it"),)

    @property
    def live(self) -> Record | None:
        state = self.store.read()
        records = () if state is None else state.live.values()
        return next((it for it in records if it.kind is Kind.SERVER), None)

    @property
    def serving(self) -> str:
        """The tag of the app that serves."""
        return str(
            (self.cloud.app(self.name) or {"tags": {}})["tags"].get(apps.KEY_TAG)
        )


def by_hand(stack: Stack, size: int) -> None:
    """Deploy a version as a person does, who has no state."""
    nodes = {node.kind: node for node in stack.graph(size).values()}
    needs = {kind.value: outputs_of(node) for kind, node in nodes.items()}
    files = rendered_server(nodes[Kind.SERVER], needs, stack.folder).files
    with on_disk(files, SERVER_FILE) as file:
        stack.account().deploy(file, "")


@dataclass(frozen=True)
class Told:
    """How a story ended."""

    seed: int
    kind: str
    counts: Counter[str]
    """Answers to clients by their status."""
    wrong: tuple[str, ...]


def tell(seed: int, cloud: Emulated, folder: Path) -> Told:
    """One story: a stack goes live, something happens to a change, apply converges."""
    chance = random.Random(seed)  # noqa: S311 - to be repeated
    kind = KINDS[seed % len(KINDS)]
    stack = Stack(f"s{seed}", cloud, folder)
    faults: dict[str, Any] = {
        "seed": seed,
        "workers": chance.choice((1, 2, 3)),
        "log_seconds": chance.choice((0.0, 0.1, 0.3)),
        "clock_ahead": chance.uniform(-600, 600),
        "restore_failure": chance.choice((0.0, 0.3, 1.0)),
        "restore_kind": "any",
        "lost_snapshots": chance.choice((0.0, 0.0, 0.5)),
        "capacity_seconds": chance.choice((0.0, 0.0, 0.0, 0.3)),
        "start_seconds": chance.uniform(0.0, 0.05),
        "capture_seconds": chance.uniform(0.0, 0.1),
    }
    cloud.faults(**faults)
    first, second = stack.graph(1024), stack.graph(2048)
    for graph in (first, second):
        stack.place_artefacts(graph)
    stack.run(first)
    before = stack.live
    assert before is not None
    url = str(before.outputs["url"])
    with clients(url) as counts:
        _happen(kind, stack, second, chance, faults)
        wrong = [*_afterwards(stack, before, second, kind)]
        cloud.faults(**faults)
        stack.gates_pass = True
        wanted = first if kind == "rolled back" else second
        stack.run(wanted)  # apply again converges
        _wait_for_an_answer(counts, _server(wanted).key[: apps.KEY_LETTERS])
    wrong += [*_converged(stack, wanted, counts)]
    stack.run({})
    apps_left = [
        app["name"]
        for app in cloud.seen()["apps"]
        if app["name"].split("-")[0] == stack.name
        and app["state"] != "APP_STATE_STOPPED"
    ]
    wrong += [f"{name} is left" for name in apps_left]
    return Told(seed, kind, counts.found, tuple(wrong))


def _happen(
    kind: str,
    stack: Stack,
    graph: Graph,
    chance: random.Random,
    faults: Mapping[str, Any],
) -> None:
    key = _server(graph).key[: apps.KEY_LETTERS]
    cloud, environment = stack.cloud, stack.cloud.environment
    match kind:
        case "change":
            stack.run(graph)
        case "rolled back":
            stack.run(graph)
            with suppress(CancelledError):  # on the way back, which goes on later
                stack.run(stack.graph(1024), say=_cancelling(chance.randint(1, 25)))
        case "broken":
            candidate = chance.random() < 0.3
            broken = [key] if candidate else [f"{stack.name}:{key}"]
            cloud.faults(**faults, broken=broken)
            with suppress(DeployerError):
                stack.run(graph)
                raise AssertionError("a version that cannot start was promoted")
        case "cancelled":
            with suppress(CancelledError):
                stack.run(graph, say=_cancelling(chance.randint(1, 25)))
        case "crashed" | "cut off":
            fuse = Fuse(chance.randint(1, 100))
            account = FusedAccount(environment, fuse, cut=kind == "cut off")
            _joined(account, cloud)
            with suppress(DeployerError, CrashError):
                stack.run(graph, account=account)
        case "gate fails":
            stack.gates_pass = False
            with suppress(DeployerError):
                stack.run(graph)
        case "preempted":
            cloud.preempt(stack.name)
            stack.run(graph)
            cloud.preempt(stack.name)
        case _:
            # Another state, in another checkout, knows nothing of what is live.
            other = Stack(stack.name, cloud, stack.folder, gates_pass=False)
            with suppress(DeployerError):
                other.run(stack.graph(1024))


def _cancelling(at: int) -> Callable[[Event], None]:
    """Say events; Ctrl-C is pressed at one of them."""
    left = [at]

    def say(_event: Event) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise CancelledError("cancelled")

    return say


def _afterwards(stack: Stack, before: Record, graph: Graph, kind: str) -> Iterator[str]:
    """What must hold at once: production serves, and the state says which version."""
    live = stack.live
    app = stack.cloud.app(stack.name) or {}
    if app.get("state") != "APP_STATE_DEPLOYED":
        yield f"production is {app.get('state')}"
    if live is None:
        yield "nothing is live"
        return
    ids = {it["id"] for it in stack.cloud.seen()["apps"] if it["name"] == stack.name}
    if len(ids) != 1:
        yield f"production became another app: {sorted(ids)}"
    state = stack.store.read()
    settled = state is not None and state.promoting is None
    if settled and not live.key.startswith(stack.serving):
        yield f"{stack.serving} serves, the state says {live.key[:16]}"
    failed = kind in ("broken", "gate fails", "candidate of the key that is live")
    if failed and live.key != before.key:
        yield "a version that failed was promoted"
    del graph


def _wait_for_an_answer(counts: Counts, key: str) -> None:
    """Let clients ask until the version answers: a busy machine asks seldom."""
    deadline = time.monotonic() + _ANSWER_SECONDS
    while key not in counts.servers and time.monotonic() < deadline:
        threading.Event().wait(0.02)


def _converged(stack: Stack, graph: Graph, counts: Counts) -> Iterator[str]:
    wanted = _server(graph).key[: apps.KEY_LETTERS]
    if counts.failed:
        yield f"clients: {counts}"
    if stack.serving != wanted:
        yield f"{stack.serving} serves in the end, and not {wanted}"
    if wanted not in counts.servers:
        yield f"{wanted} was promoted and never answered: {counts.servers}"


def _server(graph: Graph) -> Node:
    return next(node for node in graph.values() if node.kind is Kind.SERVER)


@contextmanager
def platform(folder: Path) -> Iterator[Emulated]:
    """An emulated platform with simulated containers, which the client finds."""
    kept = dict(os.environ)
    with emulator(folder / "cloud", simulated=True, haste=HASTE) as cloud:
        os.environ.update(cloud.environment)
        try:
            yield cloud
        finally:
            modal.Client.from_env().close()
            os.environ.clear()
            os.environ.update(kept)


def told(seeds: range) -> Iterator[Told]:
    """Stories in the order of their seeds, on several platforms side by side.

    Most of a story is waiting, so there are more of them than processors.
    """
    parts = [seeds[at : at + CHUNK] for at in range(0, len(seeds), CHUNK)]
    context = multiprocessing.get_context("spawn")  # the client has threads
    with ProcessPoolExecutor(PLATFORMS, mp_context=context) as pool:
        for part in pool.map(_told, parts):
            yield from part


def _told(seeds: range) -> list[Told]:
    """Stories on a platform of their own: it remembers all that ever ran on it."""
    with tempfile.TemporaryDirectory() as folder, platform(Path(folder)) as cloud:
        return [tell(seed, cloud, Path(folder)) for seed in seeds]


def main(count: int, first: int = 0) -> int:
    """Tell stories up to a seed; returns how many went wrong."""
    kinds: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    bad = 0
    begun = time.monotonic()
    for story in told(range(first, count)):
        kinds[story.kind] += 1
        counts += story.counts
        if story.wrong:
            bad += 1
            _print(f"story {story.seed} ({story.kind}): {'; '.join(story.wrong)}")
        if (story.seed + 1) % CHUNK == 0:
            _print(f"{story.seed + 1} stories, {time.monotonic() - begun:.0f} s")
    _print(f"{kinds.total()} stories: {bad} went wrong")
    _print(f"requests: {', '.join(f'{n} of {what}' for what, n in counts.items())}")
    _print(f"kinds: {', '.join(f'{n} {kind}' for kind, n in kinds.items())}")
    return bad


def _print(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - a program of its own


if __name__ == "__main__":
    sys.exit(min(1, main(*map(int, sys.argv[1:]))))
