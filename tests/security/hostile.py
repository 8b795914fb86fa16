"""Kinds of hostile checkouts, generated: each writes into a world what a stranger may.

A kind takes a world and a source of chance, and returns the commands to run.  Every
world holds the stack `z-good` as well, which has to be planned all the same.
"""

import json
import os
import random
import socket
import struct
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.security.harness import STACK, World

Commands = Sequence[tuple[str, ...]]
Kind = Callable[[World, random.Random], Commands]

DEMO = "stacks/demo.yaml"
READ: Commands = (
    ("validate", DEMO),
    ("plan", DEMO),
    ("plan", DEMO, "--json", "--no-cache"),
    ("plan", "stacks", "--format", "markdown"),
    ("render", DEMO),
    ("render", DEMO, "--json"),
    ("refresh", DEMO),
    ("status", DEMO),
    ("history", DEMO, "--json"),
    ("fit", DEMO),
    ("explain", "model", DEMO),
    ("doctor", DEMO),
    ("state", "list", "stacks"),
    ("state", "show", DEMO),
    ("report", "--json"),
    ("render", DEMO, "--client", "curl"),
    ("logs", DEMO),
    ("upgrade", DEMO),
    ("lock", DEMO),
)
ALL: Commands = (("plan", "stacks"), ("plan", "stacks", "--json"))
DIGITS = "9" * 5000
WRITTEN = (
    *(DIGITS, f"-{DIGITS}", f"b{DIGITS}", f"1e{DIGITS}", "1e400", ".inf", ".nan"),
    *("0x" + "f" * 4000, "b\u0661\u0662", "b\u00b9\u00b2", "b0", "b-1", "b1_000"),
    *(
        '"\\ud800"',
        '"\\0"',
        '"a\\u202eb\\e[2J"',
        '"\\u2028"',
        "'\u202e'",
        "!!python/x y",
    ),
    *("[" * 3000, "{a: " * 900, "&a [*a]", "*nowhere", "<<: *x", "? [a]\n: b"),
    *("2026-01-01", "12:30:45", "0o777", "null", "[]", "{}", "true", "''", "~"),
    *("../../outside/secret.gguf", "/etc/passwd", "~/.ssh/id", "$HOME", "%2e%2e%2f"),
    *("--upload-pack=touch ran", "-oProxyCommand=x", "file:///etc/passwd", "'\t'"),
    *("a" * 300_000, "'" + "é" * 5000 + "'", "!!binary aGk=", "|\n  x\n  y", "\u0000"),
)
FIELDS = (
    *("version", "name", "engine", "llama_cpp", "llama_cpp.tag", "llama_cpp.binary"),
    *("llama_cpp.source", "llama_cpp.repo", "llama_cpp.patches", "llama_cpp.cuda"),
    *(
        "llama_cpp.source_path",
        "llama_cpp.package",
        "model",
        "model.path",
        "model.alias",
    ),
    *("model.repo", "model.file", "model.quant", "model.pypi", "model.url"),
    *("model.mmproj", "model.sha256", "server.ctx_size", "server.chat_template"),
    *("server.flags", "server.cache_type_k", "server.tensor_split", "auth.api_key"),
    *("auth.api_key.env", "local.port", "local.host", "local.drain", "gates.quality"),
    *("gates.custom", "gates.speed", "rollout.keep", "snapshot.warmup", "extends"),
    *("modal.secrets", "gpu", "server.flags.lora", "server.flags.rpc"),
)


def any_field(world: World, chance: random.Random) -> Commands:
    """A stack that writes anything into one to three fields."""
    tree: dict[str, object] = {
        "version": "1",
        "name": "demo",
        "engine": "local",
        "llama_cpp": {"tag": "b11434", "binary": "llama-server"},
        "model": {"path": "tiny.gguf", "alias": "tiny"},
        "local": {"port": "18080"},
    }
    for field in chance.sample(FIELDS, chance.randint(1, 3)):
        node = tree
        *parents, last = field.split(".")
        for name in parents:
            below = node.setdefault(name, {})
            node = below if isinstance(below, dict) else {}
        node[last] = chance.choice(WRITTEN)
    world.write(DEMO, f"{_flow(tree)}\n".encode("utf-8", "surrogatepass"))
    return some(chance)


