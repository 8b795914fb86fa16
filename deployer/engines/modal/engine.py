"""The Modal engine: a stack becomes apps, and they are driven from outside.

Three apps a stack: ``<stack>-builder`` puts builds and weights on a Volume,
``<stack>-candidate`` is what the gates look at, ``<stack>`` serves.  A snapshot is of
one app alone, so what is promoted is not the candidate itself but the same files under
the name that clients know: with the same key, on the same image, from the same folders
of the Volume.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from deployer.engines.contract import Endpoint, Observation, Restored
from deployer.engines.modal import apps
from deployer.engines.modal.artefacts import Artefacts, folder_of
from deployer.engines.modal.billing import Meter
from deployer.engines.modal.drive import Account
from deployer.engines.modal.lower import (
    hub_secret_of,
    outputs_of,
    scaling_of,
    secret_of,
)
from deployer.engines.modal.observe import Seeing
from deployer.engines.modal.program import refuse_missing_client
from deployer.engines.modal.rollout import Rollout
from deployer.engines.modal.wait import Started
from deployer.engines.place import Place
from deployer.planning.actual import RunningServer
from deployer.planning.events import Say, Talk
from deployer.planning.graph import PLACE
from deployer.planning.resources import Kind, Node
from deployer.planning.state import Record
from deployer.stack.fields.values import Flat, show_seconds


class ModalEngine:
    """Builds and weights on a Volume, servers as deployed apps."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._meter = Meter()
        self._artefacts = Artefacts(place, self._meter)
        self._accounts: dict[str | None, Account] = {}

    def preflight(self, nodes: Sequence[Node]) -> None:
        """See `Engine.preflight`: nothing is billed before this has passed."""
        refuse_missing_client()
        self._artefacts.expect(nodes)
        checked: set[Account] = set()
        for node in nodes:
            account = self._account(node)
            if account not in checked:
                account.check()
                checked.add(account)
            if (secret := secret_of(node.fields)) is not None:
                account.require_secret(secret.name, secret.variable)
            if (hub := hub_secret_of(node.fields)) is not None:
                account.require_secret(hub, apps.HUB_TOKEN)

    def stage(self, node: Node, needs: Mapping[str, Flat], say: Say) -> Flat:
        """See `Engine.stage`.

        A snapshot is proven by one start of its command line outside of any class: it
        is captured when the first container of the server starts.
        """
        account = self._account(node)
        match node.kind:
            case Kind.BUILD | Kind.WEIGHTS:
                return self._artefacts.make(node, account, say)
            case Kind.SNAPSHOT:
                self._rollout(node, say).try_out(node, needs)
                return outputs_of(node)
            case Kind.SERVER:
                rollout = self._rollout(node, say)
                if Kind.SNAPSHOT not in node.needs:
                    rollout.try_out(node, needs)
                return {**outputs_of(node), **rollout.stage(node, needs)}

    def update(self, node: Node, record: Record, say: Say) -> None:
        """See `Engine.update`: how many containers there are, and nothing else."""
        del say
        stack = record.address.partition("/")[0]
        scaling = scaling_of(node.fields)
        self._account(record).scale(apps.server_app(stack), scaling)

    def promote(self, record: Record, before: Record | None, say: Say) -> Flat:
        """See `Engine.promote`: the proven files under the name that clients know."""
        return self._rollout(record, say).promote(record, before)

    def retire(self, record: Record, say: Say) -> None:
        """See `Engine.retire`: every app that serves this very record."""
        self._rollout(record, say).retire(record)

    def start(self, record: Record, needs: Mapping[str, Flat], say: Say) -> None:
        """See `Engine.start`."""
        del needs
        self._rollout(record, say).start(record)

    def stop(self, record: Record, say: Say) -> None:
        """See `Engine.stop`."""
        self._rollout(record, say).stop(record)

    def idle(self, record: Record, seconds: float, say: Say) -> None:
        """See `Engine.idle`."""
        self._rollout(record, say).idle(record, seconds)

    def restore(
        self, record: Record, needs: Mapping[str, Flat], say: Say, *, beside: bool
    ) -> Restored:
        """See `Engine.restore`: a snapshot is of one app, so a copy makes its own."""
        del needs
        rollout = self._rollout(record, say)
        if beside:
            record = rollout.copy(record)
            rollout.idle(record, 0)
        return _restored(rollout.restore(record), record)

    def woken(
        self, record: Record, ask: Callable[[], object], say: Say
    ) -> Restored | None:
        """See `Engine.woken`."""
        if Kind.SNAPSHOT not in record.needs:
            ask()
            return None
        started = self._rollout(record, say).woken(record, ask)
        return None if started is None else _restored(started, record)

    def flaw(self, record: Record, server: Record | Node) -> str:
        """See `Engine.flaw`: Modal itself makes snapshots anew when they expire."""
        del record, server
        return ""

    def observe(self, record: Record) -> Observation:
        """See `Engine.observe`."""
        return Seeing(self._account(record)).observe(record)

    def servers(
        self, stack: str, known: Collection[str], *, thoroughly: bool
    ) -> tuple[RunningServer, ...]:
        """See `Engine.servers`: none of them is a process of this machine."""
        del stack, known, thoroughly
        return ()

    def endpoint(self, record: Record, *, candidate: bool) -> Endpoint:
        """See `Engine.endpoint`: known from the deployment, so nothing is asked."""
        url = record.outputs.get("candidate_url" if candidate else "url")
        if url is None:
            stack = record.address.partition("/")[0]
            app = apps.candidate_app(stack) if candidate else apps.server_app(stack)
            url = self._account(record).url(app)
        key = record.outputs.get("api_key_env")
        return Endpoint(str(url), None if key is None else str(key))

    def discard(self, record: Record, say: Say) -> None:
        """See `Engine.discard`."""
        path = folder_of(record.kind, record.key)
        say(Talk(record.address, f"removes `{path}` from Volume `{apps.VOLUME}`"))
        self._account(record).remove(apps.VOLUME, path)

    def versions(self, record: Record) -> Mapping[str, str]:
        """See `Engine.versions`."""
        stack = record.address.partition("/")[0]
        history = self._account(record).program.history(apps.server_app(stack))
        return {it.tag: f"v{it.number}" for it in reversed(history) if it.tag}

    def logs(self, record: Record, *, lines: int, follow: bool) -> Iterator[str]:
        """See `Engine.logs`."""
        return Seeing(self._account(record)).logs(record, lines=lines, follow=follow)

    def _rollout(self, thing: Node | Record, say: Say) -> Rollout:
        return Rollout(self._account(thing), self._place.folder, self._meter, say)

    def _account(self, thing: Node | Record) -> Account:
        """The account, in the environment that the thing was made for."""
        found = thing.spec.get(PLACE)
        environment = None if found is None else str(found)
        if environment not in self._accounts:
            variables = self._place.environment
            self._accounts[environment] = Account(variables, environment)
        return self._accounts[environment]


def _restored(started: Started, record: Record) -> Restored:
    return Restored(
        started.really,
        started.seconds,
        f"{started.how} in {show_seconds(started.seconds)}",
        record,
        captured=started.captured,
        failed=started.failed,
    )
