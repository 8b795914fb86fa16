"""Renderings of a plan: aligned, complete, and safe whatever a value holds."""

import json
import re
import unicodedata
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from deployer.diagnostics import Place
from deployer.planning.plan import Action, Cause, Change, Drift, Plan, Reason
from deployer.planning.resources import Kind
from deployer.planning.state import IN_DOUBT, Begun, Loose
from deployer.planning.steps import steps_of
from deployer.show.data import plan_data
from deployer.show.text import (
    SIGNS,
    plan_text,
    printable,
    show,
    step_text,
    took_line,
    verb,
)
from deployer.stack.fields.values import JsonValue
from tests.planning.checking import KEEPS, LOCAL, SNAPSHOT, but, deployed, planned

WIDER = but(LOCAL, "4096", "8192")
PLACES = {"server.ctx_size": Place("stacks/demo.yaml", 7, 3)}

NASTY = st.text(
    st.sampled_from("`|\\*_<>[]()#-\n\r\t\x1b\x00\x7f\u202e\u2028 aé漢"), max_size=12
)
VALUES = st.recursive(
    NASTY | st.integers() | st.booleans() | st.floats(allow_nan=False),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(NASTY, inner, max_size=3)
    ),
    max_leaves=5,
)


def with_reason(path: str, before: JsonValue, after: JsonValue, detail: str) -> Plan:
    """A plan that redeploys the server for what somebody made up."""
    plan = planned(LOCAL, WIDER)
    reasons = (
        Reason(Action.REPLACE, Cause.FIELD, path, before, after),
        Reason(Action.START, Cause.DRIFT, detail=detail),
    )
    *others, server = plan.changes
    return replace(plan, changes=(*others, replace(server, reasons=reasons)))


def test_the_heading_names_the_stack_the_plan_and_the_state() -> None:
    plan = planned(LOCAL, WIDER)
    heading = plan_text(plan, {}).splitlines()[0]
    assert heading == f"demo on local · plan {plan.id} · state serial 7"
    assert re.fullmatch(r"[0-9a-f]{6}", plan.id)


def test_columns_are_aligned() -> None:
    """What is done stands in one column, and where in another."""
    text = plan_text(planned(LOCAL, WIDER), PLACES)
    assert (
        text.split("\n", 1)[1]
        == """
  ✔ build    llama-server b9763 · llama-bin==1.0 · 11.0 MB            unchanged
  ✔ weights  tiny.gguf · 253.0 MB                                     unchanged
  ± server   http://127.0.0.1:8080 · tiny                             redeploy
      server.ctx_size   4096 → 8192                         stacks/demo.yaml:7
  ◌ gates    1 runs on the candidate before promotion: health

Plan: 1 to deploy.
"""
    )


def test_the_text_fits_a_terminal() -> None:
    for plan in (planned(None, SNAPSHOT, abilities=KEEPS), planned(LOCAL, WIDER)):
        assert max(map(len, plan_text(plan, PLACES).splitlines())) <= 88


def test_steps_are_shown_on_request() -> None:
    plan = planned(LOCAL, WIDER)
    text = plan_text(plan, {}, steps=True)
    old = deployed(LOCAL).live["demo/server"].key[:8]
    assert (
        text.partition("Steps:\n")[2]
        == f"""\
  1. stage demo/server
  2. check demo/server: health
  3. promote demo/server
  4. retire demo/server {old}
"""
    )


def test_a_plan_without_changes_has_no_steps_to_show() -> None:
    assert "Steps:" not in plan_text(planned(LOCAL, LOCAL), {}, steps=True)


def test_every_action_has_a_sign_and_a_word() -> None:
    """The meaning must not hang on colour."""
    change = planned(LOCAL, WIDER).changes[0]
    words = set()
    for action in Action:
        reasons = (Reason(action, Cause.FIELD),)
        words.add((SIGNS[action], verb(replace(change, reasons=reasons))))
    assert len(words) == len(Action)


def test_what_is_ready_is_only_promoted() -> None:
    change = replace(planned(None, LOCAL).changes[0], ready=True)
    assert verb(change) == "promote (ready)"


def test_values_on_one_line() -> None:
    shown: dict[str, JsonValue] = {
        "unset": None,
        "true": True,
        '"true"': "true",
        "4096": 4096,
        '"4096"': "4096",
        '""': "",
        "300": 300.0,
        "0.5": 0.5,
        "12.8.1": "12.8.1",
        "0123456789ab": "0123456789abcdef" * 4,
        "[a, 1]": ["a", 1],
        "{a: {b: unset}}": {"a": {"b": None}},
        "in doubt": IN_DOUBT,
        r"a\nb\x1b[31m": "a\nb\x1b[31m",
    }
    assert [show(value) for value in shown.values()] == list(shown)


