"""A stack on a build: what conditions of known issues ask."""

from dataclasses import dataclass
from typing import Final

from deployer.stack.fields.model import Stack
from deployer.stack.fields.server import Server

DEFAULT_BATCH: Final = 2048
DEFAULT_UBATCH: Final = 512
DEFAULT_SLOTS: Final = 4
"""What llama-server does on all builds from b8646 to b11434 where nothing is set."""

_QUANTISED: Final = ("q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
_SLIDING: Final = ("gemma", "gptoss", "commandr7b", "commanda")


@dataclass(frozen=True, slots=True)
class Case:
    """A stack on a build."""

    stack: Stack
    build: int | None
    """Upstream's number; None where only a release or a commit is named."""

    @property
    def server(self) -> Server:
        """Its options; all unset where there are none."""
        return self.stack.server or Server()

    @property
    def names(self) -> str:
        """All that says which model it is, without signs between the words."""
        model = self.stack.model
        known = (
            *(model.repo, model.file, model.path, model.url, model.pypi),
            model.alias,
        )
        text = " ".join(name for name in known if name).lower()
        return text.translate({ord(sign): None for sign in "-_."})

    @property
    def is_gemma4(self) -> bool:
        """Whether it is a Gemma 4, by its name."""
        return "gemma4" in self.names

    @property
    def slides(self) -> bool:
        """Whether some of its layers see a window only, by its name."""
        return any(name in self.names for name in _SLIDING)

    @property
    def is_patched(self) -> bool:
        """Whether the patch for the thinking tags of Gemma 4 is named."""
        patches = self.stack.llama_cpp.patches or ()
        return any(name.startswith("gemma4-thinking") for name in patches)

    @property
    def is_built(self) -> bool:
        """Whether llama-server is compiled from source."""
        wanted = self.stack.llama_cpp
        return not (wanted.package or wanted.binary or wanted.source == "release")

    @property
    def quantised(self) -> str:
        """The field that makes the KV cache quantised; empty where none does."""
        for name in ("cache_type_k", "cache_type_v"):
            if getattr(self.server, name) in _QUANTISED:
                return f"server.{name}"
        return ""

    def has_definition(self, name: str) -> bool:
        """Return whether the cmake definitions of the stack set this one."""
        defined = self.stack.llama_cpp.cmake or ()
        return any(one.partition("=")[0].partition(":")[0] == name for one in defined)