def _flow(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {_flow(v)}" for k, v in value.items()) + "}"
    return str(value)


def block_field(world: World, chance: random.Random) -> Commands:
    """The same in block style, which reaches other parts of a reader."""
    written = chance.choice(WRITTEN)
    name = chance.choice(("tag", "alias", "port", "path", "api_key", "name", "version"))
    lines = [
        f"{line.partition(':')[0]}: {written}" if f"{name}:" in line else line
        for line in _BLOCK.splitlines()
    ]
    world.write(DEMO, "\n".join(lines).encode("utf-8", "surrogatepass"))
    return some(chance)


_BLOCK = """\
version: 1
name: demo
engine: local
llama_cpp:
  tag: b11434
  binary: llama-server
model:
  path: tiny.gguf
  alias: tiny
auth:
  api_key: {env: LLAMA_API_KEY}
local:
  port: 18080
"""


def any_bytes(world: World, chance: random.Random) -> Commands:
    """A file of ours whose bytes were damaged, cut, or are of another kind."""
    name = chance.choice(
        (DEMO, "deployer.yaml", "stacks/.env", "stacks/demo.lock.json")
    )
    seeds = (STACK.encode(), b"version: 1\nstate: {backend: file, path: s}\n", b"A=b\n")
    content = bytearray(chance.choice(seeds))
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(len(content))
        content[at : at + chance.randint(0, 3)] = chance.randbytes(chance.randint(0, 4))
    odd = (b"", b"\0" * 9, b"\xff\xfe", b"\xef\xbb\xbf" * 3, b"\x1b[2J", bytes(content))
    world.write(name, chance.choice((*odd, bytes(content), bytes(content))))
    return some(chance)


PLACES = (
    *(
        DEMO,
        "stacks/demo.lock.json",
        "stacks/.env",
        "deployer.yaml",
        "stacks/base.yaml",
    ),
    *("stacks/tiny.gguf", "stacks/llama-server", "stacks/t.jinja", "stacks/q.jsonl"),
    *("patches/p/patch.yaml", "patches/p/fix.patch", "stacks/.deployer", ".gitignore"),
    *("stacks/.deployer/state/demo.state.json", "stacks/.deployer/state/demo.lock"),
    *("stacks/.deployer/watch/demo.jsonl", "demo.plan", "server.log", "stacks/pic.png"),
    *("stacks/.deployer/state", "stacks/.deployer/state/history", "stacks", "patches"),
    *(".git/HEAD", ".gitattributes", "stacks/z-other.yaml"),
)


def special_file(world: World, chance: random.Random) -> Commands:
    """Something where a file is expected: FIFO, socket, device, loop, folder."""
    text = STACK.replace("local:", "server: {chat_template: t.jinja}\nlocal:")
    text = text.replace("alias: tiny", "alias: tiny, mmproj: mm.gguf")
    text += "gates: {quality: {file: q.jsonl}}\n"
    text += chance.choice(("", "snapshot: {warmup: [{image: pic.png, prompt: a}]}\n"))
    if chance.random() < 0.3:
        text = f"extends: base.yaml\n{text}"
        world.write("stacks/base.yaml", "server: {ctx_size: 512}\n")
    if chance.random() < 0.2:
        text = text.replace("binary: llama-server", "source: git, patches: [p]")
    world.stack(text)
    world.write("stacks/mm.gguf", b"GGUF\x03\0\0\0" + bytes(100))
    world.write("stacks/t.jinja", "{{ messages }}")
    world.write("stacks/q.jsonl", '{"prompt": "a", "expect": "b"}\n')
    world.write("stacks/pic.png", b"\x89PNG")
    world.write("server.log", "hello\n")
    place = chance.choice(PLACES)
    put(world.checkout / place, chance, world)
    more = (("plan", "demo.plan"), ("doctor", "--logs", "server.log"), ("validate",))
    return (*some(chance), chance.choice(more), chance.choice(ALL))


