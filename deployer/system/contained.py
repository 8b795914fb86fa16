"""The question before anything is written or removed: does it lie where it should."""

from pathlib import Path

from deployer.errors import StoreError


def contained(folder: Path, path: Path) -> Path:
    """Return a path that lies below a folder once every link is followed.

    Raises StoreError for any other, the folder itself among them: a part of it came
    from a file, and no file may choose what deployer writes or removes.
    """
    try:
        root, real = folder.resolve(), path.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a NUL
        raise StoreError(f"`{path}` is not a path below `{folder}`") from error
    if real == root or not real.is_relative_to(root):
        raise StoreError(
            f"`{path}` does not lie in `{folder}`: nothing was written or removed",
            hint="a name in a lock file, a state or a manifest, or a link, leads out"
            " of the folder: look at what changed there",
        )
    return path
