"""How gates talk to a server: one HTTP client, with evidence of every request.

The only module that knows httpx2.  Nothing is repaired here: a gate sees the bytes
that came.  A request that gets no whole answer raises `Unanswered`; 503 is asked
again until the gate's own time limit ends it.
"""

import asyncio
import json
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote, urlsplit

import httpx2
import stamina

from deployer.errors import UsageError
from deployer.gates.harness.answers import Answer, Event, Streamed, excerpt
from deployer.llama.known.symptoms import own_refusals
from deployer.planning.events import Exchange
from deployer.stack.fields.values import JsonValue


@dataclass(frozen=True, slots=True)
class Loading:
    """The answer of a server on /health before its model was loaded."""

    status: int
    body: str


@dataclass(frozen=True, slots=True)
class Process:
    """The server as its engine sees it from outside; only what is known is set."""

    pid: int | None = None
    """Its number on this machine."""
    memory: int | None = None
    """Main memory that it holds, in bytes."""
    log: str = ""
    """Its log while it started."""
    loading: Loading | None = None
    """Its first answer while it loaded, where that was seen."""


@dataclass(frozen=True, slots=True)
class Comeback:
    """How a server came back, and where it answers now."""

    really: bool
    """It was restored; false for a cold start."""
    seconds: float
    """Until it was healthy."""
    detail: str
    """One sentence: what was restored, or why it was not."""
    url: str
    source_address: str | None = None
    captured: bool = False
    """It was a cold start that captured, as there was no snapshot to restore."""
    failed: int = 0
    """Restores that failed before it came up."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a server answers, the key it asks for, and what it should be.

    Raises UsageError for a URL or a key that no request can carry.
    """

    url: str
    """Base address, as the user writes it; a trailing `/v1` is left out."""
    api_key: str | None = field(default=None, repr=False)
    api_key_name: str = ""
    """Environment variable of the key, for messages."""
    other_keys: Mapping[str, str | None] = field(default_factory=dict, repr=False)
    """Further keys that are accepted, by variable; None where one is not set."""
    source_address: str | None = None
    """Local address that requests come from."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Headers for a proxy in front of the server, sent with every request."""
    expects: Mapping[str, JsonValue] = field(default_factory=dict)
    """Set fields of the stack by dotted path (`server.ctx_size`)."""
    build: int | None = None
    """Upstream build number of the stack's tag, where it is known."""
    process: Process = Process()
    """The server's process, where an engine tells of it."""
    live: "Target | None" = None
    """The live release, while this is the candidate for its place."""
    folder: Path | None = None
    """Folder of the stack; files it names are relative to it."""
    bring_back: Callable[[float], Comeback] | None = None
    """Puts the server away, and restores it after so many seconds; it blocks."""
    why_no_snapshot: str = ""
    """Why that cannot be, where it is known."""
    model: str | None = None
    """The one of a router's models that is asked; None: the server has one."""

    def __post_init__(self) -> None:
        _check_url(self.url)
        _check_key(self.api_key, self.api_key_name)
        for name, key in self.other_keys.items():
            _check_key(key, name)

    @property
    def keys(self) -> Mapping[str, str]:
        """Every key that is set, by its variable."""
        every = {self.api_key_name: self.api_key, **self.other_keys}
        return {name: key for name, key in every.items() if key is not None}

    @property
    def base(self) -> str:
        """The address that paths such as `/v1/models` are put behind."""
        return self.url.rstrip("/").removesuffix("/v1").rstrip("/")

    @property
    def host(self) -> str:
        """The host name or address in the URL."""
        return urlsplit(self.url).hostname or ""

    @property
    def slots(self) -> int | None:
        """How many requests it is to work on at once, where that is stated."""
        return self.whole("server.parallel")

    def whole(self, path: str) -> int | None:
        """The whole number stated at a path."""
        stated = self.expects.get(path)
        if isinstance(stated, int) and not isinstance(stated, bool):
            return stated
        return None

    def text(self, path: str) -> str | None:
        """The text stated at a path."""
        stated = self.expects.get(path)
        return stated if isinstance(stated, str) else None

    def truth(self, path: str) -> bool | None:
        """The boolean stated at a path."""
        stated = self.expects.get(path)
        return stated if isinstance(stated, bool) else None

    def states_any(self, prefix: str) -> bool:
        """Return whether anything below a dotted prefix (`model.`) is stated."""
        return any(path.startswith(prefix) for path in self.expects)


