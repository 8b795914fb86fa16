"""Settings of clients that talk to a live endpoint.

The key is always a reference: the name of the variable that holds it.
"""

import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address


@dataclass(frozen=True, slots=True)
class Live:
    """A server to connect to."""

    stack: str
    url: str
    model: str
    api_key_env: str | None
    context: int | None = None
    """Tokens that one request may have, where the stack says."""
    token_env: str | None = None
    """Variable of the token that a proxy asks for beside the key; None: for none."""

    @property
    def beside(self) -> str:
        """A comment for clients whose headers stand elsewhere in their settings."""
        if self.token_env is None:
            return ""
        return (
            "# Modal's proxy asks for two headers beside the key: Modal-Key and"
            f" Modal-Secret, the halves of ${self.token_env} around its dot\n"
        )

    @property
    def base(self) -> str:
        """Where the OpenAI API begins."""
        return f"{self.url.rstrip('/')}/v1"

    @property
    def private(self) -> bool:
        """True for an address that others on the internet cannot reach."""
        place = self.url.partition("://")[2].partition("/")[0]
        host = place.rpartition(":")[0] or place
        try:
            return not ip_address(host.strip("[]")).is_global
        except ValueError:
            return host == "localhost" or host.endswith((".localhost", ".local"))


def curl(live: Live) -> str:
    """A request to try."""
    key = f' -H "Authorization: Bearer ${live.api_key_env}"' if live.api_key_env else ""
    if live.token_env:
        key += f' -H "Modal-Key: ${{{live.token_env}%%.*}}"'
        key += f' -H "Modal-Secret: ${{{live.token_env}#*.}}"'
    message = {"role": "user", "content": "What is the capital of France?"}
    body = json.dumps({"model": live.model, "messages": [message], "max_tokens": 64})
    shell = body.replace("'", "'\\''")
    return (
        f"curl -sS {live.base}/chat/completions{key}"
        f" -H 'Content-Type: application/json' -d '{shell}'\n"
    )


def openai(live: Live) -> str:
    """A program with OpenAI's client for Python."""
    key = f'os.environ["{live.api_key_env}"]' if live.api_key_env else '"none"'
    more = before = ""
    if live.token_env:
        before = f'half, _, other = os.environ["{live.token_env}"].partition(".")\n'
        more = ', default_headers={"Modal-Key": half, "Modal-Secret": other}'
    return f"""\
import os

from openai import OpenAI

{before}client = OpenAI(base_url={json.dumps(live.base)}, api_key={key}{more})
answer = client.chat.completions.create(
    model={json.dumps(live.model)},
    messages=[{{"role": "user", "content": "Hello"}}],
    max_tokens=32,
)
print(answer.choices[0].message.content)
"""


def codex(live: Live) -> str:
    """For `~/.codex/config.toml`; it speaks the Responses API."""
    key = f"env_key = {json.dumps(live.api_key_env)}\n" if live.api_key_env else ""
    window = f"model_context_window = {live.context}\n" if live.context else ""
    return f"""\
# ~/.codex/config.toml
{live.beside}model = {json.dumps(live.model)}
model_provider = "deployer"
{window}
[model_providers.deployer]
name = {json.dumps(f"deployer: {live.stack}")}
base_url = {json.dumps(live.base)}
wire_api = "responses"
{key}"""


def cursor(live: Live) -> str:
    """For the settings of Cursor, which has no file for them."""
    key = f"the value of ${live.api_key_env}" if live.api_key_env else "any text"
    reach = "it has to be reachable from the internet"
    if live.private:
        reach += ", and this one is not"
    return f"""\
# Cursor Settings > Models > API Keys
# Cursor's own servers ask the endpoint: {reach}.
{live.beside}OpenAI API Key:           {key}
Override OpenAI Base URL: {live.base}
Add model:                {live.model}
"""


def opencode(live: Live) -> str:
    """For `opencode.json`."""
    options: dict[str, object] = {"baseURL": live.base}
    if live.api_key_env:
        options["apiKey"] = f"{{env:{live.api_key_env}}}"
    if live.token_env:
        options["headers"] = {
            "Modal-Key": f"{{env:{live.token_env}_ID}}",
            "Modal-Secret": f"{{env:{live.token_env}_SECRET}}",
        }
    model: dict[str, object] = {"name": live.model}
    if live.context:
        model["limit"] = {"context": live.context, "output": min(live.context, 8192)}
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": f"deployer: {live.stack}",
        "options": options,
        "models": {live.model: model},
    }
    config = {
        "$schema": "https://opencode.ai/config.json",
        "provider": {"deployer": provider},
        "model": f"deployer/{live.model}",
    }
    return json.dumps(config, indent=2) + "\n"


def continue_(live: Live) -> str:
    """For `~/.continue/config.yaml`; the key is a secret of Continue."""
    name = live.api_key_env
    key = f"    apiKey: ${{{{ secrets.{name} }}}}\n" if name else ""
    where = f"; {name} is looked for in ~/.continue/.env" if name else ""
    return f"""\
# ~/.continue/config.yaml{where}
{live.beside}name: deployer
version: 1.0.0
schema: v1
models:
  - name: {json.dumps(live.model)}
    provider: openai
    model: {json.dumps(live.model)}
    apiBase: {json.dumps(live.base)}
{key}    roles: [chat, edit, apply]
"""


def aider(live: Live) -> str:
    """A command line for aider."""
    key = f'"${live.api_key_env}"' if live.api_key_env else "none"
    model = shlex.quote(f"openai/{live.model}")
    return (
        f"{live.beside}OPENAI_API_BASE={shlex.quote(live.base)} OPENAI_API_KEY={key}"
        f" aider --model {model} --no-show-model-warnings\n"
    )


CLIENTS: Mapping[str, Callable[[Live], str]] = {
    "openai": openai,
    "codex": codex,
    "cursor": cursor,
    "opencode": opencode,
    "continue": continue_,
    "aider": aider,
    "curl": curl,
}
"""Every client by name."""
