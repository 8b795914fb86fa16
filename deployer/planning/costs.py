"""Estimated cost of a plan on Modal, from a table of prices and assumed durations."""

import math
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from deployer.planning.plan import Action, Change, Plan
from deployer.planning.resources import Kind, Node
from deployer.stack.fields.values import Flat, JsonValue, seconds, size_in_bytes

GPU_CORES: Final = 4.0
"""Physical cores beside a GPU: sampling, tokens, pictures."""
CPU_CORES: Final = 8.0
"""Physical cores where there is no GPU, and `server.threads` says nothing."""
MARGIN: Final = 4 * 2**30
"""Bytes of host memory beside the weights: buffers, CUDA, Python."""

SLOTS: Final = 4
"""Requests that llama-server serves at once where `server.parallel` is unset."""
SPARE: Final = 4
"""Requests beyond the slots that a container takes: `/health`, `/metrics` and lists of
models are no reason for another GPU.  llama-server itself has as many threads more
than slots for them (`--threads-http`, `server-http.cpp`)."""
DISK_FOR_MEMORY: Final = 20
"""MiB of disk that are billed as one of memory (guide/resources)."""
KEEPING: Final = 3
"""Times that cores and memory cost which Modal may not preempt (its price list)."""

BUILD_CORES: Final = 16
"""Physical cores that compile."""
BUILD_MEMORY: Final = 16 * 1024
"""MiB: less than 0.6 GB for each compiler."""
FETCH_CORES: Final = 8
"""Physical cores that download: the hub's client uses all of them."""
FETCH_MEMORY: Final = 8 * 1024
CANDIDATE_WINDOW: Final = 60
"""Seconds that an idle candidate stays: longer than a gate takes to think."""


def gpus_of(fields: Flat) -> tuple[str, ...]:
    """Return the GPUs of a stack with their counts, in order of preference."""
    return tuple(_texts(fields.get("gpu")))


def cores_of(fields: Flat) -> float:
    """Return the physical cores of a container that serves."""
    match fields.get("modal.cpu"), fields.get("server.threads"):
        case (int() | float() as cores, _):
            return float(cores)
        case _ if gpus_of(fields):
            return GPU_CORES
        case _, int(threads):
            return float(threads)
        case _:
            return CPU_CORES


def concurrency_of(fields: Flat) -> int:
    """Return the requests in each container before another is added."""
    stated = _whole(fields.get("scaling.target_concurrency"))
    if stated:
        return stated
    slots = _whole(fields.get("server.parallel")) or SLOTS
    most = _whole(fields.get("scaling.max_concurrent"))
    return min(slots, most) if most else slots


def limit_of(fields: Flat) -> int:
    """Return the most requests in one container of `endpoint: web_server`."""
    stated = _whole(fields.get("scaling.max_concurrent"))
    return stated or concurrency_of(fields) + SPARE


def regions_of(fields: Flat) -> tuple[str, ...]:
    """Return the regions that containers may run in; none: anywhere."""
    return tuple(_texts(fields.get("modal.region")))


def disk_of(fields: Flat) -> int | None:
    """Return the MiB of local disk that a stack states."""
    given = fields.get("modal.ephemeral_disk")
    return None if given is None else math.ceil(size_in_bytes(given) / 2**20)


def memory_of(fields: Flat, weights: int) -> int:
    """Return the MiB of host memory to request; Modal bills those, or more if used.

    The `weights` (bytes) pass through it, at a capture once more; the prompt cache
    counts only where the stack sets `server.cache_ram`.
    """
    given = fields.get("modal.memory")
    if given is not None:
        return max(1, math.ceil(size_in_bytes(given) / 2**20))
    match fields.get("server.cache_ram"):
        case int(cache) if cache > 0:
            extra = cache * 2**20
        case _:
            extra = 0
    return math.ceil((weights * 1.05 + MARGIN + extra) / 2**30) * 1024


def _texts(value: JsonValue) -> Iterator[str]:
    match value:
        case str():
            yield value
        case list(items):
            yield from (str(item) for item in items)
        case _:
            return


class Prices(NamedTuple):
    """US dollars for a second."""

    gpu: Mapping[str, float]
    core: float
    """For a physical core."""
    gib: float
    """For a GiB of memory."""
    broad_region: float
    """Factor for a part of the world (`us`)."""
    narrow_region: float
    """Factor for a place in it (`us-west`)."""
    storage: float
    """For a GiB of a Volume and a month, beyond what is free."""
    storage_free: int
    """GiB of all Volumes of a workspace that are free."""
    as_of: str
    source: str


class Pace(NamedTuple):
    """How long things take: assumptions, on the slow side of what was reported."""

    build: float = 3600
    """Seconds of one core for a build with CUDA and one architecture (b11434)."""
    build_cpu: float = 700
    """The same without CUDA (b8672)."""
    prepare: float = 120
    """Seconds until a compiler starts: image, source."""
    download: float = 100e6
    """Bytes a second from the hub."""
    start: float = 30
    """Seconds of a start beside reading the weights."""
    read: float = 250e6
    """Bytes a second of weights into a GPU from a cold host."""
    capture: float = 200e6
    """Bytes a second into a snapshot."""
    restore: float = 1e9
    """Bytes a second out of one."""
    gate: float = 20
    """Seconds for a gate."""


