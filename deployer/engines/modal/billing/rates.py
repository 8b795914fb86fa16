"""What Modal says that it charges, beside the table that estimates are made from.

`modal billing rates` answers dollars for a unit and hour, by names that are documented
nowhere (unit: `WorkspaceBillingRatesResponse` of the client, 1.6.4).  So a name is
taken where it is the only one with the word that is looked for, and a price that is
far from the table's for that of something else.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Final

from deployer.planning.costs import LISTED, Prices
from deployer.planning.machine_modal import gpus_of
from deployer.stack.fields.values import Flat

_HOUR: Final = 3600
_SAME: Final = 0.01
"""Share of a price by which it may differ and be the same: the table is rounded."""
_FAR: Final = 5.0
"""Times the listed price, or a part of it, that no change of a price comes to."""


def changed(
    asked: Mapping[str, str], fields: Flat, listed: Prices = LISTED
) -> tuple[str, ...]:
    """The prices of what a server uses that are not as listed any more, in words."""
    return tuple(_told(asked, fields, listed))


def _told(asked: Mapping[str, str], fields: Flat, listed: Prices) -> Iterator[str]:
    for name, word, second in _used(fields, listed):
        price = _price(asked, word)
        if price is None:
            continue
        before = second * _HOUR
        near = before / _FAR < price < before * _FAR
        if near and abs(price - before) > before * _SAME:
            yield f"{name} ${price:.4g}/h (${before:.4g} in the table)"


def _used(fields: Flat, listed: Prices) -> Iterator[tuple[str, str, float]]:
    for gpu in gpus_of(fields)[:1]:
        name = gpu.partition(":")[0]
        yield name, name, listed.gpu[name]
    yield "a core", "cpu", listed.core
    yield "a GiB of memory", "memory", listed.gib


def _price(asked: Mapping[str, str], word: str) -> float | None:
    """The price under the only name with a word; None where there is not one."""
    wanted = re.compile(rf"(^|-){re.escape(_plain(word))}($|-)")
    found = [text for name, text in asked.items() if wanted.search(_plain(name))]
    try:
        return float(found[0]) if len(found) == 1 else None
    except ValueError:
        return None


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower())
