"""What an engine can do, as values that a plan depends on."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Abilities:
    """What an engine can do, as far as it decides about a plan."""

    snapshots: bool
    """It can capture and restore memory."""
    restart_drops_snapshot: bool = False
    """Any redeploy makes a snapshot useless, as on Modal."""
    why_not: str = ""
    """Why this machine takes no snapshots, where the engine as such could."""
    hint: str = ""
    """What to do about it."""