def put(place: Path, chance: random.Random, world: World) -> None:
    """Put what is no plain file of the project into a place."""
    if place.is_dir() and not place.is_symlink():
        place.rename(place.with_name(f"{place.name}.was"))
    place.parent.mkdir(parents=True, exist_ok=True)
    place.unlink(missing_ok=True)
    match chance.choice(
        ("fifo", "socket", "device", "loop", "folder", "out", "sparse")
    ):
        case "fifo":
            os.mkfifo(place)
        case "socket":
            here = Path.cwd()
            os.chdir(place.parent)  # the path of a socket is short
            with socket.socket(socket.AF_UNIX) as listening:
                listening.bind(place.name)
            os.chdir(here)
        case "device":
            names = ("/dev/zero", "/dev/random", "/dev/full", "/dev/stdin", "/dev/tty")
            place.symlink_to(chance.choice(names))
        case "loop":
            place.symlink_to(place.name)
        case "folder":
            place.mkdir()
        case "out":
            place.symlink_to(world.outside / "secret.yaml")
        case _:
            with place.open("wb") as stream:
                stream.truncate(1 << 28)


VARIABLES = (
    *("DEPLOYER_CRIU", "DEPLOYER_STATE_URL", "DEPLOYER_ALLOW_OUTSIDE", "DEPLOYER_HOME"),
    *("DEPLOYER_DEBUG", "PATH", "LD_PRELOAD", "LD_LIBRARY_PATH", "PYTHONPATH", "HOME"),
    *("PYTHONSTARTUP", "PYTHONHOME", "HF_ENDPOINT", "HF_HOME", "HF_TOKEN", "TMPDIR"),
    *(
        "AWS_ENDPOINT",
        "AWS_ENDPOINT_URL",
        "AWS_PROFILE",
        "AZURE_ENDPOINT",
        "PIP_CONFIG_FILE",
    ),
    *("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "MODAL_SERVER_URL", "MODAL_CONFIG_PATH"),
    *("http_proxy", "https_proxy", "ALL_PROXY", "SSL_CERT_FILE", "GIT_SSH_COMMAND"),
    *(
        "GIT_DIR",
        "GIT_CONFIG_GLOBAL",
        "CC",
        "CXX",
        "CUDACXX",
        "NETRC",
        "BASH_ENV",
        "ENV",
    ),
    *("LLAMA_API_KEY", "OTHER_KEY", "EDITOR", "PAGER", "BROWSER", "TERMINFO", "LC_ALL"),
)


def dotenv(world: World, chance: random.Random) -> Commands:
    """An `.env` that sets anything, written in any way."""
    program = world.trap(f"stacks/{chance.choice(('evil.sh', 'criu', 'git', 'cc'))}")
    values = (
        *(str(program), f"stacks/{program.name}", f"./{program.name}", "stacks:.", "."),
        *(world.listener.url, str(world.outside), "${OF_THE_JOB}", "$(touch ran)"),
        *("${AWS_SECRET_ACCESS_KEY}", "/", "\x00", "\u202e", '"a\\nb"', "x" * 9000),
    )
    lines = [
        f"{chance.choice(('', '', 'export '))}{name}={chance.choice(values)}"
        for name in chance.sample(VARIABLES, chance.randint(1, 12))
    ]
    text = "\n".join(lines) + chance.choice(("\n", "", "\n=\n", "\n'unclosed", "\r\n"))
    for folder in chance.choice((("stacks/",), ("", "stacks/"))):
        world.write(f"{folder}.env", text)
    name = chance.choice(("OTHER_KEY", "MISSING_KEY", "PATH", "LLAMA_API_KEY"))
    snapshot = chance.choice(("", "snapshot: {}\n"))
    world.stack(f"{STACK.replace('LLAMA_API_KEY', name)}{snapshot}")
    return some(chance)


def search_path(world: World, chance: random.Random) -> Commands:
    """Programs and modules in the working directory, and a PATH that leads there."""
    names = ("git", "criu", "cmake", "nvidia-smi", "cc", "unshare", "python3", "bash")
    for name in chance.sample(names, 5):
        world.trap(chance.choice((name, f"stacks/{name}")))
    for name in ("pip.py", "sitecustomize.py", "json.py", "click.py"):
        world.module(chance.choice((name, f"stacks/{name}")))
    entries = (".", "", "stacks", "./stacks", "../checkout", str(world.checkout))
    entry = chance.choice(entries)
    path = os.environ["PATH"]
    world.changes["PATH"] = chance.choice((f"{entry}:{path}", f"{path}:{entry}", entry))
    if chance.random() < 0.3:
        world.changes["LD_LIBRARY_PATH"] = f":{entry}"
    world.stack(f"{STACK}snapshot: {{}}\n")
    more = (("doctor",), ("doctor", "--self"), ("plan", "stacks", "--no-cache"))
    return (*some(chance), chance.choice(more))


LEAVES: tuple[object, ...] = (
    *(10**5000, -(10**30), 10**400, 1.5, True, None, [], {}, "", "x", [["x"]] * 3),
    *("\ud800", "\x00", "a\u202e\x1b[2J", "../../outside", "b\u00b9", {"a": {"b": []}}),
)


def lock_file(world: World, chance: random.Random) -> Commands:
    """A lock file of which any value was replaced; or that is hardly one."""
    commands = (("lock", DEMO), ("plan", DEMO, "--locked"), *some(chance))
    content = json.loads(LOCK)
    for _ in range(chance.randint(1, 3)):
        node: object = content
        while True:
            assert isinstance(node, dict | list)
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = chance.choice(keys)
            below = node[key]
            if (
                not isinstance(below, dict | list)
                or not below
                or chance.random() < 0.15
            ):
                node[key] = chance.choice(LEAVES)
                break
            node = below
    sys.set_int_max_str_digits(0)
    text = json.dumps(content)
    sys.set_int_max_str_digits(4300)
    odd = ("[" * 100_000, '{"a":' * 5000, "", "null", '{"version": NaN}', "\ufeff{}")
    world.write(
        "stacks/demo.lock.json", text if chance.random() < 0.8 else chance.choice(odd)
    )
    return commands[1:]


LOCK = json.dumps(
    {
        "version": 1,
        "stack": "demo",
        "build": {
            "source": "path",
            "identity": {"binary": "0" * 64},
            "where": {"path": "llama-server"},
            "about": {"binary": "llama-server", "files": 1, "size": 70},
        },
        "weights": {
            "source": "path",
            "identity": {"model": ["1" * 64]},
            "where": {"model": ["tiny.gguf"]},
            "about": {
                "model": ["tiny.gguf"],
                "size": 2058272,
                "gguf": {
                    "model": {
                        "architecture": "gemma4",
                        "block_count": 2,
                        "context_length": 32768,
                        "embedding_bytes": 451072,
                        "embedding_length": 256,
                        "feed_forward_length": 84,
                        "heads": 5,
                        "key_length": 64,
                        "key_length_swa": 64,
                        "kv_heads": 5,
                        "layer_bytes": [788992, 788992],
                        "name": "tiny",
                        "parameters": 1012512,
                        "quant": "F16",
                        "size": 2058272,
                        "sliding_window": 2,
                        "template": {
                            "digest": "6fd750bfc73f",
                            "outdated": "an early template",
                            "thinking": True,
                            "tools": True,
                        },
                        "tensor_bytes": 2030208,
                        "tied": True,
                        "value_length": 64,
                        "value_length_swa": 64,
                        "vocabulary": 881,
                        "window_pattern": [1, 0],
                    }
                },
            },
        },
        "inputs": {
            "llama_cpp.binary": "llama-server",
            "llama_cpp.tag": "b11434",
            "model.path": "tiny.gguf",
        },
    }
)


def header(world: World, chance: random.Random) -> Commands:
    """A GGUF file with any header."""
    pairs = [
        (
            b"general.architecture",
            _string(chance.choice((b"llama", b"gemma4", b"\xff"))),
        ),
        (b"general.name", _string("a\u202e\x1b[2J\x00".encode())),
        (b"tokenizer.chat_template", _string(b"{{" * chance.choice((1, 40_000)))),
    ]
    names = (
        "block_count",
        "context_length",
        "embedding_length",
        "attention.head_count",
    )
    for name in (*names, "attention.sliding_window", "vocab_size", "expert_count"):
        number = chance.choice((0, 1, 2**31, 2**63, 2**64 - 1, 32))
        wrong = (_string(b"x"), struct.pack("<If", 6, float("nan")), _nested(chance))
        right = struct.pack("<IQ", 10, number)
        value = right if chance.random() < 0.7 else chance.choice(wrong)
        pairs.append((f"llama.{name}".encode(), value))
    chance.shuffle(pairs)
    body = b"".join(struct.pack("<Q", len(k)) + k + v for k, v in pairs)
    count = chance.choice((len(pairs), len(pairs), 2**63, 0, len(pairs) + 1))
    tensors = chance.choice((0, 0, 1, 2**62))
    magic = chance.choice((b"GGUF\x03\0\0\0", b"GGUF\x03\0\0\0", b"GGUF\0\0\0\x03"))
    content = magic + struct.pack("<QQ", tensors, count) + body + chance.randbytes(64)
    world.stack()
    world.write("stacks/tiny.gguf", content[: chance.choice((None, None, 40, 24))])
    return (
        ("explain", "model", "stacks/tiny.gguf", "--json"),
        ("fit", DEMO),
        *some(chance),
    )


def _string(content: bytes) -> bytes:
    return struct.pack("<IQ", 8, len(content)) + content


def _nested(chance: random.Random) -> bytes:
    """An array of arrays of arrays, which recursion would follow."""
    depth = chance.choice((3, 2000, 50_000))
    return struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * depth


def file_names(world: World, chance: random.Random) -> Commands:
    """Names of files and folders that are words of another language."""
    signs = ("\x1b[2J", "\u202e", "\n", "\r", "\t", "\x9b31m", "\udcff", "'", '"', "`")
    words = (
        "--help",
        "-",
        "$(touch ran)",
        "a b",
        "%2e%2e",
        "::error::",
        "*",
        "é" * 100,
    )
    names = [chance.choice((*signs, *words)) + "x" for _ in range(3)]
    stack = f"stacks/{names[0]}.yaml"
    world.stack()
    for name in (f"{names[0]}.yaml", f"{names[1]}.yml", f"{names[2]}.lock.json"):
        text = chance.choice(
            (STACK, "version: 1\nno such: 1\n", STACK.replace("tiny", "x"))
        )
        place = os.fsencode(world.checkout / "stacks" / name)
        with open(place, "wb") as stream:  # noqa: PTH123 - any bytes
            stream.write(text.encode())
    folder = world.checkout / f"{names[1]}d" / "stacks"
    folder.mkdir(parents=True)
    (folder / "demo.yaml").write_text(STACK)
    every = (("plan", "stacks"), ("plan", "stacks", "--json"), ("validate", "stacks"))
    markdown = ("plan", "stacks", "--format", "markdown", "--annotate")
    inside = ("plan", "--", f"{names[1]}d/stacks/demo.yaml")
    return (chance.choice(every), markdown, ("validate", "--", stack), inside)


def links(world: World, chance: random.Random) -> Commands:
    """Fields, links and percent signs that lead out of the project."""
    ways = (
        *(
            "../../outside",
            "../../../outside",
            str(world.outside),
            "link",
            "link/../link",
        ),
        *(
            "%2e%2e/%2e%2e/outside",
            "..%2foutside",
            "stacks/../../../outside",
            "sub/link",
        ),
    )
    (world.checkout / "stacks/link").symlink_to(world.outside)
    (world.checkout / "stacks/sub").mkdir()
    (world.checkout / "stacks/sub/link").symlink_to("../link")
    way = chance.choice(ways)
    fields = (
        STACK.replace("tiny.gguf", f"{way}/secret.gguf"),
        STACK.replace("binary: llama-server", f"binary: {way}/secret.gguf"),
        STACK.replace("binary: llama-server", f"source: path, source_path: {way}"),
        STACK.replace("binary: llama-server", f'source: git, repo: "file://{way}"'),
        STACK.replace("alias: tiny", f"alias: tiny, mmproj: {way}/secret.gguf"),
        STACK.replace("local:", f"server: {{chat_template: {way}/secret.txt}}\nlocal:"),
        f"{STACK}gates: {{quality: {{file: {way}/secret.txt}}}}\n",
        f"{STACK}snapshot: {{warmup: [{{image: {way}/secret.txt, prompt: a}}]}}\n",
        f"extends: {way}/secret.yaml\n{STACK}",
        f"extends: [base.yaml, {way}/sub/secret.json]\n{STACK}",
        STACK.replace("binary: llama-server", f"source: git, patches: [{way}]"),
    )
    world.write("stacks/base.yaml", f"extends: {way}/secret.yaml\n")
    world.stack(chance.choice(fields))
    return some(chance)


def settings_of_git(world: World, chance: random.Random) -> Commands:
    """A `.git` whose settings start programs or look elsewhere."""
    trap = world.trap("stacks/evil.sh")
    world.stack()
    lines = (
        *(f"[core]\n fsmonitor = {trap}", f"[core]\n worktree = {world.outside}"),
        *(f"[core]\n hooksPath = {trap.parent}", f"[core]\n sshCommand = {trap}"),
        *(
            f"[include]\n path = {world.outside}/secret.txt",
            "[include]\n path = config",
        ),
        *(f'[filter "a=b"]\n clean = {trap}\n required', f"[diff]\n external = {trap}"),
        *(f'[diff "x"]\n textconv = {trap}', f"[alias]\n rev-parse = !{trap}"),
        *(
            f"[core]\n excludesFile = {world.outside}/secret.txt",
            "[core]\n bare = true",
        ),
        *(
            "[extensions]\n worktreeConfig = true",
            "[core",
            "\0",
            f"[core]\n pager={trap}",
        ),
        *(f'[remote "o"]\n url = ext::{trap}\n promisor = true',),
    )
    text = "\n".join(chance.sample(lines, 3))
    git = world.checkout / ".git"
    for name in ("objects", "refs/heads", "info"):
        (git / name).mkdir(parents=True)
    world.write(".git/HEAD", chance.choice(("ref: refs/heads/main\n", "x", "")))
    world.write(".git/config", f"{text}\n")
    world.write(".gitattributes", "* filter=a=b diff=x\n")
    if chance.random() < 0.2:
        git.rename(world.checkout / "git")
        world.write(
            ".git", f"gitdir: {chance.choice((world.outside, 'git', '/dev/zero'))}"
        )
    since = (
        "plan",
        "stacks",
        "--changed-since",
        chance.choice(("HEAD", "--help", "x")),
    )
    return (since, ("plan", DEMO), ("doctor", DEMO))


def project_file(world: World, chance: random.Random) -> Commands:
    """A `deployer.yaml` that says anything."""
    written = chance.choice(WRITTEN)
    text = (
        f"version: {written}\n",
        f"version: 1\nstate: {written}\n",
        f"version: 1\nstate: {{backend: {written}}}\n",
        f"version: 1\nstate: {{backend: file, path: {written}}}\n",
        f"version: 1\nstate: {{backend: file, path: {world.outside}}}\n",
        "version: 1\nstate: {backend: file, path: ../outside}\n",
        f"version: 1\nallow_outside: [{world.outside}]\n",
    )
    world.write("deployer.yaml", chance.choice(text).encode("utf-8", "surrogatepass"))
    world.stack()
    return some(chance)


def log(world: World, chance: random.Random) -> Commands:
    """A log that a server, or anybody, may have written."""
    pieces = (
        *(
            "\x1b]0;owned\x07",
            "\u202e",
            "error: " * 9000,
            "CUDA error: out of memory\n",
        ),
        *("srv llama_server: security: ", "\0" * 99, "\n" * 20_000, "a" * 1_000_000),
        *("terminate called after throwing ", "99999999999999999999 bytes ", "```\n"),
    )
    text = "".join(chance.choice(pieces) for _ in range(chance.randint(1, 12)))
    world.write("server.log", text)
    return (
        ("doctor", "--logs", "server.log"),
        ("doctor", "--logs", "server.log", "--json"),
    )


KINDS: Sequence[Kind] = (
    *(any_field, any_field, any_field, block_field, any_bytes, special_file),
    *(special_file, special_file, dotenv, dotenv, search_path, lock_file, lock_file),
    *(header, header, file_names, links, settings_of_git, project_file, log),
)
"""Those with more ways to be hostile more often."""


def some(chance: random.Random) -> Commands:
    """Two commands on the hostile stack, and one on all stacks."""
    return (*chance.sample(READ, 2), chance.choice(ALL))
