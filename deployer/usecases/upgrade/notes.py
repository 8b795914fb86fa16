"""What a change of the build means beside compiling it."""

from collections.abc import Iterator

from deployer.llama.flags.explain import diff
from deployer.planning.plan import Change
from deployer.stack.fields.values import Flat

_ADVICE = {
    "upstream": "it is in this build: the patch can be deleted from the stack",
    "applied": "it is in the source already: the patch can be deleted from the stack",
    "not-applicable": "this build has nothing to patch",
}


def notes(build: Change) -> tuple[str, ...]:
    """The verdict of each patch, and how the options of llama-server differ."""
    return (*_patches(build), *_options(build))


def _patches(build: Change) -> Iterator[str]:
    about = build.after.spec.get("about") if build.after is not None else None
    verdicts = about.get("patches") if isinstance(about, dict) else None
    for name, verdict in verdicts.items() if isinstance(verdicts, dict) else ():
        advice = _ADVICE.get(str(verdict))
        yield f"patch {name}: {verdict}" + (f", {advice}" if advice else "")


def _options(build: Change) -> Iterator[str]:
    before = _number(build.before.fields if build.before is not None else {})
    after = _number(build.after.fields if build.after is not None else {})
    if before is None or after is None or before == after:
        return
    found = diff(before, after)
    counts = (
        (len(found.added), "added"),
        (len(found.renamed), "renamed"),
        (len(found.removed), "removed"),
        (len(found.changed), "changed"),
    )
    parts = [f"{number} {word}" for number, word in counts if number]
    if parts:
        yield (
            f"options of llama-server, b{before} → b{after}: {', '.join(parts)}"
            f" (deployer flags --diff b{before} b{after})"
        )


def _number(fields: Flat) -> int | None:
    text = str(fields.get("llama_cpp.tag"))
    return int(text[1:]) if text.startswith("b") and text[1:].isdigit() else None
