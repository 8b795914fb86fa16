"""The tables of known issues are what their schema says."""

import json
import re
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from deployer.llama import known
from deployer.llama.known.symptoms import symptoms
from deployer.llama.known.tables import read
from deployer.llama.known.traps import CONCERNS, changes

FOLDER = Path(known.__file__).parent
TABLES = sorted(path.name for path in FOLDER.glob("*.toml"))
SCHEMA = Draft202012Validator(json.loads((FOLDER / "schema.json").read_text()))


@pytest.mark.parametrize("name", TABLES)
def test_a_table_holds_what_the_schema_says(name: str) -> None:
    wrong = [f"{e.json_path}: {e.message}" for e in SCHEMA.iter_errors(read(name))]
    assert wrong == []


@pytest.mark.parametrize("name", TABLES)
def test_a_row_with_a_key_that_nobody_knows_is_found(name: str) -> None:
    table = read(name)
    first = next(iter(table.values()))
    row = first[0] if isinstance(first, list) else first
    row["sevirity"] = 5
    assert list(SCHEMA.iter_errors(table))


def test_a_change_names_a_condition_and_each_condition_is_named() -> None:
    assert {it.concerns for it in changes() if it.concerns} == set(CONCERNS)


def test_meaning_and_hint_use_groups_that_the_pattern_has() -> None:
    wrong = [
        symptom.id
        for symptom in symptoms()
        for group in re.findall(r"\\(\d)", f"{symptom.meaning} {symptom.hint}")
        if int(group) > re.compile(symptom.pattern).groups
    ]
    assert wrong == []
