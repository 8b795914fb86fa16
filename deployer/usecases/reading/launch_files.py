"""Files of other programs that start llama-server, read as they are.

Each reader turns one form into launches: the words of a command line with the place
of each, the environment, and what of a container leads to this machine.  Forms:
compose-spec (github.com/compose-spec), Kubernetes' workloads, llama-swap's
``config.yaml``, the presets of llama.cpp (``docs/preset.md``), systemd.service(5),
Ollama's Modelfile and its store, the listing ``/models`` of llama.cpp's router.
"""

import json
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import yaml

from deployer.diagnostics import Diagnostic, Place
from deployer.errors import StackError, UsageError
from deployer.llama.adopted import Left, Word
from deployer.llama.catalogue import Takes, seen
from deployer.spelling import shown
from deployer.stack.yaml12 import (
    DEEPEST,
    LOADER,
    MOST_NODES,
    UnreadableError,
    explained,
    text_of,
)
from deployer.usecases.reading.launches import (
    GPU,
    IMAGE,
    SET,
    Launch,
    Lookup,
    expanded,
    mount,
    of_words,
    publish,
    shell,
    split,
)


def launches_of(path: Path, environment: Mapping[str, str]) -> tuple[Launch, ...]:
    """Read every launch of a file; raises UsageError where it has none.

    Raises StackError with the place of what cannot be read.
    """
    try:
        text = text_of(path, file=str(path), asked=Place(str(path)))
    except UnreadableError as error:
        raise StackError([error.problem]) from error
    found = tuple(_reader_of(path, text)(path, text, environment))
    if not found:
        raise UsageError(
            f"`{path}` starts no llama-server, as far as it was understood",
            hint="adopt reads command lines, compose files, Kubernetes manifests,"
            " llama-swap configurations, presets, systemd units and Modelfiles",
        )
    return found


_Reader: TypeAlias = Callable[[Path, str, Mapping[str, str]], Iterator[Launch]]


def _reader_of(path: Path, text: str) -> _Reader:
    """The reader of a form, by the content first."""
    if re.search(r"(?m)^\s*ExecStart\s*=", text):
        return _systemd
    if text.lstrip().startswith("{"):
        return _router
    if re.search(r"(?m)^services\s*:", text):
        return _compose
    if re.search(r"(?m)^kind\s*:", text) and "apiVersion" in text:
        return _kubernetes
    if re.search(r"(?m)^models\s*:", text):
        return _llama_swap
    if re.search(r"(?im)^FROM\s+\S", text) and not re.search(r"(?m)^RUN\s", text):
        return _ollama
    if path.suffix == ".ini" or re.search(r"(?m)^\[[^\]]+\]\s*$", text):
        return _presets
    return shell


@dataclass(frozen=True, slots=True)
class _Y:
    """A value of a YAML file of another program, with its line."""

    value: "dict[str, _Y] | list[_Y] | str | None"
    line: int
    is_block: bool = False

    def __getitem__(self, name: str) -> "_Y":
        return self.table.get(name, _Y(None, self.line))

    @property
    def table(self) -> "dict[str, _Y]":
        return self.value if isinstance(self.value, dict) else {}

    @property
    def items(self) -> "list[_Y]":
        return self.value if isinstance(self.value, list) else []

    @property
    def text(self) -> str:
        return self.value if isinstance(self.value, str) else ""


