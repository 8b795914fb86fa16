"""Durations and sizes: equal quantities are equal, however they were written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployer.stack.fields.values import (
    JsonValue,
    Unit,
    canonical,
    seconds,
    show_bytes,
    show_seconds,
    size_in_bytes,
)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (0, 0.0),
        (90, 90.0),
        (0.5, 0.5),
        ("200ms", 0.2),
        ("90s", 90.0),
        ("1.5m", 90.0),
        ("1h30m", 5400.0),
        ("1d", 86400.0),
    ],
)
def test_a_duration_in_seconds(written: JsonValue, meant: float) -> None:
    assert seconds(written) == meant


@pytest.mark.parametrize(
    "written",
    [True, None, -1, "", "5", "5 m", "5M", "m", "-5s", "5m\n", [5], "9" * 400],
)
def test_what_is_no_duration(written: JsonValue) -> None:
    with pytest.raises(ValueError, match="expected a duration"):
        seconds(written)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (0, 0),
        (1024, 1024),
        ("0B", 0),
        ("500MB", 500_000_000),
        ("1.5KiB", 1536),
        ("24GiB", 24 * 1024**3),
        ("2TB", 2 * 10**12),
    ],
)
def test_a_size_in_bytes(written: JsonValue, meant: int) -> None:
    assert size_in_bytes(written) == meant


@pytest.mark.parametrize(
    "written", [True, None, -1, 1.5, "", "5", "5GB ", "5gb", "5 GB", "-5GB", [5]]
)
def test_what_is_no_size(written: JsonValue) -> None:
    with pytest.raises(ValueError, match="expected a size"):
        size_in_bytes(written)


def test_only_a_unit_makes_text_a_number() -> None:
    assert canonical(None, "5m") == "5m"
    assert canonical(Unit.DURATION, "5m") == canonical(Unit.DURATION, 300)
    assert canonical(Unit.SIZE, "1KiB") == canonical(Unit.SIZE, 1024)
    assert canonical(Unit.DURATION, None) is None


@given(st.integers(0, 10**6), st.sampled_from(["ms", "s", "m", "h", "d"]))
def test_a_duration_is_the_same_in_every_unit_that_divides_it(
    count: int, unit: str
) -> None:
    assert canonical(Unit.DURATION, f"{count}{unit}") == pytest.approx(
        canonical(Unit.DURATION, seconds(f"{count}{unit}"))
    )


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 KB"),
        (253_000_000, "253.0 MB"),
        (18.3e9, "18.3 GB"),
        (2e12, "2.0 TB"),
    ],
)
def test_bytes_for_people(count: float, shown: str) -> None:
    assert show_bytes(count) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (12, "12 s"),
        (59.7, "1 min 0 s"),
        (185, "3 min 5 s"),
    ],
)
def test_seconds_for_people(count: float, shown: str) -> None:
    assert show_seconds(count) == shown
