"""Write docs/rendered anew: what `stacks/gemma4-prod.yaml` is on Modal.

    python -m tests.engines.modal.golden

The facts are made up, since its lock file needs the hub; all else is real.
"""

from collections.abc import Mapping
from pathlib import Path

from deployer.engines.modal.render import render
from tests.engines.modal.lowering import ROOT, lowered, production

FOLDER = ROOT / "docs" / "rendered"


def golden() -> Mapping[str, bytes]:
    """Every file by its name, without the copy of `deployer/runtime`."""
    files = render(lowered(production()))
    return {name: text for name, text in files.items() if "/" not in name}


def write(folder: Path) -> None:
    """Replace what is in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.iterdir():
        file.unlink()
    for name, content in golden().items():
        (folder / name).write_bytes(content)


if __name__ == "__main__":
    write(FOLDER)