class _Trees:
    """Values of a YAML file, with anchors and merge keys resolved."""

    def __init__(self, file: str, text: str) -> None:
        self._file = file
        self._text = text
        self._count = 0

    def of(self, node: yaml.Node, depth: int = 0) -> _Y:
        self._count += 1
        line = node.start_mark.line + 1
        if self._count > MOST_NODES or depth > DEEPEST:
            what = "too deep, or too many values once its aliases are written out"
            place = Place(self._file, line, node.start_mark.column + 1)
            raise StackError([Diagnostic("", what, place=place)])
        match node:
            case yaml.MappingNode():
                return _Y(self._table(node, depth), line)
            case yaml.SequenceNode():
                return _Y([self.of(it, depth + 1) for it in node.value], line)
            case _:
                style = getattr(node, "style", None)
                value = None if node.tag.endswith(":null") else str(node.value)
                if style == ">":  # its own lines, so that each word has its own
                    raw = self._text[node.start_mark.index : node.end_mark.index]
                    value = raw.partition("\n")[2]
                return _Y(value, line, style in ("|", ">"))

    def _table(self, node: yaml.MappingNode, depth: int) -> dict[str, _Y]:
        made: dict[str, _Y] = {}
        for key, value in node.value:
            inner = self.of(value, depth + 1)
            if key.tag != "tag:yaml.org,2002:merge":
                made[str(key.value)] = inner
                continue
            for base in inner.items or [inner]:
                made = {**base.table, **made}
        return made


def _documents(path: Path, text: str) -> list[_Y]:
    """Every document of a file; raises StackError."""
    try:
        trees = _Trees(str(path), text)
        nodes = yaml.compose_all(text, Loader=LOADER)
        return [trees.of(node) for node in nodes if node is not None]
    except yaml.MarkedYAMLError as error:
        mark, what, hint = explained(error, text)
        place = Place(str(path), (mark.line if mark else 0) + 1)
        if "{{" in text:
            hint = "adopt what a template renders: `helm template … > x.yaml`"
        raise StackError([Diagnostic("", what, hint, place=place)]) from error


def _words_in(value: _Y, file: str, lookup: Lookup) -> list[Word]:
    """A command as a list, or as the text of a command line."""
    if value.items:
        return [
            Word(expanded(it.text, lookup), f"{file}:{it.line}") for it in value.items
        ]
    begun = value.line + value.is_block
    found = split(expanded(value.text, lookup), file, begun)
    return (
        found
        if value.is_block
        else [Word(w.text, f"{file}:{value.line}") for w in found]
    )


def _compose(path: Path, text: str, environment: Mapping[str, str]) -> Iterator[Launch]:
    """The services of a compose file that are a llama-server."""
    dotenv = _env_file(path.with_name(".env"))
    known = {**{k: w.text for k, w in dotenv.items()}, **environment}
    for document in _documents(path, text):
        services = document["services"].table
        for name, service in services.items():
            base = service["extends"]["service"].text or service["extends"].text
            if base in services:
                merged = {**services[base].table, **service.table}
                service = _Y(merged, service.line)  # noqa: PLW2901 - what it means
            if (made := _service(path, name, service, known.get)) is not None:
                yield made


def _service(path: Path, name: str, service: _Y, lookup: Lookup) -> Launch | None:
    file = str(path)
    words = [
        *_words_in(service["entrypoint"], file, lookup),
        *_words_in(service["command"], file, lookup),
    ]
    image = expanded(service["image"].text, lookup)
    variables = _environment(path, service, lookup)
    inside = of_words(words, path.parent, {}, name)
    if inside is None and not _is_server(image, words):
        return None
    made = inside or Launch(name, folder=path.parent, words=words)
    made.image, made.program = image or "build", ""
    made.variables = {**variables, **made.variables}
    for volume in service["volumes"].items:
        if volume.table:
            source = expanded(volume["source"].text, lookup)
            mount(made, f"{source}:{expanded(volume['target'].text, lookup)}")
        else:
            mount(made, expanded(volume.text, lookup))
    for port in service["ports"].items:
        if port.table:
            published = port["published"].text or port["target"].text
            publish(made, expanded(f"{published}:{port['target'].text}", lookup))
        else:
            publish(made, expanded(port.text, lookup))
    if profiles := [it.text for it in service["profiles"].items]:
        made.notes.append(f"compose starts it with profile {', '.join(profiles)} only")
    _containers(made, service, file)
    return made


_UNDERSTOOD: Final = frozenset(
    {
        *("image", "command", "entrypoint", "environment", "env_file", "volumes"),
        *("ports", "profiles", "extends", "container_name", "build"),
    }
)