class Costs(NamedTuple):
    """An estimate in US dollars."""

    apply: float
    """Once."""
    awake: float
    """For every hour in which one container is awake."""
    parts: Mapping[str, float]
    """Shares of `apply`."""
    always: int
    """Containers that never sleep."""
    prices: Prices
    stored: int = 0
    """Bytes of weights that lie on the Volume."""

    @property
    def storage(self) -> float:
        """Dollars a month for what is stored, where nothing is free any more."""
        return self.stored / 2**30 * self.prices.storage


def costs_of(plan: Plan, prices: Prices, pace: Pace | None = None) -> Costs:
    """Estimate what applying a plan on Modal costs, and each hour from then on."""
    fields = _fields(plan)
    size = _size(plan)
    rate = rate_of(fields, size, prices)
    parts = dict(_parts(plan, fields, size, rate, prices, pace or Pace()))
    always = _whole(fields.get("scaling.min_containers"))
    return Costs(sum(parts.values()), rate * 3600, parts, always, prices, size)


def rate_of(fields: Flat, weights: int, prices: Prices) -> float:
    """Return dollars a second of a serving container; of several GPUs the first."""
    memory = max(memory_of(fields, weights), (disk_of(fields) or 0) / DISK_FOR_MEMORY)
    total = cores_of(fields) * prices.core + memory / 1024 * prices.gib
    if fields.get("modal.nonpreemptible") is True:
        total *= KEEPING
    for gpu in gpus_of(fields)[:1]:
        name, _, count = gpu.partition(":")
        total += prices.gpu[name] * int(count or 1)
    if regions := regions_of(fields):
        # "If you specify multiple regions … we will apply the smaller" multiplier.
        narrow = all("-" in region for region in regions)
        total *= prices.narrow_region if narrow else prices.broad_region
    return total


def _parts(
    plan: Plan,
    fields: Flat,
    size: int,
    rate: float,
    prices: Prices,
    pace: Pace,
) -> Iterator[tuple[str, float]]:
    if _is_made(plan.change(Kind.BUILD)):
        work = pace.build if fields.get("llama_cpp.cuda") else pace.build_cpu
        taken = pace.prepare + work / BUILD_CORES
        yield "build", taken * _plain(BUILD_CORES, BUILD_MEMORY, prices)
    weights = [it for it in plan.changes if it.kind is Kind.WEIGHTS and _is_made(it)]
    if weights:
        new = sum(_size_of(it.after) for it in weights if it.after is not None)
        yield "fetch", new / pace.download * _plain(FETCH_CORES, FETCH_MEMORY, prices)
    server = plan.change(Kind.SERVER)
    gates = len(plan.gates) * pace.gate
    window = _window(fields)
    if _is_made(server):
        captures = Kind.SNAPSHOT in _needs(server)
        start = pace.start + size / pace.read
        first = start + (size / pace.capture if captures else 0)
        yield "tryout", start * rate
        primes = max(1, _whole(fields.get("snapshot.prime")) if captures else 0)
        yield "candidate", (primes * first + gates + CANDIDATE_WINDOW) * rate
        if "gates.restore" in _asked(plan):
            again = pace.start / 3 + size / pace.restore + CANDIDATE_WINDOW
            times = max(1, _whole(fields.get("gates.restore.times")))
            yield "restore", times * again * rate
        yield "production", (first + window) * rate
    elif server is not None and _is_validated(server):
        yield "gates", (pace.start + size / pace.read + gates + window) * rate


def _needs(server: Change | None) -> Mapping[str, str]:
    return {} if server is None or server.after is None else server.after.needs


def _is_made(change: Change | None) -> bool:
    made = (Action.CREATE, Action.REPLACE)
    return change is not None and change.action in made and not change.ready


def _is_validated(server: Change) -> bool:
    """Return whether the gates wake what is live, be it that it is also updated."""
    return any(reason.calls_for is Action.VALIDATE for reason in server.reasons)


def _plain(cores: float, memory: int, prices: Prices) -> float:
    return cores * prices.core + memory / 1024 * prices.gib


def _fields(plan: Plan) -> Flat:
    """Return the fields of everything that the stack wants."""
    found: dict[str, JsonValue] = {}
    for change in plan.changes:
        if change.after is not None:
            found |= change.after.fields
    return found


def _asked(plan: Plan) -> set[str]:
    return {f"gates.{name}" for name in plan.gates}


def _size(plan: Plan) -> int:
    """Return the bytes of all weights, as far as they are known."""
    wanted = [c.after for c in plan.changes if c.kind is Kind.WEIGHTS and c.after]
    return sum(map(_size_of, wanted))


def _size_of(node: Node) -> int:
    about = node.spec.get("about")
    return _whole(about.get("size")) if isinstance(about, dict) else 0


def _window(fields: Flat) -> float:
    """Modal keeps an idle container a minute where the stack says nothing."""
    stated = fields.get("scaling.scaledown_window")
    return 60 if stated is None else seconds(stated)


def _whole(value: JsonValue) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


SCALING: Final = {
    "min": "scaling.min_containers",
    "max": "scaling.max_containers",
    "buffer": "scaling.buffer_containers",
}
"""Fields with a number of containers, by the words of `server scale`."""
