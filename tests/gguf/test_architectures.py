"""What libllama b11434 allocated for the caches of each architecture that it has.

`python -m scripts.architectures` measures and records it.
"""

import json

import pytest

from scripts.architectures import RECORD, Row, rows

ROWS = [*rows(json.loads(RECORD.read_text("utf-8")))]
UNKNOWN = {"deepseek4-moe"}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.model}-{row.run}")
def test_caches_are_as_libllama_allocates_them_or_told_as_unknown(row: Row) -> None:
    assert row.agrees or row.unknown


def test_nearly_every_run_agrees() -> None:
    assert sum(row.agrees for row in ROWS) >= 0.98 * len(ROWS)
    assert {row.model for row in ROWS if not row.agrees} == UNKNOWN
    assert {row.model for row in ROWS if row.unknown} == UNKNOWN


def test_every_architecture_and_heads_are_among_them() -> None:
    assert len({row.model.partition("-")[0] for row in ROWS}) >= 100
    assert {row.run for row in ROWS} == {"unified", "split", "quantised", "mtp"}