def _containers(made: Launch, service: _Y, file: str) -> None:
    """Name the settings that a container has around llama-server."""
    for key, value in service.table.items():
        if key in _UNDERSTOOD or key.startswith("x-"):
            continue
        if key in ("deploy", "gpus", "devices", "runtime"):
            if GPU not in made.notes:
                made.notes.append(GPU)
            continue
        why = {
            "healthcheck": "gates and `deployer watch` ask the server",
            "restart": "`deployer run` and systemd start it again",
        }.get(key, "a setting of the container: deployer starts no container here")
        made.left.append(Left(key, why, f"{file}:{value.line}"))


def _is_server(image: str, words: Sequence[Word]) -> bool:
    options = not words or words[0].text.startswith("-")
    return bool(IMAGE.search(image)) and "swap" not in image and options


def _environment(path: Path, service: _Y, lookup: Lookup) -> dict[str, Word]:
    found: dict[str, Word] = {}
    files = service["env_file"]
    for it in files.items or ([files] if files.value is not None else []):
        named = it["path"].text or it.text
        found |= _env_file(path.parent / expanded(named, lookup))
    stated = service["environment"]
    rows = [*stated.table.items()]
    for it in stated.items:
        name, equals, value = it.text.partition("=")
        rows.append((name, _Y(value if equals else None, it.line)))
    for name, row in rows:
        given = expanded(row.text, lookup) if row.value is not None else lookup(name)
        found[name] = Word(given or "", f"{path}:{row.line}")
    return found


def _env_file(path: Path) -> dict[str, Word]:
    found: dict[str, Word] = {}
    with suppress(OSError, UnreadableError):
        text = text_of(path, file=str(path), asked=Place(str(path)))
        for number, row in enumerate(text.splitlines(), start=1):
            if match := SET.fullmatch(row.strip().removeprefix("export ")):
                value = match[2].strip().strip("'\"")
                found[match[1]] = Word(value, f"{path}:{number}")
    return found


def _kubernetes(
    path: Path, text: str, environment: Mapping[str, str]
) -> Iterator[Launch]:
    """The containers of workloads that are a llama-server."""
    del environment
    documents = _documents(path, text)
    for document in [
        inner for it in documents for inner in (it["items"].items or [it])
    ]:
        spec = document["spec"]
        for step in ("jobTemplate", "spec"):
            spec = spec[step] if spec[step].table else spec
        pod = spec["template"]["spec"] if spec["template"].table else spec
        name = document["metadata"]["name"].text
        containers = pod["containers"].items
        for container in containers:
            made = _container(path, name or "server", container, pod)
            if made is None:
                continue
            if len(containers) > 1:
                made.name = f"{name}-{container['name'].text}"
            replicas = spec["replicas"]
            if replicas.text not in ("", "1"):
                why = "a stack on this machine is one server; see `scaling` on Modal"
                left = Left("replicas", why, f"{path}:{replicas.line}")
                made.left.append(left)
            yield made


def _container(path: Path, name: str, container: _Y, pod: _Y) -> Launch | None:
    file = str(path)
    stated = {it["name"].text: it for it in container["env"].items}
    variables: dict[str, Word] = {}
    for variable, it in stated.items():
        secret = bool(it["valueFrom"].table)
        text = "" if secret else it["value"].text
        variables[variable] = Word(text, f"{file}:{it.line}")
    known = {n: w.text for n, w in variables.items() if w.text}

    def inner(match: re.Match[str]) -> str:
        return known.get(match[1], f"${{{match[1]}}}")

    words = [
        Word(re.sub(r"\$\((\w+)\)", inner, it.text), f"{file}:{it.line}")
        for it in (*container["command"].items, *container["args"].items)
    ]
    image = container["image"].text
    inside = of_words(words, path.parent, {}, name)
    if inside is None and not _is_server(image, words):
        return None
    made = inside or Launch(name, folder=path.parent, words=words)
    made.image, made.program = image, ""
    made.variables = {**variables, **made.variables}
    volumes = {it["name"].text: it for it in pod["volumes"].items}
    for it in container["volumeMounts"].items:
        volume = volumes.get(it["name"].text, _Y(None, it.line))
        made.mounts[it["mountPath"].text] = volume["hostPath"]["path"].text
    gpu = container["resources"]["limits"].table
    if any("gpu" in key for key in gpu):
        made.notes.append(GPU)
    for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
        if container[probe].table:
            why = "gates and `deployer watch` ask the server"
            made.left.append(Left(probe, why, f"{file}:{container[probe].line}"))
    return made


