"""What a stack says of each option of Modal's client, and why it says nothing of one.

The options are those of the client 1.6.4; a test reads its signatures, so that one
that is new has to be entered here.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Final, NamedTuple


class Said(NamedTuple):
    """How an option is reached."""

    fields: tuple[str, ...] = ()
    """Fields of a stack."""
    why: str = ""
    """What deployer does with it instead, or why it leaves it out."""


def by(*fields: str) -> Said:
    """Return an option that fields state."""
    return Said(fields)


def no(why: str) -> Said:
    """Return an option that no field states."""
    return Said((), why)


_SECRETS: Final = by("auth.api_key.secret", "server.env")
_SERVED: Final = Said((), "rendered: port 8080, where llama-server listens")
_MACHINE: Final[Mapping[str, Said]] = {
    "image": by("modal.image", "llama_cpp.cuda"),
    "env": Said(
        ("server.env",),
        "the client makes a new secret of it in each deploy, so it is not used",
    ),
    "secrets": _SECRETS,
    "gpu": by("gpu"),
    "serialized": no("the rendered file is imported by its name"),
    "volumes": by("modal.mounts"),
    "cpu": by("modal.cpu", "modal.cpu_limit"),
    "memory": by("modal.memory", "modal.memory_limit"),
    "ephemeral_disk": by("modal.ephemeral_disk"),
    "min_containers": by("scaling.min_containers"),
    "max_containers": by("scaling.max_containers"),
    "buffer_containers": by("scaling.buffer_containers"),
    "scaledown_window": by("scaling.scaledown_window"),
    "startup_timeout": by("modal.startup_timeout"),
    "cloud": by("modal.cloud"),
    "routing_region": by("modal.routing_region"),
    "nonpreemptible": by("modal.nonpreemptible"),
    "enable_memory_snapshot": by("snapshot.enabled"),
    "experimental_options": by("snapshot.gpu"),
    "include_source": no("what runs in a container lies beside the rendered file"),
    "proxy": no("for a fixed address to the outside; llama-server opens no connection"),
    "i6pn": no("for containers that talk to each other; each serves alone"),
}
_CLASS: Final[Mapping[str, Said]] = {
    **_MACHINE,
    "network_file_systems": no("deprecated by Modal; Volumes took its place"),
    "retries": no(
        "the client refuses it for web functions, and no server has it;"
        " Modal starts a container again that ended"
    ),
    "timeout": by("modal.request_timeout"),
    "region": by("modal.region"),
    "block_network": no("a server without a network answers no request"),
    "restrict_modal_access": no("the container has no token of Modal"),
    "single_use_containers": no("a start for each request, of minutes"),
    "max_inputs": no("deprecated by Modal: a container would end after so many"),
    "_experimental_restrict_output": no("private to the client"),
}

OPTIONS: Final[Mapping[str, Mapping[str, Said]]] = {
    "App.cls": _CLASS,
    "App.function": {
        **_CLASS,
        "schedule": no("the builder and the tryout run when `apply` calls them"),
        "name": no("rendered"),
        "is_generator": no("no function of a rendered app is one"),
    },
    "App.server": {
        **_MACHINE,
        "target_concurrency": by("scaling.target_concurrency", "server.parallel"),
        "max_concurrency": by("scaling.max_concurrent"),
        "scaleup_window": by("scaling.scaleup_window"),
        "name": no("rendered"),
        "port": _SERVED,
        "unauthenticated": by("auth.proxy"),
        "h2_enabled": no("llama-server speaks HTTP/1.1"),
        "exit_grace_period": no("rendered: 30 s for answers under way"),
        "compute_region": by("modal.region"),
    },
    "web_server": {
        "port": _SERVED,
        "startup_timeout": no("rendered: `start` returns when the port is open"),
        "label": by("name"),
        "custom_domains": by("modal.custom_domains"),
        "requires_proxy_auth": by("auth.proxy"),
    },
    "concurrent": {
        "max_inputs": by("scaling.max_concurrent"),
        "target_inputs": by("scaling.target_concurrency", "server.parallel"),
    },
    "App": {
        "name": by("name"),
        "tags": by("modal.tags"),
        "image": no("given to each function"),
        "secrets": no("given to each function"),
        "volumes": no("given to each function"),
        "include_source": _MACHINE["include_source"],
    },
    "App.deploy": {
        "name": by("name"),
        "environment_name": by("modal.environment"),
        "tag": no("the key of what is deployed"),
        "client": no("of the token; `modal.workspace` refuses another one's"),
        "strategy": by("modal.strategy"),
    },
    "modal server deploy": {
        "image": by("modal.image", "llama_cpp.tag"),
        "port": _SERVED,
        "registry-secret": by("modal.registry_secret"),
        "registry-secret-from-env": no("a secret is named, never sent"),
        "force-build": no("the lock file pins images by digest"),
        "entrypoint": by("server"),
        "cmd": by("server"),
        "env-var": by("server.env"),
        "secret": _SECRETS,
        "secret-from-env": no("a secret is named, never sent"),
        "volume": by("modal.mounts"),
        "cpu": by("modal.cpu", "modal.cpu_limit"),
        "memory": by("modal.memory", "modal.memory_limit"),
        "gpu": by("gpu"),
        "region": by("modal.routing_region"),
        "unauthenticated": by("auth.proxy"),
        "h2": no("llama-server speaks HTTP/1.1"),
        "sessioned": no(
            "every request needs a token of a session, which clients of OpenAI's API"
            " and gates have not; the header `Modal-Session-ID` keeps a client on one"
            " container where that is possible, and needs none"
        ),
        "target-concurrency": by("scaling.target_concurrency", "server.parallel"),
        "max-concurrency": by("scaling.max_concurrent"),
        "min-containers": by("scaling.min_containers"),
        "max-containers": by("scaling.max_containers"),
        "buffer-containers": by("scaling.buffer_containers"),
        "scaleup-window": by("scaling.scaleup_window"),
        "scaledown-window": by("scaling.scaledown_window"),
        "startup-timeout": by("modal.startup_timeout"),
        "exit-grace-period": no("rendered: 30 s for answers under way"),
        "app-name": by("name"),
        "stream-logs": no("`deployer logs -f`"),
        "yes": no("`deployer apply --yes`"),
        "env": by("modal.environment"),
    },
}
"""Every option of the calls and commands that deploy a server, by their names."""


def pages() -> Mapping[str, Callable[[], str]]:
    """Return the page, by its name below `docs/`."""
    return {"reference/modal-options.md": lambda: "\n".join(_lines())}


def _lines() -> Iterator[str]:
    yield "# Options of Modal's client"
    yield from ("", "<!-- Written by `python -m scripts.docs.write`. -->", "")
    yield (
        "Each option of the calls and of the command that deploy a server with Modal's"
        " client 1.6.4, and what a stack says of it."
    )
    yield (
        "`modal server deploy` runs an image without any Python; the rendered apps use"
        " `App.cls` with `web_server` and `concurrent`, or `App.server`"
        " ([endpoints](../modal.md#endpoints))."
    )
    for call, options in OPTIONS.items():
        yield from ("", f"## `{call}`", "", "| Option | In a stack |", "|---|---|")
        for name, said in options.items():
            stated = ", ".join(f"`{field}`" for field in said.fields)
            yield f"| `{name}` | {'; '.join(filter(None, (stated, said.why)))} |"
    yield ""
