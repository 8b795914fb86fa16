"""The rules of ARCHITECTURE.md, as tests."""

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from deployer.engines.registry import ENGINES
from deployer.stack.fields.marks import Section, fields_of
from deployer.stack.fields.model import Stack

REPOSITORY = Path(__file__).parent.parent
ROOT = REPOSITORY / "deployer"
OURS = sorted(ROOT.rglob("*.py"))
TESTS = sorted((REPOSITORY / "tests").rglob("*.py"))

MAX_FILE = 800
MAX_FUNCTION = 40
MAX_IN_FOLDER = 22
# Ceilings that go down with the count and never up.
MAX_MODULES = 213
MAX_NAMES = 71
"""Names of ours that one module imports, lazy imports included."""

MAY_IMPORT: Mapping[str, frozenset[str]] = {
    room: frozenset(others.split())
    for room, others in {
        "__init__": "",
        "spelling": "",
        "diagnostics": "spelling",
        "errors": "diagnostics",
        "system": "errors",
        "engine rows": "",  # every room may look at one
        "runtime": "",  # copied beside rendered apps
        "stack": "diagnostics errors planning runtime spelling system",
        "planning": "runtime spelling stack",
        "artefacts": "__init__ errors planning spelling stack system",
        "state": "__init__ artefacts errors planning stack system",
        "gguf": "artefacts errors planning stack system",
        "llama": "artefacts diagnostics errors planning runtime spelling stack system",
        "show": "diagnostics planning spelling stack",
        "gates": "errors llama planning runtime stack system",
        "engines": "__init__ artefacts diagnostics errors llama planning runtime show"
        " spelling stack system",
        "testing": "engines errors planning stack state",
        "usecases": "__init__ artefacts diagnostics engines errors gates gguf llama"
        " planning show spelling stack state system",
        "cli": "__init__ artefacts diagnostics engines errors gates gguf llama planning"
        " show spelling stack state system usecases",
        "entry": "__init__ cli system",
        "__main__": "entry",
    }.items()
}
"""Who may know whom, by the first name below `deployer`."""

HOMES: Mapping[str, tuple[str, ...]] = {
    "click": ("cli/",),
    "lsprotocol": ("cli/language_server.py",),
    "pygls": ("cli/language_server.py",),
    "dotenv": ("engines/place.py",),
    "filelock": ("artefacts/store.py",),
    "httpx2": (
        "gates/harness/client.py",
        "gates/harness/runner.py",
        "artefacts/sources/hub.py",
        "artefacts/sources/transfer.py",
        "gguf/reading.py",
    ),
    "huggingface_hub": ("runtime/fetch.py", "artefacts/sources/hub.py"),
    "jinja2": (
        "usecases/report.py",
        "engines/modal/render.py",
        "gates/harness/report.py",
    ),
    "jsonschema": ("gates/checks/quality.py", "usecases/validate.py"),
    "markupsafe": ("usecases/report.py", "gates/harness/report.py"),
    **dict.fromkeys(("modal", "aiohttp", "grpclib"), ("engines/modal/drive.py",)),
    "obstore": ("state/objects.py",),
    "packaging": ("usecases/upgrade.py",),
    "prometheus_client": ("gates/checks/performance.py",),
    "psutil": ("engines/local/", "state/lock.py"),
    "pydantic": (
        "stack/",
        "gates/",
        "show/",
        "engines/local/section.py",
        "engines/modal/section.py",
    ),
    "pydantic_core": ("stack/fields/schema.py",),
    "rich": ("cli/",),
    "stamina": (
        "gates/harness/client.py",
        "artefacts/sources/transfer.py",
        "state/objects.py",
    ),
    # the last reads files of other programs, with all that YAML 1.1 has
    "yaml": ("stack/edits.py", "stack/yaml12.py", "usecases/reading/launch_files.py"),
    # of the standard library
    "socket": (
        "engines/local/",
        "stack/addresses.py",
        "artefacts/sources/transfer.py",
    ),
    "subprocess": (
        "engines/local/",
        "engines/modal/drive.py",
        "usecases/context/git.py",
        "llama/",
        "runtime/",
        "artefacts/sources/pypi.py",
    ),
    "logging": ("artefacts/sources/hub.py",),
    "random": (),
}
"""Where a library is known; one that is not named here is known nowhere."""

PURE = ("planning/", "stack/fields/", "show/")
SPELL = (
    "planning/",
    "stack/fields/",
    "stack/checks",
    "stack/access",
    "engines/local/section.py",
    "engines/modal/section.py",
    "stack/explain_problems",
    "stack/files",
    "show/",
)
"""Rooms that decide over fields, and so may name them."""