_OF_SWAP: Final[Mapping[str, str]] = {
    "checkEndpoint": "deployer asks /health",
    "cmdStop": "deployer ends the server itself, once its answers are done",
    "concurrencyLimit": "`server.parallel` says how many requests are answered at once",
    "description": "a stack says it in a comment",
    "filters": "a client states what it asks for; `server` has the defaults",
    "metadata": "a stack says it in a comment",
    "name": "`model.alias` is the name in answers",
    "proxy": "clients reach the server itself, at `local.port`",
    "unlisted": "a stack has no list of models",
    "useModelName": "`model.alias` is the name in answers",
}


def _llama_swap(
    path: Path, text: str, environment: Mapping[str, str]
) -> Iterator[Launch]:
    """A launch for each model; the port is the one that llama-swap would count up."""
    for document in _documents(path, text):
        port = int(document["startPort"].text or 5800)
        for name, model in document["models"].table.items():
            macros = {k: v.text for k, v in document["macros"].table.items()}
            macros |= {k: v.text for k, v in model["macros"].table.items()}
            macros |= {"MODEL_ID": name, "PORT": str(port)}
            port += 1
            made = _swapped(path, name, model, macros, environment)
            if made is not None:
                yield made


def _swapped(
    path: Path,
    name: str,
    model: _Y,
    macros: Mapping[str, str],
    environment: Mapping[str, str],
) -> Launch | None:
    def replaced(text: str) -> str:
        for _ in range(len(macros) + 1):  # a macro may contain others
            new = re.sub(r"\$\{([\w-]+)\}", lambda m: macros.get(m[1], m[0]), text)
            if new == text:
                break
            text = new
        env = r"\$\{env\.(\w+)\}"
        return re.sub(env, lambda m: environment.get(m[1], m[0]), text)

    command = model["cmd"]
    begun = command.line + command.is_block
    # The macros are put in line by line, so that each word keeps its line.
    words = [
        word
        for number, row in enumerate(_rows(command.text), start=begun)
        for word in split(replaced(row), str(path), number)
    ]
    variables: dict[str, Word] = {}
    for it in model["env"].items:
        variable, _, value = it.text.partition("=")
        variables[variable] = Word(replaced(value), f"{path}:{it.line}")
    made = of_words(words, path.parent, variables, name)
    if made is not None:
        made.name = made.name or name
        _of_model(made, path, name, model)
    return made


def _of_model(made: Launch, path: Path, name: str, model: _Y) -> None:
    """Add the facts that llama-swap has of a model beside its command."""
    if model["ttl"].text not in ("", "0", "-1"):
        made.idle = Word(f"{model['ttl'].text}s", f"{path}:{model['ttl'].line}")
    if aliases := [it.text for it in model["aliases"].items]:
        origin = f"{path}:{model['aliases'].line}"
        if not any(word.text in ("-a", "--alias") for word in made.words):
            names = ",".join((name, *aliases))
            made.words += [Word("--alias", origin), Word(names, origin)]
    for key, why in _OF_SWAP.items():
        if key in model.table:
            made.left.append(Left(key, why, f"{path}:{model[key].line}"))


def _rows(text: str) -> list[str]:
    """Lines that are whole by themselves: what a quote spans is one."""
    rows: list[str] = []
    pending = ""
    for row in text.splitlines():
        whole = f"{pending}{row}"
        try:
            shlex.split(whole.removesuffix("\\"))
        except ValueError:
            pending = f"{whole}\n"
            continue
        rows.append(whole)
        rows += [""] * pending.count("\n")
        pending = ""
    return [*rows, pending] if pending else rows


_ROUTERS: Final = frozenset({"load-on-startup", "stop-timeout", "version"})


