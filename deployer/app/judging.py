"""Runs the gates of a record against its server, and keeps the report."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deployer.core.events import Judged, Say
from deployer.core.gate_options import Gate, Gates
from deployer.core.plan import GATES_PREFIX
from deployer.core.resources import Kind
from deployer.core.state import Record
from deployer.core.values import Flat, JsonValue
from deployer.core.verdict import Verdict
from deployer.engines import Endpoint, Engine
from deployer.errors import AuthError, EngineError, UsageError
from deployer.gates.runner import GateEvent, GateRequest, run_gates
from deployer.gates.target import Target


@dataclass(frozen=True, slots=True)
class Judging:
    """What judging needs beside the record: see `deployer.apply.Judge`."""

    engine: Engine
    environment: Mapping[str, str]
    say: Say
    expects: Callable[[Record], Flat]
    """The fields of everything the server is made from."""
    keep: Callable[[Record, Sequence[Verdict]], None]
    """Takes the verdicts of a run, to keep a report."""
    jobs: int = 4

    def __call__(
        self, record: Record, gates: Sequence[str], *, candidate: bool
    ) -> tuple[Verdict, ...]:
        """The verdicts of the named gates."""
        endpoint = self.engine.endpoint(record, candidate=candidate)
        target = target_of(endpoint, self.environment, self.expects(record))
        requests = tuple(
            GateRequest(name, parameters_of(name, record.fields)) for name in gates
        )
        verdicts = run_gates(requests, target, say=self._tell, jobs=self.jobs)
        if candidate and not self.engine.observe(record).running:
            # On a shared port the live server answers for a candidate that died.
            raise EngineError(
                f"the candidate `{record.address}` died while its gates ran",
                hint="its log says why: nothing was promoted",
            )
        self.keep(record, verdicts)
        return verdicts

    def _tell(self, event: GateEvent) -> None:
        if event.verdict is not None:
            self.say(Judged(event.verdict))


def target_of(
    endpoint: Endpoint, environment: Mapping[str, str], expects: Flat
) -> Target:
    """Where gates look; raises AuthError when the key is not in the environment."""
    key = api_key(endpoint.api_key_env, environment)
    return Target(
        url=endpoint.url,
        api_key=key,
        api_key_name=endpoint.api_key_env or "",
        source_address=endpoint.source_address,
        expects=expects,
        build=_build_number(expects),
    )


def api_key(name: str | None, environment: Mapping[str, str]) -> str | None:
    """The key in the variable ``name``; raises AuthError where there is none."""
    if name is None:
        return None
    if not (value := environment.get(name)):
        raise AuthError(
            f"the API key is to be in `{name}`, which is not set",
            hint=f"run `export {name}=…`, or write `{name}=…` into `.env` beside the"
            " stack",
        )
    return value


def parameters_of(gate: str, fields: Flat) -> Gate:
    """The options of a gate, from the fields that a record keeps."""
    prefix = f"{GATES_PREFIX}{gate}."
    options: dict[str, JsonValue] = {
        path.removeprefix(prefix): value
        for path, value in fields.items()
        if path.startswith(prefix)
    }
    section = getattr(Gates.model_validate({gate: options}, strict=False), gate)
    if not isinstance(section, Gate):
        raise UsageError(f"gate `{gate}` is not one of this version of deployer")
    return section


def reports_folder(home: Path, stack: str) -> Path:
    """Where the reports of a stack are kept."""
    return home / "reports" / stack


def release_fields(records: Mapping[str, Record]) -> Flat:
    """The fields of all resources of a release together."""
    found: dict[str, JsonValue] = {}
    for kind in Kind:
        for record in records.values():
            if record.kind is kind:
                found |= record.fields
    return found


def _build_number(expects: Flat) -> int | None:
    match expects.get("llama_cpp.tag"):
        case str(tag) if tag.startswith("b") and tag[1:].isdigit():
            return int(tag[1:])
        case _:
            return None