def _check_url(url: str) -> None:
    hint = "write it as `http://127.0.0.1:8080`"
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname)
        usable = usable and parts.port != 0
    except ValueError as error:
        raise UsageError(f"`{url}` is not a URL: {error}", hint) from error
    if parts.username is not None or parts.password is not None:
        raise UsageError(
            "the URL contains a user name or a password",
            "leave it out, and give the key in an environment variable",
        )
    if not usable or not url.isprintable() or " " in url:
        raise UsageError(f"`{url}` is not an http or https URL", hint)
    if parts.query or parts.fragment:
        raise UsageError(f"`{url}` has a query or a fragment", hint)


def _check_key(key: str | None, name: str) -> None:
    where = f"the key in `{name}`" if name else "the API key"
    hint = "look for a line break or quotes that were copied along"
    if key is not None and not key:
        raise UsageError(f"{where} is empty", "set it, or leave the key out")
    if key is not None and not (key.isascii() and key.isprintable()):
        raise UsageError(f"{where} contains characters a header cannot carry", hint)
    if key is not None and key != key.strip():
        raise UsageError(f"{where} starts or ends with a space", hint)


CONNECT_SECONDS = 10.0
WRITE_SECONDS = 60.0
SILENCE_SECONDS = 600.0
"""Longest time without a byte: a whole answer is silent while its prompt is read and
while it is generated.  What usually ends a hanging request is the gate's own limit."""
MOST_BYTES = 16 * 2**20
"""An answer beyond this is not one of llama-server."""
MOST_HOPS = 40
"""303s followed; Modal sends one for every 150 s that a request takes."""
EXCERPT_LENGTH = 400
PAUSE_HERE, PAUSE_AWAY, LONGEST_PAUSE = 0.25, 5.0, 15.0
"""Seconds between two requests to a server that loads: the pauses double.  A small
model of this machine is there in no time, a container elsewhere is not."""

_DECLARE_SECONDS = 10.0

_TRANSPORT = (httpx2.RequestError, httpx2.InvalidURL, httpx2.StreamError)

T = TypeVar("T")


class Unanswered(Exception):  # noqa: N818 - says what happened, as a sentence does
    """No whole answer came; the message says why."""


class _Loading(Exception):  # noqa: N818 - a state of the server, not a mistake
    """HTTP 503: ask again."""


class _Refused(Enum):
    """Why a server should refuse a request, in the order of `own_refusals`."""

    WITHOUT_KEY = auto()
    TOO_LONG = auto()
    WRONG = auto()


@dataclass(slots=True)
class _Draft:
    """The record of a request while it runs."""

    request: str
    status: int | None = None
    body: bytearray = field(default_factory=bytearray)
    loading: int = 0
    """How often 503 came before."""
    note: str = ""


class _Tee(httpx2.AsyncByteStream):
    """A body that is kept while it is read."""

    def __init__(self, inner: httpx2.AsyncByteStream, kept: bytearray) -> None:
        self._inner = inner
        self._kept = kept

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._inner:
            self._kept += chunk
            if len(self._kept) > MOST_BYTES:
                raise Unanswered(f"the answer is longer than {MOST_BYTES >> 20} MiB")
            yield chunk

    async def aclose(self) -> None:
        await self._inner.aclose()