def _presets(path: Path, text: str, environment: Mapping[str, str]) -> Iterator[Launch]:
    """A launch for each section; `[*]` is below all of them."""
    del environment
    sections: dict[str, list[tuple[str, str, int]]] = {}
    section = "*"
    for number, row in enumerate(text.splitlines(), start=1):
        line = row.strip()
        if not line or line[0] in ";#":
            continue
        if line[0] == "[" and line[-1] == "]":
            section = line[1:-1].strip()
            sections.setdefault(section, [])
            continue
        key, equals, value = line.partition("=")
        if not equals:
            place = Place(str(path), number)
            hint = "write `key = value`; a comment begins with `;`"
            what = "expected `key = value`"
            raise StackError([Diagnostic("", what, hint, place=place)])
        row_ = (key.strip(), value.strip().strip("'\""), number)
        sections.setdefault(section, []).append(row_)
    base = sections.pop("*", [])
    for name, rows in sections.items():
        own = {key for key, _, _ in rows}
        yield _preset(path, name, [*(it for it in base if it[0] not in own), *rows])


def _preset(path: Path, name: str, rows: list[tuple[str, str, int]]) -> Launch:
    made = Launch(_last(name), folder=path.parent)
    for key, value, number in rows:
        origin = f"{path}:{number}"
        if key in _ROUTERS:
            if key != "version":
                why = "a setting of the router: a stack is one server"
                made.left.append(Left(key, why, origin))
        elif key.startswith("LLAMA_"):
            made.variables[key] = Word(value, origin)
        else:
            _key_and_value(made, key, value, origin)
    given = {word.text for word in made.words}
    if not given & {"--model", "-m", "--hf-repo", "-hf", "--model-url", "-mu"}:
        if re.fullmatch(r"[\w.-]+/[\w.-]+(:[\w.-]+)?", name):
            made.words += [Word("--hf-repo", f"{path}"), Word(name, f"{path}")]
        else:
            made.notes.append(
                f"the model of `[{shown(name)}]` is found by the router in its"
                " `--models-dir`: write `model.path`"
            )
    return made


def _last(name: str) -> str:
    return name.rpartition("/")[2].replace(":", "-")


def _key_and_value(made: Launch, key: str, value: str, origin: str) -> None:
    """The words of `key = value`, where a switch has `true` or `false`."""
    name = f"--{key}" if seen(f"--{key}") or not seen(f"-{key}") else f"-{key}"
    found = seen(name)
    if not found or found[-1].takes is not Takes.NOTHING:
        made.words += [Word(name, origin), Word(value, origin)]
    elif value.lower() in ("true", "on", "1", "enabled", ""):
        made.words.append(Word(name, origin))
    elif found[-1].off:
        other = found[-1].off if name in found[-1].names else found[-1].names
        made.words.append(Word(other[0], origin))
    else:
        made.notes.append(f"`{key}` is off, which leaving it out means")


def _systemd(path: Path, text: str, environment: Mapping[str, str]) -> Iterator[Launch]:
    """The service of a unit, with its drop-ins laid over it."""
    del environment
    files = [path, *sorted(path.with_name(f"{path.name}.d").glob("*.conf"))]
    variables: dict[str, Word] = {}
    commands: list[Word] = []
    folder, stays, missing = Path("/"), dict[str, None](), list[Left]()
    for file in files:
        content = text if file == path else _plain_text(file)
        for key, value, number in _unit_rows(content):
            said = _specified(value, path)
            origin = f"{file}:{number}"
            match key:
                case "ExecStart":
                    commands = [*commands, Word(said, origin)] if said else []
                case "Environment":
                    for word in split(said, str(file), number):
                        name, _, given = word.text.partition("=")
                        variables[name] = Word(given, origin)
                case "EnvironmentFile":
                    found = _env_file(Path(said.removeprefix("-")))
                    variables |= found
                    if not found:
                        why = "it cannot be read here, or sets nothing"
                        missing.append(Left(f"EnvironmentFile={said}", why, origin))
                case "WorkingDirectory":
                    folder = Path(said.removeprefix("-"))
                case _:
                    stays[key] = None
    for made in _executed(path, commands, variables, folder):
        made.left += missing
        if stays:
            names = ", ".join(f"`{name}`" for name in stays)
            made.notes.append(f"{names}: a unit of deployer's has to say it")
        yield made


