"""The Hugging Face hub: a repository pinned to a commit and digests, and fetched."""

import difflib
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import quote

from deployer import install_command
from deployer.artefacts.sources.files import ensure_room, sha256_of, writing
from deployer.artefacts.sources.transfer import download
from deployer.errors import AuthError, DeployerError, SourceError
from deployer.planning.facts import Pin
from deployer.planning.progress import Watch
from deployer.planning.resources import MODEL_ROLE
from deployer.stack.fields.values import JsonValue
from deployer.system.files import contained

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError


_SHARD = re.compile(r"(?P<stem>.+)-\d{5}-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)


def choose_model(
    names: Iterable[str], *, file: str | None, quant: str | None
) -> list[str]:
    """The file of the model, or all parts of a split one, in order.

    A quantisation matches the end of a name (``-Q4_K_M.gguf``, in any case) or the
    folder that a file lies in.  A draft model, a projector and the like are taken by
    ``file`` alone.  Raises SourceError naming what was likely meant.
    """
    files = sorted(names)
    if file is not None:
        chosen = _by_file(_models(files, every=True), file)
    else:
        chosen = _by_quant(_models(files), quant, files)
    _refuse_gaps(chosen)
    return chosen


def choose_beside(
    names: Iterable[str], *, role: str, file: str | None, quant: str | None
) -> list[str]:
    """The weights of a role beside the model: any file by its name, else by ``quant``.

    A draft by its quantisation is one of the heads that a repository has, and only
    without any a model.  Raises SourceError naming what was likely meant.
    """
    files = sorted(names)
    if file is not None:
        return choose_model(files, file=file, quant=None)
    if role == "mmproj" and quant is not None:
        return [choose_projector(files, quant)]
    kind = _SIDECARS.get(role.rstrip("-0123456789"), "")
    own = [name for name in files if kind and sidecar_of(name) == kind]
    models = _models(own, every=True) if own else _models(files)
    chosen = _by_quant(models, quant, own or files)
    _refuse_gaps(chosen)
    return chosen


_SIDECARS: Mapping[str, str] = {
    "mmproj": "a projector",
    "draft": "a draft model",
    "lora": "an adapter",
    "control-vectors": "a control vector",
    "vocoder": "a vocoder",
}
"""The kind of a file by its name, for each role."""


def choose_projector(names: Iterable[str], wanted: str) -> str:
    """The multimodal projector in precision ``wanted`` (``F16``), or of that name."""
    projectors = sorted(
        name
        for name in names
        if name.lower().endswith(".gguf") and sidecar_of(name) == "a projector"
    )
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


def sidecar_of(name: str) -> str:
    """Return what a file of a repository is beside the model; empty for a model.

    By its name alone: what a file says of itself is judged once it was chosen.
    """
    *folders, base = PurePosixPath(name.lower()).parts
    words = {*re.split(r"[-_. ]", base.removesuffix(".gguf"))}
    first = {*re.split(r"[-_. ]", base)[:1], *folders}
    if "mmproj" in base:
        return "a projector"
    if "imatrix" in base or "imatrix" in folders:
        return "an importance matrix"
    if (words | {*folders}) & _DRAFTERS or first & {"mtp", "draft", "drafter"}:
        return "a draft model"
    if (words | {*folders}) & {"lora", "adapter", "adapters"}:
        return "an adapter"
    if {"control", "vector"} <= words:
        return "a control vector"
    if "vocab" in words:
        return "a vocabulary"
    return "a vocoder" if words & {"vocoder", "wavtokenizer"} else ""


_DRAFTERS = frozenset({"dflash", "dspark", "eagle", "eagle2", "eagle3", "medusa"})
_BYTE_PART = re.compile(
    r"(?P<whole>.+\.gguf)[-.](part-?[0-9a-z]+(of[0-9]+)?|split-?[a-z0-9]+|[0-9]{2,3}"
    r"|[a-z]{2})",
    re.IGNORECASE,
)
"""A model cut at any byte, which is not the split that llama.cpp reads."""


def _models(names: Iterable[str], *, every: bool = False) -> dict[str, list[str]]:
    """Models by name without ``.gguf`` and part number; with ``every`` all GGUF."""
    models: dict[str, list[str]] = {}
    for name in sorted(names):
        if not name.lower().endswith(".gguf") or (not every and sidecar_of(name)):
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


def _by_quant(
    models: Mapping[str, list[str]], quant: str | None, files: Sequence[str]
) -> list[str]:
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
    _refuse_byte_parts(files, quant)
    others = [name for name in files if (quant is None or _has(name[:-5], quant))]
    beside = [f"`{it}` is {kind}" for it in others if (kind := sidecar_of(it))][:2]
    if not models:
        raise SourceError(
            "the repository has no GGUF models at all", hint="; ".join(beside)
        )
    nearest = _choices("nearest", _near(str(quant), models))
    raise SourceError(
        f"the repository has no model quantised as `{quant}`",
        hint="; ".join([nearest, *beside]),
    )


def _refuse_byte_parts(files: Sequence[str], quant: str | None) -> None:
    """Raise SourceError where the model is in parts that llama.cpp cannot load."""
    for name in files:
        part = _BYTE_PART.fullmatch(name)
        if part and (quant is None or _has(part["whole"][:-5], quant)):
            whole = PurePosixPath(part["whole"]).name
            raise SourceError(
                f"the model is there in parts, such as `{name}`, that llama.cpp cannot"
                " load: it was cut at any byte",
                hint=f"download the parts, join them in order into `{whole}`, and name"
                " that with `model.path`",
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


_ENDPOINT = "https://huggingface.co"
_TOKEN_HINT = {
    True: "the token in `HF_TOKEN` may be wrong, expired, or lack the right to read it",
    False: "if it is private, set `HF_TOKEN` to a token that may read it",
}


@dataclass(frozen=True, slots=True)
class Choice:
    """The files of a repository that a stack wants."""

    repo: str
    revision: str | None = None
    file: str | None = None
    quant: str | None = None
    mmproj: str | None = None
    role: str = MODEL_ROLE


@dataclass(frozen=True, slots=True)
class _Remote:
    size: int
    sha256: str


def pin(choice: Choice, *, environment: Mapping[str, str]) -> Pin:
    """Pin the chosen files at the commit that the revision is now.

    The token is HF_TOKEN of ``environment``, never one stored on this machine.
    Raises AuthError for gated and private repositories, SourceError otherwise.
    """
    _refuse_missing_library()
    from huggingface_hub import HfApi  # noqa: PLC0415 - 0.4 s, only for hubs

    api = HfApi(endpoint=_endpoint(environment), token=token_of(environment) or False)
    with _translated(choice.repo, environment):
        answer = api.model_info(
            choice.repo, revision=choice.revision, files_metadata=True, timeout=30.0
        )
    remote = {
        sibling.rfilename: _Remote(sibling.lfs.size, sibling.lfs.sha256)
        for sibling in answer.siblings or ()
        if sibling.lfs is not None
    }
    if answer.sha is None:
        raise SourceError(f"the hub names no commit for `{choice.repo}`")
    model = (
        choose_model(remote, file=choice.file, quant=choice.quant)
        if choice.role == MODEL_ROLE
        else choose_beside(
            remote, role=choice.role, file=choice.file, quant=choice.quant
        )
    )
    projector = choose_projector(remote, choice.mmproj) if choice.mmproj else None
    return _pin_of(choice.repo, answer.sha, remote, model, projector)


def fetch(
    pin: Pin,
    into: Path,
    *,
    downloads: Path,
    environment: Mapping[str, str],
    progress: Watch,
) -> None:
    """Put the pinned files into the folder ``into``, verified.

    What is on its way stays in ``downloads``: an interrupted run resumes there.
    Raises AuthError, SourceError, and StoreError where the disk is full.
    """
    repo, commit, files = _pinned(pin)
    hub = downloads / "hub"
    arriving = contained(hub, hub / repo.replace("/", "--") / commit)
    arriving.mkdir(parents=True, exist_ok=True)
    size = pin.about.get("size")
    needed = size if isinstance(size, int) else None
    if needed is not None:
        ensure_room(arriving, needed - _present(arriving), purpose=repo)
    with writing(arriving, purpose=repo, needed=needed):
        for name, sha256 in files:
            arrived = contained(arriving, arriving / sha256)
            if not (arrived.is_file() and sha256_of(arrived, progress) == sha256):
                download(
                    address(pin, name, environment),
                    arrived,
                    sha256=sha256,
                    size=_size(pin, name, environment),
                    progress=progress,
                    token=token_of(environment),
                )
        for name, sha256 in files:
            target = contained(into, into / PurePosixPath(name).name)
            (arriving / sha256).replace(target)
        shutil.rmtree(contained(hub, arriving))


def address(pin: Pin, name: str, environment: Mapping[str, str]) -> str:
    """Where a file of the pinned commit is served."""
    path = quote(f"{pin.where['repo']}/resolve/{pin.where['revision']}/{name}")
    return f"{_endpoint(environment)}/{path}"


def token_of(environment: Mapping[str, str]) -> str:
    """The token of the hub; empty for none."""
    return environment.get("HF_TOKEN", "").strip()


def _pin_of(
    repo: str,
    commit: str,
    remote: Mapping[str, _Remote],
    model: list[str],
    projector: str | None,
) -> Pin:
    chosen = [*model, *([projector] if projector else [])]
    identity: dict[str, JsonValue] = {"model": [remote[n].sha256 for n in model]}
    where: dict[str, JsonValue] = {
        "repo": repo,
        "revision": commit,
        "model": list[JsonValue](model),
    }
    about: dict[str, JsonValue] = {
        "model": [PurePosixPath(name).name for name in model],
        "size": sum(remote[name].size for name in chosen),
    }
    if projector is not None:
        identity["mmproj"] = remote[projector].sha256
        where["mmproj"] = projector
        about["mmproj"] = PurePosixPath(projector).name
    return Pin(source="hub", identity=identity, where=where, about=about)


def _pinned(pin: Pin) -> tuple[str, str, list[tuple[str, str]]]:
    """Repository, commit, and each file with its digest."""
    match dict(pin.where), dict(pin.identity):
        case (
            {"repo": str(repo), "revision": str(commit), "model": list(names), **more},
            {"model": list(digests), **others},
        ):
            pairs = list(zip(names, digests, strict=True))
            if "mmproj" in more:
                pairs.append((more["mmproj"], others.get("mmproj")))
            return repo, commit, [(str(name), str(sha)) for name, sha in pairs]
        case _:
            raise SourceError("the lock file has a `hub` pin that is not one of ours")


def _size(pin: Pin, name: str, environment: Mapping[str, str]) -> int | None:
    """Bytes of a pinned file; asking tells in the hub's words what stands against it.

    Raises AuthError and SourceError.
    """
    _refuse_missing_library()
    from huggingface_hub import (  # noqa: PLC0415 - 0.4 s, only for hubs
        get_hf_file_metadata,
    )

    repo = str(pin.where["repo"])
    with _translated(repo, environment):
        found = get_hf_file_metadata(
            address(pin, name, environment),
            token=token_of(environment) or False,
            timeout=30.0,
        )
    if found.commit_hash is None:  # whoever answers is no hub
        raise _unreachable(repo)
    return found.size


def _present(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _endpoint(environment: Mapping[str, str]) -> str:
    return (environment.get("HF_ENDPOINT") or _ENDPOINT).rstrip("/")


def _refuse_missing_library() -> None:
    try:
        import huggingface_hub  # noqa: F401, PLC0415 - an extra, may be absent
    except ImportError as error:
        raise SourceError(
            "`model.repo` needs the hub library",
            hint=install_command("hub"),
        ) from error


@contextmanager
def _translated(repo: str, environment: Mapping[str, str]) -> Iterator[None]:
    """Turn what the library raises into our errors."""
    import httpx2  # noqa: PLC0415 - only hubs pay for it
    from huggingface_hub.errors import (  # noqa: PLC0415 - only hubs pay for it
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
    )

    try:
        yield
    except HfHubHTTPError as error:
        raise _refusal(error, repo, environment) from error
    except LocalEntryNotFoundError as error:
        if isinstance(error.__cause__, HfHubHTTPError):
            raise _refusal(error.__cause__, repo, environment) from error
        raise _unreachable(repo) from error
    except HFValidationError as error:
        raise SourceError(
            f"`{repo}` is not the name of a repository", hint="write `owner/name`"
        ) from error
    except (httpx2.HTTPError, ConnectionError) as error:
        raise _unreachable(repo) from error


def _refusal(
    error: "HfHubHTTPError", repo: str, environment: Mapping[str, str]
) -> DeployerError:
    from huggingface_hub.errors import (  # noqa: PLC0415 - only hubs pay for it
        GatedRepoError,
        RemoteEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    page = f"{_endpoint(environment)}/{repo}"
    has_token = bool(token_of(environment))
    status = error.response.status_code
    match error:
        case GatedRepoError():
            return _gated(repo, page, has_token=has_token)
        case RevisionNotFoundError():
            return SourceError(
                f"`{repo}` has no such revision", hint=f"see {page}/tree/main"
            )
        case RemoteEntryNotFoundError():
            return SourceError(
                f"a pinned file of `{repo}` is gone from the hub", hint="lock again"
            )
        case RepositoryNotFoundError():
            return SourceError(
                f"`{repo}` does not exist, or is private",
                hint=f"check the spelling; {_TOKEN_HINT[has_token]}",
            )
        case _ if status in (401, 403):
            return AuthError(
                f"the hub refuses `{repo}` (HTTP {status})", hint=_TOKEN_HINT[has_token]
            )
        case _:
            return SourceError(
                f"the hub could not serve `{repo}` (HTTP {status})",
                hint="it may be busy: try again later",
            )


def _gated(repo: str, page: str, *, has_token: bool) -> AuthError:
    if has_token:
        return AuthError(
            f"`{repo}` is gated, and the token in `HF_TOKEN` has no access",
            hint=f"accept the licence at {page} with the account of the token",
        )
    return AuthError(
        f"`{repo}` is gated, and `HF_TOKEN` is not set",
        hint=f"accept the licence at {page}, then set `HF_TOKEN` to a token that may "
        "read it",
    )


def _unreachable(repo: str) -> SourceError:
    return SourceError(
        f"the hub could not be reached for `{repo}`",
        hint="check the network, and `HF_ENDPOINT` if it is set; what is locked and in "
        "the store needs no hub",
    )
