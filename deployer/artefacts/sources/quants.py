"""Which files of a repository a quantisation means; names only, nothing is asked."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath

from deployer.errors import SourceError

_SHARD = re.compile(r"(?P<stem>.+)-\d{5}-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)


def choose_model(
    names: Iterable[str], *, file: str | None, quant: str | None
) -> list[str]:
    """The file of the model, or all parts of a split one, in order.

    A quantisation matches the end of a name (``-Q4_K_M.gguf``, in any case) or the
    folder that a file lies in.  Raises SourceError naming what was likely meant.
    """
    models = _models(names)
    chosen = _by_file(models, file) if file is not None else _by_quant(models, quant)
    _refuse_gaps(chosen)
    return chosen


def choose_projector(names: Iterable[str], wanted: str) -> str:
    """The multimodal projector in precision ``wanted`` (``F16``), or of that name."""
    projectors = sorted(name for name in names if _is_projector(name))
    if wanted in projectors:
        return wanted
    word = re.compile(rf"(^|[-._]){re.escape(wanted)}([-._]|$)", re.IGNORECASE)
    found = [name for name in projectors if word.search(PurePosixPath(name).stem)]
    if len(found) == 1:
        return found[0]
    shown = ", ".join(f"`{name}`" for name in found or projectors)
    if found:
        raise SourceError(
            f"`{wanted}` fits {len(found)} projectors of the repository",
            hint=f"set `model.mmproj` to one: {shown}",
        )
    raise SourceError(
        f"the repository has no projector `mmproj*{wanted}*.gguf`",
        hint=f"it has {shown}" if projectors else "the model may be text only",
    )


def _models(names: Iterable[str]) -> dict[str, list[str]]:
    """Models by name without ``.gguf`` and part number; only GGUF, no projectors."""
    models: dict[str, list[str]] = {}
    for name in sorted(names):
        if not name.lower().endswith(".gguf") or _is_projector(name):
            continue
        shard = _SHARD.fullmatch(name)
        models.setdefault(shard["stem"] if shard else name[:-5], []).append(name)
    return models


def _refuse_gaps(files: Sequence[str]) -> None:
    """Raise SourceError where parts of a split model are missing."""
    counts = [
        int(shard["count"]) if (shard := _SHARD.fullmatch(name)) else 1
        for name in files
    ]
    if set(counts) != {len(files)}:
        raise SourceError(
            f"`{files[0]}` is not complete: the repository has {len(files)} of "
            f"{max(counts)} parts",
            hint="pin a `model.revision` that has all parts",
        )


def _by_quant(models: Mapping[str, list[str]], quant: str | None) -> list[str]:
    found = {
        name: files
        for name, files in models.items()
        if quant is None or _has(name, quant)
    }
    if len(found) == 1:
        return next(iter(found.values()))
    if quant is None and found:
        raise SourceError(
            f"the repository has {len(found)} models; which one is not said",
            hint=_choices("set `model.quant`", found),
        )
    if found:
        raise SourceError(
            f"`{quant}` fits {len(found)} models of the repository",
            hint=_choices("set `model.file` to one", found),
        )
    if not models:
        raise SourceError("the repository has no GGUF models at all")
    raise SourceError(
        f"the repository has no model quantised as `{quant}`",
        hint=_choices("nearest", _near(str(quant), models)),
    )


def _by_file(models: Mapping[str, list[str]], file: str) -> list[str]:
    for files in models.values():
        if file in files:
            return files
    names = [name for files in models.values() for name in files]
    near = difflib.get_close_matches(file, names, n=3, cutoff=0.4) or names[:5]
    shown = ", ".join(f"`{name}`" for name in near) or "none, it has no GGUF models"
    raise SourceError(
        f"the repository has no model file `{file}`", hint=f"nearest: {shown}"
    )


def _has(name: str, quant: str) -> bool:
    path = PurePosixPath(name.lower())
    wanted = quant.lower()
    return (
        path.name == wanted
        or path.name.endswith((f"-{wanted}", f".{wanted}", f"_{wanted}"))
        or path.parent.name == wanted
    )


def _is_projector(name: str) -> bool:
    base = PurePosixPath(name).name.lower()
    return base.endswith(".gguf") and "mmproj" in base


def _near(quant: str, models: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """The models whose last word is most like ``quant``, best first."""

    def likeness(name: str) -> float:
        words = re.split(r"[-.]", PurePosixPath(name.lower()).name)
        ends = ["-".join(words[-count:]) for count in (1, 2)]
        return max(
            difflib.SequenceMatcher(None, quant.lower(), end).ratio() for end in ends
        )

    best = sorted(models, key=lambda name: (-likeness(name), name))[:3]
    return {name: models[name] for name in best}


def _choices(lead: str, models: Mapping[str, list[str]]) -> str:
    names = [files[0] for files in models.values()][:6]
    return f"{lead}: " + ", ".join(f"`{name}`" for name in names)