def _executed(
    path: Path, commands: list[Word], variables: Mapping[str, Word], folder: Path
) -> Iterator[Launch]:
    """The commands of a unit that start a llama-server."""
    known = {name: word.text for name, word in variables.items()}
    for command in commands:
        at, _, line = command.origin.rpartition(":")
        words = split(command.text.lstrip("@-:+!|"), at, int(line))
        here = [Word(expanded(w.text, known.get), command.origin) for w in words]
        name = path.stem.replace("@", "-").strip("-")
        if (made := of_words(here, folder, variables, name)) is not None:
            yield made


def _unit_rows(text: str) -> Iterator[tuple[str, str, int]]:
    """The keys of `[Service]`, with continued lines as one."""
    section, pending, begun = "", "", 0
    for number, row in enumerate(text.splitlines(), start=1):
        line = row.strip()
        if not line or line[0] in "#;":
            continue
        if line[0] == "[" and not pending:
            section = line.strip("[]")
            continue
        begun = begun or number
        pending += line.removesuffix("\\") + " " * line.endswith("\\")
        if line.endswith("\\"):
            continue
        key, _, value = pending.partition("=")
        if section == "Service":
            yield key.strip(), value.strip(), begun
        pending, begun = "", 0


def _specified(value: str, path: Path) -> str:
    """A value with its specifiers (systemd.unit(5)); an unknown one stays."""
    instance = path.stem.partition("@")[2]
    known = {"%h": str(Path.home()), "%n": path.name, "%%": "%"}
    if instance:
        known |= {"%i": instance, "%I": instance}
    return re.sub(r"%.", lambda m: known.get(m[0], f"${{{m[0][1]}}}"), value)


def _plain_text(path: Path) -> str:
    try:
        return text_of(path, file=str(path), asked=Place(str(path)))
    except UnreadableError as error:
        raise StackError([error.problem]) from error


_OLLAMA: Final[Mapping[str, str]] = {
    "num_ctx": "--ctx-size",
    "num_predict": "--predict",
    "num_gpu": "--n-gpu-layers",
    "num_thread": "--threads",
    "num_batch": "--batch-size",
    "num_keep": "--keep",
    "main_gpu": "--main-gpu",
    "mirostat_eta": "--mirostat-lr",
    "mirostat_tau": "--mirostat-ent",
    **{
        name: f"--{name.replace('_', '-')}"
        for name in (
            *("top_k", "top_p", "min_p", "seed", "mirostat", "repeat_penalty"),
            *("repeat_last_n", "presence_penalty", "frequency_penalty", "typical_p"),
        )
    },
    "temperature": "--temp",
}
"""Options by parameter of Ollama (docs/modelfile.md, api/types.go)."""
_INSTRUCTION: Final = re.compile(
    r"(?im)^(FROM|PARAMETER|TEMPLATE|SYSTEM|ADAPTER|LICENSE|MESSAGE)[ \t]+"
    r'("""(?:.|\n)*?"""|.*)$'
)
_PER_REQUEST: Final = (
    "a client says it in each request: llama-server has no such option"
)


def _ollama(path: Path, text: str, environment: Mapping[str, str]) -> Iterator[Launch]:
    """The model of a Modelfile, with the blobs of Ollama's store."""
    made = Launch(path.stem.lower().replace("modelfile", "") or path.parent.name)
    made.folder = path.parent
    for found in _INSTRUCTION.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        origin, value = f"{path}:{line}", found[2].strip().strip('"').strip()
        match found[1].upper():
            case "FROM":
                _from(made, value, origin, environment)
            case "ADAPTER":
                made.words += [Word("--lora", origin), Word(value, origin)]
            case "PARAMETER":
                name, _, given = value.partition(" ")
                _parameter(made, name, given.strip().strip('"'), origin)
            case "TEMPLATE":
                why = "a template of Go: llama-server takes the Jinja one of the model"
                made.left.append(Left("TEMPLATE", why, origin))
            case "LICENSE":
                pass
            case other:
                made.left.append(Left(other, _PER_REQUEST, origin))
    if made.words:
        yield made