NEVER_IN_PURE = {
    *("os", "pathlib", "tempfile", "shutil", "subprocess", "threading", "logging"),
    *("time", "datetime", "random", "secrets", "socket", "urllib", "http"),
    *("yaml", "click", "modal"),
}

SPELLED: Mapping[str, set[object]] = {
    # what the state forgets
    "usecases/apply.py": {"rollout.keep"},
    # where to tell what does not fit, and what the build does not know
    "usecases/reading/memory.py": {"server.ctx_size"},
    "usecases/reading/weights.py": {
        "server.ctx_size",
        "server.speculative.type",
        "llama_cpp.tag",
        "model.mmproj",
        "server.chat_template",
    },
    # who asked for a file that is something else
    "gguf/facts.py": {"model.mmproj"},
    # what to write so that it fits
    "gguf/choices.py": {
        "server.cache_type_k",
        "server.cache_type_v",
        "server.ctx_size",
        "server.n_cpu_moe",
    },
    # what another build means for options, and how long it takes
    "usecases/plan.py": {"llama_cpp.cuda", "llama_cpp.tag"},
    "usecases/reading/findings.py": {"llama_cpp.tag"},
    # what exposes a stack to an advisory
    "llama/known/advisories.py": {"llama_cpp.cmake", "llama_cpp.tag"},
    # whether the old one comes back where a short look fails
    "usecases/steps.py": {"rollout.on_failure"},
    # a probe waits no longer than its limit
    "usecases/watch.py": {"gates.stream.ttft"},
    # where options of a command line go that have no mark of a field
    "llama/adopted.py": {
        "auth.api_key.env",
        "local.host",
        "local.port",
        "model.control_vectors",
        "model.draft.path",
        "model.file",
        "model.lora",
        "model.mmproj.path",
        "model.mmproj.url",
        "model.path",
        "model.url",
        "model.vocoder.file",
        "model.vocoder.path",
        "server.chat_template",
    },
    # where a process listens, and how the next release takes over from it
    "usecases/states.py": {"local.host", "local.port", "rollout.strategy"},
    # what is known of a launch beside its command line
    "usecases/adopt.py": {
        "auth.api_key.env",
        "auth.open",
        "llama_cpp.backend",
        "llama_cpp.binary",
        "llama_cpp.commit",
        "llama_cpp.source",
        "llama_cpp.tag",
        "local.host",
        "local.port",
        "model.alias",
        "server.chat_template",
        "snapshot.enabled",
        "snapshot.idle",
    },
    # the build number that gates expect; what a client has to know of the model
    "usecases/check.py": {
        "llama_cpp.tag",
        "model.alias",
        "server.ctx_size",
        "server.kv_unified",
        "server.parallel",
    },
    # what the local engine makes real by itself
    "engines/local/server.py": {
        "local.drain",
        "local.host",
        "local.port",
        "local.start_timeout",
        "rollout.strategy",
    },
    # where a server that left no note is reached
    "engines/local/supervise/survivors.py": {"local.drain", "local.host", "local.port"},
    # what is asked before the memory is captured
    "engines/local/snapshot/capture.py": {"snapshot.warmup"},
    # compared with what the server says of itself, and whether a key is asked for
    "gates/checks/server.py": {
        "llama_cpp.commit",
        "llama_cpp.tag",
        "model.alias",
        "model.mmproj",
        "model.path",
        "model.pypi",
        "model.repo",
        "model.url",
        "server.ctx_size",
        "server.kv_unified",
        "server.metrics",
        "server.parallel",
        "server.slots",
    },
    # how many requests answer at once
    "gates/harness/client.py": {"server.parallel"},
    # whether a request without a budget has one
    "gates/checks/chat.py": {"server.reasoning_budget"},
    "gates/checks/hardware.py": {"server.device", "server.n_gpu_layers"},
    # decides how llama.cpp is compiled
    "engines/local/artefacts.py": {
        "llama_cpp.cmake",
        "llama_cpp.cuda",
        "llama_cpp.patches",
        "llama_cpp.tag",
    },
    # where a live server is asked
    "engines/local/supervise/find.py": {"local.host", "local.port"},
    "engines/local/engine.py": {"local.host", "local.port"},
    # what a container on Modal is
    "engines/modal/lower.py": {
        "auth.proxy",
        "modal.cloud",
        "modal.custom_domains",
        "modal.endpoint",
        "modal.image",
        "modal.mounts",
        "modal.nonpreemptible",
        "modal.registry_secret",
        "modal.request_timeout",
        "modal.routing_region",
        "modal.startup_timeout",
        "modal.strategy",
        "model.hub_secret",
        "scaling.buffer_containers",
        "scaling.max_concurrent",
        "scaling.max_containers",
        "scaling.min_containers",
        "scaling.scaledown_window",
        "scaling.scaleup_window",
        "snapshot.prime",
        "snapshot.warmup",
        "llama_cpp.cmake",
        "llama_cpp.cuda",
    },
    "engines/modal/engine.py": {"modal.workspace"},
    "engines/modal/render.py": {"llama_cpp.patches"},
    "llama/build/recipe.py": {"llama_cpp.cuda"},
    # what known issues blame
    "llama/known/traps.py": {
        "llama_cpp.cmake",
        "llama_cpp.cuda",
        "llama_cpp.tag",
        "modal.memory",
        "model.mmproj",
        "model.revision",
        "scaling.max_concurrent",
        "scaling.target_concurrency",
        "server.cache_type_k",
        "server.cache_type_v",
        "server.ctx_checkpoints",
        "server.kv_offload",
        "server.mlock",
        "server.reasoning_budget",
        "server.reasoning_budget_message",
        "server.swa_full",
        "server.ubatch_size",
        "server.ui",
        "snapshot.gpu",
    },
    # files beside the stack that have to be there
    "stack/load.py": {"llama_cpp.repo"},
}
"""Fields that code outside of the core spells out; all others flow by their marks."""


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> Iterator[str]:
    """The dotted name of every module that a file imports, inside of functions too."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            # Only of what is copied elsewhere, under another name.
            assert (node.level, path.parent.name) == (1, "runtime"), path
            yield f"deployer.runtime.{node.module}"
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None
            if node.module == "deployer":
                yield from (f"deployer.{alias.name}" for alias in node.names)
            else:
                yield node.module


def layer_of(name: str) -> str:
    """The first name below `deployer`; what the package itself holds is `__init__`."""
    if name == "deployer.engines.registry":
        return "engine rows"
    layer = name.split(".")[1]
    return layer if layer in MAY_IMPORT else "__init__"


@pytest.mark.parametrize("path", OURS, ids=name_of)
def test_imports_run_one_way(path: Path) -> None:
    layer = name_of(path).split("/")[0].removesuffix(".py")
    known = {layer_of(n) for n in imports(path) if n.startswith("deployer.")}
    assert known - {layer, "engine rows"} <= MAY_IMPORT[layer]


_MAY_NAME_ENGINES = (
    "engines/",
    "stack/fields/model.py",
    "stack/fields/server.py",
    "stack/fields/examples.py",
)


def test_no_engine_is_compared_by_name() -> None:
    """Beside the engines, only marks of fields name one (`Only`)."""
    found = [
        f"{name_of(path)}:{node.lineno}"
        for path in OURS
        if not name_of(path).startswith(_MAY_NAME_ENGINES)
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Constant) and node.value in ENGINES
    ]
    assert found == []


def test_the_rows_of_engines_import_nothing_of_ours() -> None:
    assert not [
        name
        for name in imports(ROOT / "engines" / "registry.py")
        if name.startswith("deployer")
    ]


def test_what_is_copied_beside_rendered_apps_needs_nothing_else() -> None:
    allowed = {*sys.stdlib_module_names, "huggingface_hub"}
    for path in (ROOT / "runtime").glob("*.py"):
        others = {n for n in imports(path) if not n.startswith("deployer.runtime")}
        assert {name.split(".")[0] for name in others} <= allowed


def test_no_module_leads_back_to_itself() -> None:
    """No circle of imports, lazy ones and those for types included."""
    modules = {_dotted(path): path for path in OURS}
    graph = {
        name: {
            known
            for found in named(path)
            if (known := _longest(found, modules)) not in {name, ""}
        }
        for name, path in modules.items()
    }
    TopologicalSorter(graph).prepare()


def _dotted(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def named(path: Path) -> Iterator[str]:
    """The dotted name of everything that a file imports of ours."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ImportFrom):
            package = _dotted(path.parent / "__init__.py") if node.level else ""
            module = ".".join(it for it in (package, node.module) if it)
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def _longest(name: str, modules: Mapping[str, Path]) -> str:
    """The module that a dotted name is of; empty for one that is not ours."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name


def test_the_house_does_not_grow() -> None:
    assert len(OURS) <= MAX_MODULES, "write beside what it is about, or join two"
    folders = Counter(path.parent for path in OURS if path.stem != "__init__")
    assert {it.name: n for it, n in folders.items() if n > MAX_IN_FOLDER} == {}
    names = {
        name_of(it): len({name for name in named(it) if name.startswith("deployer.")})
        for it in OURS
    }
    assert {name: count for name, count in names.items() if count > MAX_NAMES} == {}


def test_gates_and_engines_do_not_know_each_other() -> None:
    assert "engines" not in MAY_IMPORT["gates"]
    assert "gates" not in MAY_IMPORT["engines"]


def test_no_room_below_the_use_cases_knows_them() -> None:
    above = {"usecases", "cli", "entry", "__main__"}
    for layer, others in MAY_IMPORT.items():
        assert layer in above or not others & above


@pytest.mark.parametrize("path", OURS, ids=name_of)
def test_every_library_has_one_home(path: Path) -> None:
    for name in imports(path):
        top = name.split(".")[0]
        if top in HOMES:
            assert name_of(path).startswith(HOMES[top]), f"{name} is not at home here"
        else:
            assert top == "deployer" or top in {*sys.stdlib_module_names, "_typeshed"}


@pytest.mark.parametrize(
    "path", [p for p in OURS if name_of(p).startswith(PURE)], ids=name_of
)
def test_planning_fields_and_texts_are_pure(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports(path)} & NEVER_IN_PURE


@pytest.mark.parametrize("path", [*OURS, *TESTS], ids=lambda p: p.stem)
def test_a_file_can_be_read_in_one_go(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_FILE


@pytest.mark.parametrize("path", OURS, ids=name_of)
def test_a_function_fits_a_screen(path: Path) -> None:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    functions = (node for node in ast.walk(tree_of(path)) if isinstance(node, kinds))
    lengths = {f.name: (f.end_lineno or f.lineno) - f.lineno + 1 for f in functions}
    assert {n: c for n, c in lengths.items() if c > MAX_FUNCTION} == {}


@pytest.mark.parametrize("path", TESTS, ids=lambda p: p.stem)
def test_nothing_is_mocked(path: Path) -> None:
    """Fakes keep a contract; a mock keeps the mistakes of the code it stands in for."""
    assert not {name.split(".")[-1] for name in imports(path)} & {"mock", "pytest_mock"}


def test_fields_flow_by_their_marks() -> None:
    """Outside of the core a field is spelled only where it is named here."""
    every: set[object] = set(_paths(Stack))
    found: dict[str, set[object]] = {}
    for path in OURS:
        nodes = ast.walk(tree_of(path))
        texts: set[object] = {n.value for n in nodes if isinstance(n, ast.Constant)}
        if (spelled := texts & every) and not name_of(path).startswith(SPELL):
            found[name_of(path)] = spelled
    assert found == SPELLED


def _paths(section: type[Section], prefix: str = "") -> Iterator[str]:
    """Every field with a section around it; the others are words of every day."""
    for name, field in fields_of(section).items():
        if field.section is not None:
            yield from _paths(field.section, f"{prefix}{name}.")
        if prefix and (field.section is None or field.file is not None):
            yield f"{prefix}{name}"


PAGE = (REPOSITORY / "ARCHITECTURE.md").read_text(encoding="utf-8")


def test_every_path_of_the_page_exists() -> None:
    named = re.findall(r"`([\w./]+/[\w./]*)(?:::\w+)?`", PAGE)
    assert len(named) > 50
    places = (REPOSITORY, ROOT)
    gone = [it for it in named if not any((place / it).exists() for place in places)]
    assert gone == []


def test_every_invariant_of_the_page_names_its_test() -> None:
    table = PAGE.partition("## Invariants")[2].partition("## ")[0]
    rows = [row for row in table.splitlines() if row.startswith("| ")][1:]
    assert len(rows) > 10
    for row in rows:
        tests = re.findall(r"`(tests/[\w./]+)::(\w+)`", row)
        assert tests, row
        for file, name in tests:
            text = (REPOSITORY / file).read_text(encoding="utf-8")
            assert re.search(rf"^def {name}\(", text, re.MULTILINE), name


def test_every_room_is_on_the_page() -> None:
    rooms = {it.parent.name for it in ROOT.glob("*/__init__.py")} - {"testing"}
    table = PAGE.partition("## Rooms")[2].partition("## ")[0]
    assert set(re.findall(r"^\| `(\w+)/` \|", table, re.MULTILINE)) == rooms


def test_a_field_takes_at_most_eight_stops() -> None:
    path = PAGE.partition("## From")[2].partition("## ")[0]
    assert len(re.findall(r"^\d+\. `[\w/]+\.py`", path, re.MULTILINE)) in range(1, 9)
