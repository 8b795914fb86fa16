"""What may happen to a project between two plans, by name."""

import os
import re
import shutil
from collections.abc import Callable, Mapping

from tests.prepared.world import BASE, COMMON, DEMO, DESCRIPTION, PATCH, World

Edit = Callable[[World], None]


def _stack(made: World) -> None:
    context = made.random.choice((1024, 2048, 4096))
    comment = made.random.choice(("", "# one\n", "\n\n"))
    wrong = made.random.choice(("", "", "", "wrong: 1\n"))
    text = DEMO.replace("metrics: true", f"metrics: true, ctx_size: {context}")
    made.write("stacks/demo.yaml", f"{comment}{text}{wrong}")


def _base(made: World) -> None:
    alias = made.random.choice(("tiny", "small", "other"))
    made.write("stacks/base.yaml", BASE.replace("alias: tiny", f"alias: {alias}"))


def _base_of_base(made: World) -> None:
    number = made.random.randint(1, 4)
    text = COMMON.replace("parallel: 2", f"parallel: {number}")
    made.write("stacks/common.yaml", text)


def _base_is_a_link(made: World) -> None:
    """The base moves, and a link stands in its place; or comes back."""
    base, other = made.stacks / "common.yaml", made.folder / "project" / "moved.yaml"
    if base.is_symlink():
        base.unlink()
        base.write_text(COMMON)
        return
    shutil.copy(base, other)
    base.unlink()
    inside = made.random.random() < 0.5
    target = other if inside else made.folder / "outside.yaml"
    target.write_text(COMMON)
    base.symlink_to(target)


def _overlay(made: World) -> None:
    """The stack is laid over another base."""
    other = made.random.choice(("base.yaml", "[base.yaml, over.yaml]"))
    made.write("stacks/over.yaml", f"server: {{batch_size: {_size(made)}}}\n")
    made.write("stacks/demo.yaml", DEMO.replace("base.yaml", other))


def _size(made: World) -> int:
    return made.random.choice((256, 512))


def _lock(made: World) -> None:
    """Gone, damaged, or told otherwise."""
    file = made.stacks / "demo.lock.json"
    text = file.read_text(encoding="utf-8") if file.exists() else "{}"
    match made.random.choice(("gone", "damaged", "other", "other")):
        case "gone":
            file.unlink(missing_ok=True)
        case "damaged":
            file.write_text(text[:100], encoding="utf-8")
        case _:
            size = f'"size": {made.random.randint(1, 9)}'
            text = re.sub(r'"size": [0-9]+', size, text)
            file.write_text(text, encoding="utf-8")


def _template(made: World) -> None:
    file = made.stacks / "mine.jinja"
    if made.random.random() < 0.2:
        file.unlink(missing_ok=True)
    else:
        file.write_text(f"{{{{ messages }}}}{made.random.randint(0, 2)}")


def _gate_file(made: World) -> None:
    """A word of a command becomes the name of a file, changes, or is none again."""
    file = made.stacks / "check.sh"
    if made.random.random() < 0.4:
        file.unlink(missing_ok=True)
    else:
        file.write_text(f"exit 0 # {made.random.randint(0, 2)}")


def _weights(made: World) -> None:
    file = made.folder / "project" / "tiny.gguf"
    if made.random.random() < 0.3:
        os.utime(file, ns=(1, made.random.randint(1, 10**18)))
    else:
        size = made.random.choice((100, 101))
        ending = bytes([made.random.randint(0, 2)])
        file.write_bytes(b"GGUF\x03\0\0\0" + bytes(size) + ending)


def _binary(made: World) -> None:
    file = made.folder / "project" / "server" / "llama-server"
    file.write_text(f"#!/bin/sh\n# {made.random.randint(0, 3)}\n")


def _library(made: World) -> None:
    file = made.folder / "project" / "server" / "libllama.so"
    if made.random.random() < 0.4:
        file.unlink(missing_ok=True)
    else:
        file.write_bytes(bytes([made.random.randint(0, 3)]))


def _patch(made: World) -> None:
    word = made.random.choice(("new", "newer"))
    made.write("patches/mine/mine.patch", PATCH.replace("+new", f"+{word}"))


def _description(made: World) -> None:
    why = made.random.choice(("why: it is needed", "why: another", "whi: wrong"))
    text = DESCRIPTION.replace("why: it is needed", why)
    made.write("patches/mine/patch.yaml", text)


def _nearer_patches(made: World) -> None:
    """Another folder of patches, nearer to the stack."""
    folder = made.stacks / "patches"
    if folder.exists():
        shutil.rmtree(folder)
    else:
        folder.mkdir()


def _project_file(made: World) -> None:
    """`deployer.yaml` comes, changes or goes: it may say where the project begins."""
    where = made.random.choice(("stacks", "."))
    file = made.folder / "project" / where / "deployer.yaml"
    if made.random.random() < 0.4:
        file.unlink(missing_ok=True)
        return
    path = made.random.choice((".deployer/state", "elsewhere", ".deployer"))
    file.write_text(f"state: {{backend: file, path: {path}}}\n")


def _repository(made: World) -> None:
    """The folder that is the project begins somewhere else."""
    where = made.random.choice((made.stacks, made.folder / "project", made.folder))
    folder = where / ".git"
    if folder.exists():
        folder.rmdir()
    else:
        folder.mkdir()


def _criu(made: World) -> None:
    """The program that takes snapshots comes, changes or goes."""
    file = made.folder / "bin" / "criu"
    if made.random.random() < 0.4:
        file.unlink(missing_ok=True)
        return
    version = made.random.choice(("3.17", "4.1"))
    file.write_text(f"#!/bin/sh\necho Version: {version}\n")
    file.chmod(0o755)


def _dotenv(made: World) -> None:
    """`.env` beside the stack names another program."""
    file = made.stacks / ".env"
    if made.random.random() < 0.5:
        file.unlink(missing_ok=True)
    else:
        name = made.random.choice(("none", "bin/criu"))
        file.write_text(f"DEPLOYER_CRIU={made.folder / name}\n")


def _variable(made: World) -> None:
    """A variable that decides, or one that does not."""
    outside = str(made.folder)
    name, value = made.random.choice(
        (
            ("DEPLOYER_ALLOW_OUTSIDE", outside),
            ("DEPLOYER_ALLOW_OUTSIDE", None),
            ("DEPLOYER_CRIU", str(made.folder / "none")),
            ("DEPLOYER_CRIU", None),
            ("LANG", "C"),
        )
    )
    if value is None:
        made.variables.pop(name, None)
    else:
        made.variables[name] = value


def _nothing(made: World) -> None:
    del made


EDITS: Mapping[str, Edit] = {
    "the stack": _stack,
    "its base": _base,
    "the base of its base": _base_of_base,
    "a base that is a link": _base_is_a_link,
    "an overlay": _overlay,
    "the lock file": _lock,
    "a chat template": _template,
    "a file of a gate": _gate_file,
    "the weights": _weights,
    "the binary": _binary,
    "a library": _library,
    "a patch": _patch,
    "the description of a patch": _description,
    "a nearer folder of patches": _nearer_patches,
    "the project file": _project_file,
    "the repository": _repository,
    "CRIU": _criu,
    ".env": _dotenv,
    "a variable": _variable,
    "nothing": _nothing,
}