class Client:
    """Requests of one gate, and the evidence they leave."""

    def __init__(
        self,
        http: httpx2.AsyncClient,
        target: Target,
        *,
        gate: str = "",
        clock: Callable[[], float] = time.monotonic,
        patient: bool = True,
    ) -> None:
        self.evidence: list[Exchange] = []
        self.gate = gate
        self.clock = clock
        self._http = http
        self._target = target
        self._refused = Counter[_Refused]()
        """Requests that were refused as they should be."""
        self._patient = patient
        """True where a server that loads is asked again; else 503 is its answer."""

    async def get(
        self, path: str, *, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Ask for a path; `headers` replace the stack's key."""
        return await self._exchange("GET", path, None, headers, self._whole)

    async def declare_refusals(self) -> None:
        """Let the log say which refusals were deployer's own, for `doctor`.

        The type of a format comes back in the error, which every build logs (b8672 to
        b11434), of a chat model or not.  Without the key nothing can be written.
        """
        counts, self._refused = self._refused, Counter()
        if not counts or self._target.api_key is None:
            return
        kept = len(self.evidence)
        said = own_refusals(*(counts[kind] for kind in _Refused))
        body: Mapping[str, JsonValue] = {
            "messages": [],
            "response_format": {"type": said},
        }
        with suppress(Unanswered, TimeoutError):
            async with asyncio.timeout(_DECLARE_SECONDS):
                await self.post("/apply-template", body)
        del self.evidence[kept:]

    async def peek(self, path: str) -> Answer:
        """Ask for a path that is asked too often to be evidence."""
        kept = len(self.evidence)
        try:
            return await self.get(path)
        finally:
            del self.evidence[kept:]

    async def post(
        self,
        path: str,
        body: Mapping[str, JsonValue],
        *,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send JSON to a path; `headers` replace the stack's key."""
        return await self._exchange("POST", path, body, headers, self._whole)

    async def post_wrong(
        self, path: str, body: Mapping[str, JsonValue] | bytes
    ) -> Answer:
        """Send what the server should refuse, bytes as they are."""
        answer = await self._exchange("POST", path, body, None, self._whole)
        if answer.status in {400, 500}:
            is_long = b"exceed_context_size_error" in answer.body
            self._refused[_Refused.TOO_LONG if is_long else _Refused.WRONG] += 1
        return answer

    async def stream(
        self,
        path: str,
        body: Mapping[str, JsonValue],
        hear: Callable[[Event], None] = lambda _: None,
    ) -> Streamed:
        """Send JSON to a path, and read server-sent events until the end.

        ``hear`` takes each as it comes.  Whoever is cancelled hangs up on the server.
        """
        consume = partial(self._events, hear)
        return await self._exchange("POST", path, body, None, consume)

    def keep(self, exchange: Exchange) -> None:
        """Take evidence that is not a request of this client, without the key."""
        self.evidence.append(
            Exchange(
                excerpt(self.hidden(exchange.request), EXCERPT_LENGTH),
                exchange.status,
                excerpt(self.hidden(exchange.response), EXCERPT_LENGTH),
                round(exchange.seconds, 4),
                self.hidden(exchange.note),
            )
        )

    def hidden(self, text: str) -> str:
        """A text without the keys, also where JSON escaped them."""
        live = self._target.live
        keys = [*self._target.keys.values(), *(live.keys.values() if live else ())]
        for key in (*keys, *self._target.headers.values()):
            text = text.replace(key, "***").replace(json.dumps(key)[1:-1], "***")
        return text

    def _routed(self, method: str, path: str) -> str:
        """A path with the model in it, where a router has to know."""
        if self._target.model is None or method != "GET":
            return path
        sign = "&" if "?" in path else "?"
        return f"{path}{sign}model={quote(self._target.model, safe='')}"

    def _of_model(
        self, body: Mapping[str, JsonValue] | bytes | None
    ) -> Mapping[str, JsonValue] | bytes | None:
        if self._target.model is None or not isinstance(body, Mapping):
            return body
        return {"model": self._target.model, **body}

    async def _exchange(
        self,
        method: str,
        path: str,
        body: Mapping[str, JsonValue] | bytes | None,
        headers: Mapping[str, str] | None,
        consume: Callable[[httpx2.Response, _Draft, float], Awaitable[T]],
    ) -> T:
        draft = _Draft(f"{method} {path}{_shown(body)}", note="ran out of time")
        started = self.clock()
        try:
            request = self._http.build_request(
                method,
                f"{self._target.base}{self._routed(method, path)}",
                content=_encoded(self._of_model(body)),
                headers={
                    **self._target.headers,
                    **({} if body is None else {"Content-Type": "application/json"}),
                    **(self._key() if headers is None else headers),
                },
            )
            response = await self._opened(request, draft)
            try:
                result = await consume(response, draft, started)
            finally:
                await response.aclose()
        except _TRANSPORT as error:
            draft.note = why(error, self._target.base)
            raise Unanswered(draft.note) from error
        except Unanswered as error:
            draft.note = str(error)
            raise
        else:
            draft.note = ""
            return result
        finally:
            if headers is not None and draft.status == httpx2.codes.UNAUTHORIZED:
                self._refused[_Refused.WITHOUT_KEY] += 1
            self.evidence.append(self._recorded(draft, self.clock() - started))

    def _key(self) -> dict[str, str]:
        key = self._target.api_key
        return {} if key is None else {"Authorization": f"Bearer {key}"}

    async def _opened(self, request: httpx2.Request, draft: _Draft) -> httpx2.Response:
        """The answer with its body unread, after 503 has passed."""
        stamina.instrumentation.set_on_retry_hooks([])  # else it logs over the table
        async for attempt in stamina.retry_context(
            on=_Loading,
            attempts=None,
            timeout=None,
            wait_initial=PAUSE_HERE if _is_loopback(self._target.host) else PAUSE_AWAY,
            wait_max=LONGEST_PAUSE,
            wait_jitter=0.1,
        ):
            with attempt:
                return await self._sent(request, draft)
        raise Unanswered("gave up asking")

    async def _sent(self, request: httpx2.Request, draft: _Draft) -> httpx2.Response:
        """The answer behind every 303 of the same server."""
        draft.body.clear()
        for _ in range(MOST_HOPS):
            response = await self._http.send(request, stream=True)
            draft.status = response.status_code
            if isinstance(response.stream, httpx2.AsyncByteStream):
                response.stream = _Tee(response.stream, draft.body)
            loads = response.status_code == httpx2.codes.SERVICE_UNAVAILABLE
            if loads and self._patient:
                draft.loading += 1
                await _drained(response)
                raise _Loading
            onward = response.next_request
            if response.status_code != httpx2.codes.SEE_OTHER or onward is None:
                return response
            await _drained(response)
            draft.body.clear()
            if _origin(onward.url) != _origin(request.url):
                raise Unanswered(f"HTTP 303 to another server: `{onward.url.host}`")
            request = onward
        raise Unanswered(f"HTTP 303 {MOST_HOPS} times, and no answer")

    async def _whole(
        self, response: httpx2.Response, _draft: _Draft, started: float
    ) -> Answer:
        body = await response.aread()
        return _answer(response, body, self.clock() - started)

    async def _events(
        self,
        hear: Callable[[Event], None],
        response: httpx2.Response,
        draft: _Draft,
        started: float,
    ) -> Streamed:
        events: list[Event] = []
        broke = ""
        if not _streams(response):
            return Streamed(await self._whole(response, draft, started), ())
        try:
            async for event in httpx2.EventSource(response):
                at = self.clock() - started
                events.append(Event(event.event, event.data, at))
                hear(events[-1])
        except _TRANSPORT as error:
            broke = why(error, self._target.base)
        answer = _answer(response, bytes(draft.body), self.clock() - started)
        return Streamed(answer, tuple(events), broke)

    def _recorded(self, draft: _Draft, seconds: float) -> Exchange:
        notes = [f"HTTP 503 {draft.loading} times"] if draft.loading else []
        notes += [draft.note] if draft.note else []
        return Exchange(
            request=excerpt(self.hidden(draft.request), EXCERPT_LENGTH),
            status=draft.status,
            response=excerpt(
                self.hidden(draft.body.decode(errors="replace")), EXCERPT_LENGTH
            ),
            seconds=round(seconds, 4),
            note=self.hidden("; ".join(notes)),
        )


@asynccontextmanager
async def connected(target: Target) -> AsyncIterator[httpx2.AsyncClient]:
    """The pool of connections that the gates of one run share."""
    local = _is_loopback(target.host)
    # Reading the certificates of the system takes 120 ms: only https pays for it.
    # Without TLS nobody is trusted, instead of everybody.
    verify: ssl.SSLContext | bool = True
    if target.base.startswith("http://"):
        verify = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # A connection that the server is just closing must not look like a fault of its
    # answers: each request has its own.
    limits = httpx2.Limits(max_keepalive_connections=0)
    transport = None
    if target.source_address is not None:
        transport = httpx2.AsyncHTTPTransport(
            local_address=target.source_address, verify=verify, limits=limits
        )
    async with httpx2.AsyncClient(
        transport=transport,
        verify=verify,
        trust_env=not local,
        headers={"Accept-Encoding": "identity", "User-Agent": "deployer"},
        timeout=httpx2.Timeout(
            connect=CONNECT_SECONDS,
            write=WRITE_SECONDS,
            read=SILENCE_SECONDS,
            pool=SILENCE_SECONDS,
        ),
        limits=limits,
        follow_redirects=False,
    ) as http:
        yield http


@asynccontextmanager
async def beside(client: Client, target: Target) -> AsyncIterator[Client]:
    """Ask another server for the same gate; its requests become evidence too."""
    async with connected(target) as http:
        other = Client(http, target, gate=client.gate, clock=client.clock)
        try:
            yield other
        finally:
            for exchange in other.evidence:
                client.keep(exchange)


def why(error: Exception, base: str) -> str:
    """A sentence for an error of the transport."""
    detail = excerpt(str(error), 160)
    because = f": {detail}" if detail else ""
    match error:
        case httpx2.ConnectTimeout():
            return f"no connection to `{base}` within {CONNECT_SECONDS:.0f} s"
        case httpx2.ConnectError():
            return f"nothing answers at `{base}`{because}"
        case httpx2.ReadTimeout():
            return f"not a byte came for {SILENCE_SECONDS:.0f} s"
        case httpx2.TimeoutException():
            return f"the request could not be sent in time{because}"
        case httpx2.RemoteProtocolError():
            return f"the connection broke off{because}"
        case httpx2.ReadError() | httpx2.WriteError() | httpx2.CloseError():
            return f"the connection was reset{because}"
        case httpx2.DecodingError():
            return f"the body cannot be decoded{because}"
        case _:
            return f"the request failed{because or f' ({type(error).__name__})'}"


def _shown(body: Mapping[str, JsonValue] | bytes | None) -> str:
    """A body as evidence; what is kept of it is no longer than the beginning."""
    match body:
        case None:
            return ""
        case bytes():
            return f" {body[:EXCERPT_LENGTH].decode(errors='replace')}"
        case _:
            return f" {json.dumps(body, ensure_ascii=False)}"


def _encoded(body: Mapping[str, JsonValue] | bytes | None) -> bytes | None:
    if body is None or isinstance(body, bytes):
        return body
    return json.dumps(body, allow_nan=False).encode()


def _answer(response: httpx2.Response, body: bytes, seconds: float) -> Answer:
    content_type = response.headers.get("content-type", "")
    return Answer(response.status_code, content_type, body, seconds)


def _streams(response: httpx2.Response) -> bool:
    content_type = response.headers.get("content-type", "")
    media_type = content_type.partition(";")[0].strip().lower()
    return response.status_code == 200 and media_type == "text/event-stream"


async def _drained(response: httpx2.Response) -> None:
    """Read a body nobody asked for, so that the connection can be used again."""
    try:
        await response.aread()
    finally:
        await response.aclose()


def _origin(url: httpx2.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _is_loopback(host: str) -> bool:
    """Return whether a proxy of the environment has no business with this host."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
