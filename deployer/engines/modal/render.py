"""Values to the text of Modal apps: what is deployed, and what a person reads.

The same values give the same bytes on any machine.  Nothing of a stack enters a
template but as a literal of Python, see `deployer.engines.modal.literals`.
"""

from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from deployer import runtime
from deployer.engines.modal import apps
from deployer.engines.modal.apps import Apps, Builder, Server
from deployer.engines.modal.literals import (
    Value,
    call,
    comment,
    is_wide,
    lines,
    literal,
    options,
)
from deployer.runtime.warmup import Request

BUILDER_FILE: Final = "builder.py"
SERVER_FILE: Final = "server.py"
CANDIDATE_FILE: Final = "candidate.py"
TRYOUT_FILE: Final = "tryout.py"


def render(stack: Apps) -> Mapping[str, bytes]:
    """Every file of a stack on Modal, by name; they belong into one folder."""
    texts = {
        BUILDER_FILE: render_builder(stack.builder),
        TRYOUT_FILE: render_tryout(stack.tryout),
        CANDIDATE_FILE: render_server(stack.candidate),
        SERVER_FILE: render_server(stack.server),
    }
    files = {name: text.encode() for name, text in texts.items()}
    return {**files, **stack.assets, **runtime_files()}


@cache
def runtime_files() -> Mapping[str, bytes]:
    """What runs in the containers, as it is here: every rendering comes with it."""
    modules = sorted(Path(runtime.__path__[0]).glob("*.py"))
    return {f"runtime/{path.name}": path.read_bytes() for path in modules}


def render_builder(builder: Builder) -> str:
    """The app that puts builds and weights on the Volume."""
    return _rendered("builder.py.j2", builder=builder)


def render_server(server: Server) -> str:
    """The app that serves; of a candidate, the same under another name."""
    return _rendered("server.py.j2", server=server)


def render_tryout(server: Server) -> str:
    """The app that starts the server once, in a plain function without retries."""
    return _rendered("tryout.py.j2", server=server)


def _rendered(template: str, **values: Builder | Server) -> str:
    text = _environment().get_template(template).render(values)
    return f"{text.rstrip()}\n"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("deployer.engines.modal"),
        undefined=StrictUndefined,
        # Values are made literals by the filters below; there is no markup here.
        autoescape=False,  # noqa: S701 - Python source, not HTML
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "py": literal,
        "options": options,
        "lines": lines,
        "comment": comment,
        "call": call,
        "stated": _stated,
    }
    environment.tests["wide"] = is_wide
    environment.globals["names"] = apps
    return environment


def _stated(request: Request) -> Mapping[str, Value]:
    """The fields of a request that are not as they are by default."""
    found = ((field, getattr(request, field.name)) for field in fields(request))
    return {field.name: value for field, value in found if value != field.default}
