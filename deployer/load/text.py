"""Text of a user's file as a message may print it."""


def shown(text: str, *, longest: int = 60) -> str:
    """One line, no control characters, and cut when it is long."""
    start = text[: longest + 1]
    clean = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in start)
    return clean if len(text) <= longest else f"{clean[: longest - 1]}…"
