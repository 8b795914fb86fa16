"""What a symptom in a log is."""

from dataclasses import dataclass

from deployer.core.notices import Severity


@dataclass(frozen=True, slots=True)
class Symptom:
    """A pattern of the log, what it means, and what to do.

    Groups that the pattern catches stand in the meaning as in `re.Match.expand`.
    """

    id: str
    pattern: str
    meaning: str
    hint: str
    severity: Severity = Severity.ERROR
    hides: tuple[str, ...] = ()
    """Symptoms that are only what follows from this one."""
