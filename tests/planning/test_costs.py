"""What a plan on Modal says about money, with the arithmetic in full."""

from dataclasses import replace
from pathlib import Path

import pytest

from deployer.cli.comment import comment_of
from deployer.engines import place
from deployer.llama.known.tables import prices
from deployer.planning.costs import Costs, Pace, costs_of, rate_of
from deployer.planning.facts import Facts
from deployer.planning.plan import Plan
from deployer.show.data import plan_data
from deployer.show.text import plan_text
from deployer.stack.fields.model import GPUS
from deployer.stack.fields.values import Flat
from deployer.testing import facts
from deployer.usecases.plan_file import Bound, SavedPlan, Shown
from tests.planning.checking import DROPS, LOCAL, MODAL, SNAPSHOT, but, planned

GB = 10**9
PACE = Pace()
LISTED = prices()


def sized(size: int) -> Facts:
    """Facts of weights with so many bytes."""
    known = facts()
    about = {**known.weights.about, "size": size}
    return replace(known, weights=replace(known.weights, about=about))


def on_modal(before: str | None, after: str | None) -> Plan:
    size = sized(10 * GB)
    return planned(before, after, abilities=DROPS, facts_before=size, facts_after=size)


def text_of(plan: Plan) -> str:
    return plan_text(plan, {}, costs=place.costs_of(plan))


def per_second(gpu: float, cores: float, gib: float) -> float:
    return gpu + cores * 0.0000131 + gib * 0.00000222


def test_prices_name_their_day_and_their_source() -> None:
    assert LISTED.as_of == "2026-09-01"
    assert LISTED.source == "https://modal.com/pricing"
    assert set(LISTED.gpu) == set(GPUS)


@pytest.mark.parametrize(
    ("gpu", "hour"),
    [("T4", 0.59), ("L4", 0.80), ("L40S", 1.95), ("H100", 3.95), ("B300", 7.10)],
)
def test_an_hour_of_a_gpu_costs_what_the_list_says(gpu: str, hour: float) -> None:
    assert LISTED.gpu[gpu] * 3600 == pytest.approx(hour, abs=0.005)


def test_a_container_costs_its_gpu_its_cores_and_its_memory() -> None:
    """4 cores beside a GPU; 10 GB of weights, 5 % and 4 GiB make 14 GiB."""
    expected = per_second(LISTED.gpu["L4"], 4, 14)
    assert rate_of({"gpu": "L4"}, 10 * GB, LISTED) == pytest.approx(expected)


def test_several_gpus_cost_as_many_and_of_a_list_the_first_counts() -> None:
    one = rate_of({"gpu": "L4"}, 0, LISTED)
    assert rate_of({"gpu": "L4:3"}, 0, LISTED) - one == pytest.approx(
        2 * LISTED.gpu["L4"]
    )
    assert rate_of({"gpu": ["L4", "H100"]}, 0, LISTED) == one


def test_without_a_gpu_there_are_cores_to_pay() -> None:
    assert rate_of({}, 0, LISTED) == pytest.approx(per_second(0, 8, 4))
    assert rate_of({"server.threads": 3}, 0, LISTED) == pytest.approx(
        per_second(0, 3, 4)
    )


def test_given_sizes_are_what_is_paid() -> None:
    given: Flat = {"modal.cpu": 2, "modal.memory": "1GiB", "gpu": "T4"}
    expected = per_second(LISTED.gpu["T4"], 2, 1)
    assert rate_of(given, 10 * GB, LISTED) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("region", "times"), [("us", 1.5), ("eu", 1.5), ("us-west", 1.75)]
)
def test_a_region_multiplies_everything(region: str, times: float) -> None:
    plain = rate_of({"gpu": "L4"}, GB, LISTED)
    chosen = rate_of({"gpu": "L4", "modal.region": region}, GB, LISTED)
    assert chosen == pytest.approx(times * plain)


