"""Prices that Modal says, beside those of the table."""

import pytest

from deployer.engines.modal.billing import changed
from deployer.llama.known.tables import prices

LISTED = prices()
FIELDS = {"gpu": "L4"}
HOURLY = {"L4": LISTED.gpu["L4"] * 3600, "cpu": LISTED.core * 3600}


def test_a_price_that_is_another_by_now_is_told() -> None:
    told = changed({"gpu_l4": "1.20", "cpu": str(HOURLY["cpu"])}, FIELDS)
    assert told == (f"L4 $1.2/h (${HOURLY['L4']:.4g} in the table)",)


@pytest.mark.parametrize(
    "rates",
    [
        {},
        {"gpu_l4": str(HOURLY["L4"])},  # as listed
        {"gpu_l4": "0.80"},  # as listed, rounded
        {"gpu_l40s": "9.99"},  # another GPU
        {"gpu_l4": "1.20", "sandbox l4": "1.30"},  # which of them?
        {"gpu_l4": "0.000333"},  # not for an hour
        {"gpu_l4": "on request"},
    ],
)
def test_what_cannot_be_told_for_sure_is_not(rates: dict[str, str]) -> None:
    assert changed(rates, FIELDS) == ()


def test_without_a_gpu_cores_and_memory_are_compared() -> None:
    told = changed({"CPU (physical core)": "0.06", "Memory GiB": "0.01"}, {})
    assert [line.partition(" $")[0] for line in told] == ["a core", "a GiB of memory"]