def _parameter(made: Launch, name: str, value: str, origin: str) -> None:
    if option := _OLLAMA.get(name):
        made.words += [Word(option, origin), Word(value, origin)]
    elif name in ("use_mmap", "use_mlock"):
        key = "mmap" if name == "use_mmap" else "mlock"
        _key_and_value(made, key, value, origin)
    else:
        made.left.append(Left(f"PARAMETER {name}", _PER_REQUEST, origin))


_ROLE: Final[Mapping[str, str]] = {
    "application/vnd.ollama.image.model": "--model",
    "application/vnd.ollama.image.projector": "--mmproj",
    "application/vnd.ollama.image.adapter": "--lora",
}


def _from(
    made: Launch, named: str, origin: str, environment: Mapping[str, str]
) -> None:
    """A file, a blob, a repository of the hub, or a model of Ollama's store."""
    if named.startswith((".", "/", "~")) or named.endswith(".gguf"):
        made.words += [
            Word("--model", origin),
            Word(str(Path(named).expanduser()), origin),
        ]
        return
    hub = re.fullmatch(
        r"(?:hf\.co|huggingface\.co)/([\w.-]+/[\w.-]+(?::[\w.-]+)?)", named
    )
    if hub:
        made.words += [Word("--hf-repo", origin), Word(hub[1], origin)]
        return
    home = environment.get("HOME") or str(Path.home())
    store = Path(environment.get("OLLAMA_MODELS") or f"{home}/.ollama/models")
    name, _, tag = named.partition(":")
    owner = name if "/" in name else f"library/{name}"
    manifest = store / "manifests" / "registry.ollama.ai" / owner / (tag or "latest")
    layers = _layers(manifest)
    for layer in layers:
        kind, digest = str(layer.get("mediaType")), str(layer.get("digest"))
        blob = store / "blobs" / digest.replace(":", "-")
        if option := _ROLE.get(kind):
            made.words += [Word(option, origin), Word(str(blob), origin)]
        elif kind.endswith(".params"):
            _stored_parameters(made, blob)
    if not layers:
        why = f"Ollama's store has no `{manifest}`: write `model.repo` or `model.path`"
        made.left.append(Left(f"FROM {shown(named)}", why, origin))
        made.name = made.name or _last(named)
        made.words = made.words or [Word("--no-mmproj", origin)]


def _layers(manifest: Path) -> list[dict[str, object]]:
    with suppress(OSError, ValueError):
        found = json.loads(manifest.read_bytes())
        layers = found.get("layers") if isinstance(found, dict) else None
        if isinstance(layers, list):
            return [it for it in layers if isinstance(it, dict)]
    return []


def _stored_parameters(made: Launch, blob: Path) -> None:
    with suppress(OSError, ValueError):
        found = json.loads(blob.read_bytes())
        for name, value in found.items() if isinstance(found, dict) else ():
            text = str(value).lower() if isinstance(value, bool) else str(value)
            _parameter(made, str(name), text, str(blob))


def _router(path: Path, text: str, environment: Mapping[str, str]) -> Iterator[Launch]:
    """The models of a router, as its `/models` lists them with their arguments."""
    del environment
    try:
        listed = json.loads(text)
    except ValueError as error:
        what = f"this is not JSON: {error}"
        raise StackError([Diagnostic("", what, place=Place(str(path)))]) from error
    models = listed.get("data") if isinstance(listed, dict) else None
    for model in models if isinstance(models, list) else ():
        match model:
            case {"id": str(name), "status": {"args": [*args]}}:
                origin = f"{path} ({shown(name)})"
                words = [Word(str(it), origin) for it in args]
                if words and not words[0].text.startswith("-"):
                    words = words[1:]
                yield Launch(_last(name), words=words, folder=path.parent)
            case _:
                continue
