"""What an engine can do, as values that a plan depends on."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Abilities:
    """What an engine can do, as far as it decides about a plan."""

    snapshots: bool
    """It can capture and restore memory."""
    remote: bool = False
    """Its servers run elsewhere: to look at them costs requests."""
    restart_drops_snapshot: bool = False
    """Any redeploy makes a snapshot useless, as on Modal."""
    snapshot_keeps_maps: bool = True
    """A captured process may have the model file mapped."""
    gpus_in_snapshot: int | None = None
    """Most GPUs of a container whose memory is captured; None: no limit."""
    why_not: str = ""
    """Why this machine takes no snapshots, where the engine as such could."""
    hint: str = ""
    """What to do about it."""
