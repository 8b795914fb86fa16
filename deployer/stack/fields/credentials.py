"""Values that look like a credential, and must not stand in a stack.

Prefixes: the published formats of Hugging Face, OpenAI, Anthropic, GitHub, GitLab,
AWS, Google, Slack and Modal tokens; JSON web tokens; PEM keys.
"""

import re
from itertools import pairwise

_KNOWN = re.compile(
    r"\bhf_[A-Za-z0-9]{16,}"
    r"|\bsk-[A-Za-z0-9_-]{16,}"
    r"|\bgh[oprsu]_[A-Za-z0-9]{16,}"
    r"|\bgithub_pat_[A-Za-z0-9_]{16,}"
    r"|\bglpat-[A-Za-z0-9_-]{16,}"
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"
    r"|\bAIza[0-9A-Za-z_-]{30,}"
    r"|\bxox[abeprs]-[0-9A-Za-z-]{10,}"
    r"|\ba[ks]-[A-Za-z0-9]{22}\b"
    r"|\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\."
    r"|-----BEGIN [A-Z ]*PRIVATE KEY"
    r"|://[^/\s:@]*:[^/\s@]+@"
    r"|[?&](?:access_token|api_key|token|sig|signature|x-amz-signature)=[^&\s]{8,}",
    re.IGNORECASE,
)
_RUN = re.compile(r"[A-Za-z0-9]{32,}")
_HEX = re.compile(r"[0-9a-fA-F]{32,}")

SHORTEST = 16
"""Characters; the shortest text that can look like a credential."""

_DIGESTS = frozenset({"sha256", "commit", "tag", "revision"})
"""Keys under which a long hexadecimal text is what it should be."""


def looks_like_a_credential(text: str, *, key: str = "") -> bool:
    """Return whether a text has the form of a token or a key, or is long and random."""
    if len(text) < SHORTEST:
        return False
    if _KNOWN.search(text):
        return True
    if len(text) == len(text.encode()) and _HEX.fullmatch(text):
        return key not in _DIGESTS
    return any(_random(run) for run in _RUN.findall(text))


def _random(run: str) -> bool:
    """Capitals, small letters and digits in every other place: names change less."""
    classes = [(c.isupper(), c.islower()) for c in run]
    changes = sum(one != other for one, other in pairwise(classes))
    return len(set(classes)) == 3 and changes * 2 >= len(run)
