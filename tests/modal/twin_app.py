"""Apps like the ones we render, as short as can be, for the unmodified client."""

import importlib.util
import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import modal

_NUMBERS = itertools.count()

_CLASS: Final = """\
import modal
app = modal.App({name!r}, tags={{"deployer-server": {key!r}, "deployer-run": {key!r}}})
@app.cls(image=modal.Image.debian_slim(), min_containers={least},
         max_containers={most}, scaledown_window={window},
         enable_memory_snapshot={snapshot}, gpu={gpu}, startup_timeout={limit})
@modal.concurrent(max_inputs=4)
class LlamaServer:
    KEY = {key!r}
    @modal.web_server(8080)
    def serve(self): pass
"""
_SERVER: Final = """\
import modal
app = modal.App({name!r}, tags={{"deployer-server": {key!r}}})
@app.server(image=modal.Image.debian_slim(), min_containers={least},
            max_containers={most}, scaledown_window={window}, unauthenticated=True)
class LlamaServer:
    KEY = {key!r}
    @modal.enter()
    def start(self): pass
"""


@dataclass(frozen=True)
class TwinApp:
    """One app, whose versions differ in their key."""

    client: modal.Client
    folder: Path
    name: str
    direct: bool = False
    """It is `@app.server`, and not a class with `@web_server`."""
    least: int = 0
    most: int | None = None
    window: int = 600
    snapshot: bool = False
    gpu: Sequence[str] | None = None
    limit: int = 600

    def deploy(self, key: str, *, strategy: str = "rolling") -> str:
        """Deploy the version of a key; returns its address."""
        module = self.load(key)
        module.app.deploy(client=self.client, strategy=strategy)
        return self.url

    def load(self, key: str) -> ModuleType:
        text = (_SERVER if self.direct else _CLASS).format(
            name=self.name,
            key=key,
            least=self.least,
            most=self.most,
            window=self.window,
            snapshot=self.snapshot,
            gpu=self.gpu and list(self.gpu),
            limit=self.limit,
        )
        folder = self.folder / f"{self.name}-{next(_NUMBERS)}"
        folder.mkdir(parents=True)
        file = folder / f"twin_{key}.py"
        file.write_text(text, encoding="utf-8")
        spec = importlib.util.spec_from_file_location(file.stem, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[file.stem] = module
        spec.loader.exec_module(module)
        return module

    @property
    def url(self) -> str:
        found: Any
        if self.direct:
            server: Any = modal.Server.from_name(
                self.name, "LlamaServer", client=self.client
            )
            found = server.get_url()
        else:
            cls: Any = modal.Cls.from_name(self.name, "LlamaServer", client=self.client)
            found = cls().serve.get_web_url()
        return str(found)
