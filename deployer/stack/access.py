"""Who may use a server: everybody who reaches it only where the stack gives a reason.

llama-server asks for no key unless it is given one, and tells browsers to let pages of
any site in (`--cors-origins`).  So a stack without a key may listen on this machine
only, may not offer what runs programs or changes the server, and answers pages of this
machine alone.
"""

import re
from collections.abc import Iterator

from deployer.runtime.keys import KEY_FORM
from deployer.stack.fields.model import Stack
from deployer.stack.findings import Finding
from deployer.stack.listen_addresses import is_loopback

NEW_KEY = (
    "take a key of printable ASCII without commas and blanks, such as that of"
    " `openssl rand -hex 32`"
)
"""What to do where a key cannot be used."""

_CORS = "cors-origins"
_CORS_SINCE = 10103
"""First build that is known to have the option."""
_THIS_MACHINE = "localhost"
"""Value of the option: pages of loopback addresses."""
_WORKS_FOR_CALLERS = frozenset({"agent", "mcp", "tools"})
"""Parts of the names of options that run programs or ask servers for a client."""
_HINT = (
    "add `auth: {api_key: …}`, or say why it is open: `auth: {open: behind our VPN}`"
)


def access_checks(stack: Stack) -> Iterator[Finding]:
    """Every rule about who may use the server that a stack breaks."""
    key, auth = stack.api_key, stack.auth
    if auth is not None and key is None and auth.open is None:
        what = "expected `api_key`, or `open` with a reason"
        yield Finding("auth", what, "add `api_key: {env: LLAMA_API_KEY}`")
    if auth is not None and key is not None and auth.open is not None:
        what = "`open` and `api_key` contradict each other"
        yield Finding("auth.open", what, "keep one of them")
    if key is not None and stack.engine == "local" and key.env is None:
        what = "`env` is missing: on local the key is taken from the environment"
        yield Finding("auth.api_key", what, "add `env: LLAMA_API_KEY`")
    if key is not None and stack.engine == "modal" and key.secret is None:
        what = "`secret` is missing: on modal the key is kept in a Modal secret"
        yield Finding("auth.api_key", what, "add `secret: llama-api-key`")
    if auth is None:
        for path, what in _needs_a_key(stack):
            yield Finding(path, f"{what} without an API key", _HINT, lacks="auth")


def closing_words(stack: Stack, *, build: int | None) -> tuple[str, ...]:
    """The options that keep pages of other sites from a server without a key.

    Nothing where the stack states them, or the build is not known to have them.
    """
    stated = stack.server is not None and _CORS in (stack.server.flags or {})
    if stack.api_key is not None or stated or build is None or build < _CORS_SINCE:
        return ()
    return (f"--{_CORS}", _THIS_MACHINE)


def key_problem(key: str) -> str:
    """Why llama-server could not be given a key; empty for one that it can.

    The reason holds nothing of the key.
    """
    if re.fullmatch(KEY_FORM, key):
        return ""
    if not key.strip():
        return "it is empty"
    if key.startswith("#"):
        return "it begins with `#`: llama-server would take the line for a comment"
    if "," in key:
        return "it holds a comma: llama-server reads a list of keys as several"
    if not key.isascii():
        return "it holds characters that are not ASCII"
    return "it holds blanks, line breaks or control characters"


def _needs_a_key(stack: Stack) -> Iterator[tuple[str, str]]:
    """Path and words of what a stack does that needs a key."""
    if stack.engine == "modal":
        yield "engine", "everybody who knows the URL on Modal can use the server"
    elif not is_loopback(stack.local.host):
        host = stack.local.host
        yield "local.host", f"`{host}` lets other machines use the server"
    server = stack.server
    if server is None:
        return
    if server.props:
        yield "server.props", "`props` lets every client change the server"
    for name, value in (server.flags or {}).items():
        words = {*name.strip("-").replace("_", "-").split("-")}
        if words & _WORKS_FOR_CALLERS and value is not False:
            yield f"server.flags.{name}", f"`{name}` lets every client use its tools"
        elif name == _CORS and value != _THIS_MACHINE:
            what = f"`{name}` lets pages of other sites use the server"
            yield f"server.flags.{name}", what
