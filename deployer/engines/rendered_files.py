"""Rendered files in a folder."""

from collections.abc import Mapping
from pathlib import Path

from deployer.system.contained import contained


def write_files(files: Mapping[str, bytes], folder: Path) -> tuple[Path, ...]:
    """Write files below a folder by their names; what they replace is overwritten."""
    written = []
    for name, content in files.items():
        place = contained(folder, folder / name)
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(content)
        written.append(place)
    return tuple(written)
