"""What the headers of weights say: from the lock file, else from the store.

Walking over the vocabulary of a model takes longer than the rest of a plan, and what
lies in the store does not change: so what was read of it is kept beside it.
"""

import json
from contextlib import suppress
from pathlib import Path

from deployer.artefacts.store import Entry, Store
from deployer.gguf.facts import Facts, NoModelError, from_json, to_json
from deployer.planning.facts import HEADER, Pin
from deployer.system.private_files import read, write
from deployer.usecases.reading.prepared import this_code


def weights_facts(pin: Pin, key: str, store: Store) -> Facts | None:
    """Return what is known of the weights; None where they are not there yet."""
    known = from_json(pin.about.get(HEADER))
    if known is not None or (entry := store.find("weights", key)) is None:
        return known
    folder, name = str(store.home / "cache" / "headers"), f"{key}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        kept = json.loads(read(folder, name))
        facts = from_json(kept["facts"]) if kept["code"] == this_code() else None
        if facts is not None:
            return facts
    found = _in_files(pin, entry)
    if found is not None:
        with suppress(OSError):
            content = json.dumps({"code": this_code(), "facts": to_json(found)})
            write(folder, name, content.encode())
    return found


def _in_files(pin: Pin, entry: Entry) -> Facts | None:
    names = sorted(name for name in entry.files if name.endswith(".gguf"))
    mmproj = str(pin.about.get("mmproj") or "")
    model = [entry.path(name) for name in names if Path(name).name != mmproj]
    projector = [entry.path(name) for name in names if Path(name).name == mmproj]
    if not model:
        return None
    from deployer.gguf.reading import (  # noqa: PLC0415 - once for an artefact
        facts_of_files,
    )

    try:
        return facts_of_files(model, projector[0] if projector else None)
    except NoModelError:
        return None