def test_a_first_apply_builds_fetches_tries_and_proves() -> None:
    found = costs_of(on_modal(None, MODAL), LISTED)
    rate = per_second(LISTED.gpu["L4"], 4, 14)
    start = PACE.start + 10 * GB / PACE.read
    builder = per_second(0, 16, 16)
    assert found.parts == {
        "build": pytest.approx((PACE.prepare + PACE.build / 16) * builder),
        "fetch": pytest.approx(10 * GB / PACE.download * per_second(0, 8, 8)),
        "tryout": pytest.approx(start * rate),
        "candidate": pytest.approx((start + 2 * PACE.gate + 60) * rate),
        "production": pytest.approx((start + 300) * rate),
    }
    assert found.apply == pytest.approx(sum(found.parts.values()))
    assert found.awake == pytest.approx(3600 * rate)


def test_a_capture_is_paid_for_each_start_that_makes_one() -> None:
    primed = but(SNAPSHOT, "enabled: true", "enabled: true, prime: 3")
    one, three = (
        costs_of(on_modal(None, SNAPSHOT), LISTED),
        costs_of(on_modal(None, primed), LISTED),
    )
    rate = per_second(LISTED.gpu["L4"], 4, 14)
    first = PACE.start + 10 * GB / PACE.read + 10 * GB / PACE.capture
    more = three.parts["candidate"] - one.parts["candidate"]
    assert more == pytest.approx(2 * first * rate)


def test_a_restore_gate_wakes_the_candidate_once_more() -> None:
    asked = SNAPSHOT + "gates: {restore: {}}\n"
    assert "restore" in costs_of(on_modal(None, asked), LISTED).parts
    assert "restore" not in costs_of(on_modal(None, SNAPSHOT), LISTED).parts


def test_what_changes_in_place_costs_nothing() -> None:
    plan = on_modal(MODAL, but(MODAL, "300", "120"))
    assert costs_of(plan, LISTED).apply == 0
    assert "  $ costs    nothing for this apply · about $1.1" in text_of(plan)


def test_what_is_ready_is_not_paid_again() -> None:
    plan = on_modal(MODAL, but(MODAL, "4096", "8192"))
    assert {"build", "fetch"}.isdisjoint(costs_of(plan, LISTED).parts)


def test_a_plan_says_about_what_it_costs_in_every_form() -> None:
    plan = on_modal(MODAL, but(MODAL, "4096", "8192"))
    found = costs_of(plan, LISTED)
    said = (
        f"about ${found.apply:.2f} for this apply · "
        f"about ${found.awake:.2f}/h while awake · ≤ $0.84/month stored"
    )
    assert f"  $ costs    {said}\n" in text_of(plan)
    saved = SavedPlan("f", Bound("", "", "", "", ""), Shown(), plan, {}, ())
    assert f"  costs    {said}\n" in comment_of(saved, Path("f"))
    data = plan_data(plan, {}, costs=found)["costs"]
    assert isinstance(data, dict)
    assert data["apply"] == round(found.apply, 4)
    assert data["currency"] == "USD"
    assert data["storage_month"] == round(10 * GB / 2**30 * 0.09, 4)
    assert data["prices"] == {"as_of": "2026-09-01", "source": LISTED.source}


def test_containers_that_never_sleep_are_told() -> None:
    awake = but(MODAL, "min_containers: 0", "min_containers: 2")
    text = text_of(on_modal(MODAL, awake))
    assert "about 2 times $1.10/h always awake" in text


@pytest.mark.parametrize(
    ("before", "after"), [(MODAL, MODAL), (MODAL, None), (None, LOCAL)]
)
def test_no_money_is_mentioned_where_nothing_is_billed(
    before: str | None, after: str | None
) -> None:
    plan = on_modal(before, after)
    assert "costs" not in text_of(plan)


def test_other_prices_can_be_asked() -> None:
    free = LISTED._replace(core=0, gib=0, gpu=dict.fromkeys(GPUS, 0.0))
    found = costs_of(on_modal(None, MODAL), free)
    assert isinstance(found, Costs)
    assert found.apply == 0