def test_json_holds_what_the_text_shows() -> None:
    plan = planned(LOCAL, WIDER)
    data = plan_data(plan, PLACES)
    assert {k: v for k, v in data.items() if k != "changes"} == {
        "type": "plan",
        "format": "2.0",
        "id": plan.id,
        "stack": "demo",
        "engine": "local",
        "lineage": "f00d",
        "serial": 7,
        "empty": False,
        "gates": ["health"],
        "unproven": [],
        "unfinished": [],
        "drift": [],
        "resumes": None,
        "steps": [step_text(step) for step in steps_of(plan)],
        "costs": None,
        "fit": None,
        "starts": None,
    }
    changes = data["changes"]
    assert isinstance(changes, list)
    assert changes[2] == {
        "address": "demo/server",
        "kind": "server",
        "action": "replace",
        "verb": "redeploy",
        "ready": False,
        "what": "http://127.0.0.1:8080 · tiny",
        "key": {
            "before": deployed(LOCAL).live["demo/server"].key,
            "after": deployed(WIDER).live["demo/server"].key,
        },
        "reasons": [
            {
                "cause": "field",
                "calls_for": "replace",
                "path": "server.ctx_size",
                "before": 4096,
                "after": 8192,
                "detail": "",
                "place": {"file": "stacks/demo.yaml", "line": 7, "column": 3},
            }
        ],
    }


def test_json_names_what_an_earlier_run_left() -> None:
    record = deployed(WIDER).live["demo/server"]
    state = replace(deployed(LOCAL), loose=(Loose(Begun.STAGED, record),))
    data = plan_data(planned(None, LOCAL, state=state), {})
    assert data["unfinished"] == [
        {"address": "demo/server", "key": record.key, "begun": "staged"}
    ]


@given(VALUES, VALUES, NASTY, NASTY)
def test_json_round_trips(
    before: JsonValue, after: JsonValue, path: str, detail: str
) -> None:
    plan = with_reason(path, before, after, detail)
    data = plan_data(plan, {path: Place(detail, 1, 2)})
    assert json.loads(json.dumps(data, allow_nan=True)) == data


@given(VALUES, VALUES, NASTY, NASTY)
def test_no_value_moves_the_cursor_or_hides_what_follows(
    before: JsonValue, after: JsonValue, path: str, detail: str
) -> None:
    plan = with_reason(path, before, after, detail)
    text = plan_text(plan, {path: Place(detail, 1, 2)}, steps=True)
    plain = plan_text(with_reason("p", 1, 2, "d"), {}, steps=True)
    assert text.count("\n") == plain.count("\n")
    for character in text.replace("\n", ""):
        assert unicodedata.category(character) not in ("Cc", "Cf", "Zl", "Zp")


@given(st.text())
def test_printable_keeps_what_prints(text: str) -> None:
    assert printable(text).isprintable()
    if text.isprintable():
        assert printable(text) == text


def test_drift_is_told_in_every_form() -> None:
    drift = (Drift("demo/server", "pid 4711 is gone"),)
    plan = planned(LOCAL, LOCAL, drift=drift)
    assert "drift    demo/server: pid 4711 is gone" in plan_text(plan, {})
    assert '"detail": "pid 4711 is gone"' in json.dumps(plan_data(plan, {}))


def test_a_plan_has_the_same_name_only_for_the_same_changes() -> None:
    ids = {
        planned(LOCAL, LOCAL).id,
        planned(LOCAL, WIDER).id,
        planned(LOCAL, LOCAL + "rollout: {keep: 4}\n").id,
        planned(LOCAL, LOCAL + "rollout: {keep: 5}\n").id,
        planned(LOCAL, LOCAL, state=replace(deployed(LOCAL), serial=8)).id,
    }
    assert len(ids) == 5
    assert planned(LOCAL, WIDER).id == planned(LOCAL, WIDER).id


def change_of(plan: Plan, kind: Kind) -> Change:
    found = plan.change(kind)
    assert found is not None
    return found


def test_a_removed_server_is_described_from_its_record() -> None:
    change = change_of(planned(LOCAL, None), Kind.SERVER)
    assert "http://127.0.0.1:8080 · tiny" in plan_text(planned(LOCAL, None), {})
    assert change.after is None


def test_the_time_of_an_apply_is_told_by_step_and_adds_up() -> None:
    steps = steps_of(planned(None, LOCAL))
    words = [step_text(step).split()[0] for step in steps]
    assert words == ["build", "stage", "check", "promote"]
    line = took_line([*zip(steps, (30.0, 6.0, 4.0, 0.1), strict=True)])
    assert line == "took 40 s: build and fetch 30 s, stage 6.0 s, check 4.0 s"
    assert took_line([(steps[0], 30.0), (steps[1], 2.0), (steps[1], 3.0)]) == (
        "took 35 s: build and fetch 30 s, stage 5.0 s"
    )
    assert took_line([(steps[0], 0.4)]) == ""
