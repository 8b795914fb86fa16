"""Plans from states that are not simply live: crashed, drifted, destroyed."""

from dataclasses import replace

from deployer.diagnostics import Place
from deployer.planning.plan import Cause, Drift, rolled_back
from deployer.planning.state import (
    IN_DOUBT,
    Begun,
    Loose,
    Record,
    Release,
    State,
    node_of,
)
from deployer.testing import facts
from tests.planning.checking import LOCAL, MODAL, but, check, deployed, planned

WIDER = but(LOCAL, "4096", "8192")
OTHER_BUILD = but(LOCAL, "b9763", "b9999")


def _record(text: str, kind: str) -> Record:
    return deployed(text).live[f"demo/{kind}"]


def _promoting(text: str) -> State:
    """A run died between telling the engine to promote and hearing that it did."""
    state, new = deployed(LOCAL), deployed(text)
    release = Release(2, "2026-11-02T12:00:00+00:00", "apply", new.live)
    left = Loose(Begun.STAGED, new.live["demo/server"])
    return replace(state, loose=(left,), promoting=release)


def test_a_reason_points_at_the_line() -> None:
    places = {
        "server.ctx_size": Place("stacks/demo.yaml", 7, 3),
        "server": Place("stacks/demo.yaml", 6, 1),
    }
    check(
        LOCAL,
        WIDER,
        """\
  ± server   http://127.0.0.1:8080 · tiny                             redeploy
      server.ctx_size   4096 → 8192                         stacks/demo.yaml:7
  ◌ gates    1 runs on the candidate before promotion: health
Plan: 1 to deploy.
""",
        places=places,
    )


def test_an_unset_field_points_at_its_section() -> None:
    places = {"server": Place("stacks/demo.yaml", 6, 1)}
    after = but(LOCAL, "  ctx_size: 4096\n", "  {}\n")
    check(
        LOCAL,
        after,
        """\
  ± server   http://127.0.0.1:8080 · tiny                             redeploy
      server.ctx_size   4096 → unset                        stacks/demo.yaml:6
  ◌ gates    1 runs on the candidate before promotion: health
Plan: 1 to deploy.
""",
        places=places,
    )


def test_a_raised_recipe_is_a_reason_by_itself() -> None:
    live = deployed(LOCAL)
    old = {a: replace(r, key="0" * 64) for a, r in live.live.items()}
    needs = dict.fromkeys(("build", "weights"), "0" * 64)
    old["demo/server"] = replace(old["demo/server"], needs=needs)
    check(
        None,
        LOCAL,
        """\
  ± build    llama-server b9763 · llama-bin==1.0 · 11.0 MB            rebuild
      because this version of deployer makes it differently
  ± weights  tiny.gguf · 253.0 MB                                     re-fetch
      because this version of deployer makes it differently
  ± server   http://127.0.0.1:8080 · tiny                             redeploy
      because build is replaced
      because weights are replaced
  ◌ gates    1 runs on the candidate before promotion: health
Plan: 1 to build, 1 to fetch, 1 to deploy.
""",
        state=replace(live, live=old),
    )


def test_a_build_from_an_earlier_run_is_ready() -> None:
    made = {"demo/build": _record(OTHER_BUILD, "build")}
    state = replace(deployed(LOCAL), made=made)
    check(
        None,
        OTHER_BUILD,
        """\
  ± build    llama-server b9999 · llama-bin==1.0 · 11.0 MB            promote (ready)
      llama_cpp.tag   b9763 → b9999
  ± server   http://127.0.0.1:8080 · tiny                             redeploy
      because build is replaced
  ◌ gates    1 runs on the candidate before promotion: health
Plan: 1 to deploy.
""",
        state=state,
    )


def test_a_candidate_that_was_left_is_retired_first() -> None:
    left = Loose(Begun.STAGED, _record(WIDER, "server"))
    state = replace(deployed(LOCAL), loose=(left,))
    check(
        None,
        LOCAL,
        """\
  ! an earlier run left demo/server f0fc0d7a staged; it is retired first
Plan: to finish what an earlier run left.
""",
        state=state,
    )


def test_an_unwanted_build_that_was_begun_is_retired() -> None:
    left = Loose(Begun.STAGING, _record(OTHER_BUILD, "build"))
    state = replace(deployed(LOCAL), loose=(left,))
    check(
        None,
        LOCAL,
        """\
  ! an earlier run left demo/build 20c00cc1 staging; it is retired first
Plan: to finish what an earlier run left.
""",
        state=state,
    )


def test_a_build_that_was_begun_and_is_still_wanted_goes_on() -> None:
    left = Loose(Begun.STAGING, _record(OTHER_BUILD, "build"))
    state = replace(deployed(LOCAL), loose=(left,))
    check(
        None,
        OTHER_BUILD,
        """\
  ± build    llama-server b9999 · llama-bin==1.0 · 11.0 MB            rebuild
      llama_cpp.tag   b9763 → b9999
  ± server   http://127.0.0.1:8080 · tiny                             redeploy
      because build is replaced
  ◌ gates    1 runs on the candidate before promotion: health
Plan: 1 to build, 1 to deploy.
""",
        state=state,
    )


def test_a_promotion_that_stopped_is_resumed() -> None:
    check(
        None,
        WIDER,
        """\
  ! an earlier run stopped while promoting release 2
  ! an earlier run left demo/server b81d54de retiring; it is retired first
Plan: to finish what an earlier run left.
""",
        state=_promoting(WIDER),
    )


def test_a_promotion_that_stopped_is_resumed_before_anything_new() -> None:
    check(
        None,
        LOCAL,
        """\
  ! an earlier run stopped while promoting release 2
  ! an earlier run left demo/server b81d54de retiring; it is retired first
  ± server   http://127.0.0.1:8080 · tiny                             redeploy
      server.ctx_size   8192 → 4096
  ◌ gates    1 runs on the candidate before promotion: health
Plan: 1 to deploy.
""",
        state=_promoting(WIDER),
    )


def test_a_promotion_that_stopped_is_not_resumed_to_be_destroyed() -> None:
    check(
        None,
        None,
        """\
  ! an earlier run stopped while promoting release 2
  ! an earlier run left demo/server f0fc0d7a staged; it is retired first
  - server   http://127.0.0.1:8080 · tiny                             remove
      no longer asked for
  · weights  tiny.gguf · 253.0 MB                                     stays in the store
  · build    llama-server b9763 · llama-bin==1.0 · 11.0 MB            stays in the store
Plan: 1 to remove, 2 to stay in the store.
""",
        state=_promoting(WIDER),
    )


def test_a_server_that_was_stopped_to_make_room_is_started() -> None:
    state = deployed(LOCAL)
    left = Loose(Begun.STOPPED, state.live["demo/server"])
    check(
        None,
        LOCAL,
        """\
  ! drift    demo/server: an earlier run stopped it to make room
  ↻ server   http://127.0.0.1:8080 · tiny                             start
      because it drifted
Plan: 1 to start.
""",
        state=replace(state, loose=(left,)),
    )


def test_a_field_in_doubt_is_updated_whatever_the_stack_says() -> None:
    state = deployed(MODAL)
    server = state.live["demo/server"]
    fields = {**server.fields, "scaling.min_containers": IN_DOUBT}
    live = {**state.live, server.address: replace(server, fields=fields)}
    check(
        None,
        MODAL,
        """\
  ~ server                                                            update in place
      scaling.min_containers   in doubt → 0
Plan: 1 to update in place.
""",
        state=replace(state, live=live),
    )


def test_a_server_that_does_not_run_is_started() -> None:
    drift = (Drift("demo/server", "the process is gone"),)
    check(
        LOCAL,
        LOCAL,
        """\
  ! drift    demo/server: the process is gone
  ↻ server   http://127.0.0.1:8080 · tiny                             start
      because it drifted
Plan: 1 to start.
""",
        drift=drift,
    )


def test_drift_of_what_is_replaced_anyway_is_no_reason() -> None:
    drift = (Drift("demo/server", "the process is gone"),)
    check(
        LOCAL,
        WIDER,
        """\
  ! drift    demo/server: the process is gone
  ± server   http://127.0.0.1:8080 · tiny                             redeploy
      server.ctx_size   4096 → 8192
  ◌ gates    1 runs on the candidate before promotion: health
Plan: 1 to deploy.
""",
        drift=drift,
    )


def test_a_destroyed_stack_loses_all_from_the_server_down() -> None:
    check(
        LOCAL,
        None,
        """\
  - server   http://127.0.0.1:8080 · tiny                             remove
      no longer asked for
  · weights  tiny.gguf · 253.0 MB                                     stays in the store
  · build    llama-server b9763 · llama-bin==1.0 · 11.0 MB            stays in the store
Plan: 1 to remove, 2 to stay in the store.
""",
    )


def test_nothing_is_left_to_destroy() -> None:
    check(
        None,
        None,
        """\
No changes: what is live is what the stack says.
""",
    )


def test_what_was_being_made_again_when_a_run_died_is_made_once_more() -> None:
    build = _record(LOCAL, "build")
    state = replace(deployed(LOCAL), loose=(Loose(Begun.STAGING, build),))
    check(
        LOCAL,
        LOCAL,
        """\
  ! drift    demo/build: an earlier run died while it made it again
  ± build    llama-server b9763 · llama-bin==1.0 · 11.0 MB            rebuild
      because it drifted
Plan: 1 to build.
""",
        state=state,
    )


def test_a_value_that_was_recorded_in_another_form_is_a_difference() -> None:
    state = deployed(LOCAL)
    server = state.live["demo/server"]
    odd = replace(server, fields={**server.fields, "local.drain": "soon"})
    check(
        LOCAL,
        LOCAL,
        """\
  · server   http://127.0.0.1:8080 · tiny                             note
      local.drain   soon → 30s
Plan: 1 to note.
""",
        state=replace(state, live={**state.live, "demo/server": odd}),
    )


def test_another_fact_of_the_lock_file_is_told_apart_from_a_field() -> None:
    plan = planned(LOCAL, LOCAL, facts_after=facts(build="other"))
    (build, *_) = plan.changes
    assert {reason.cause for reason in build.reasons} == {Cause.LOCK}


def test_a_release_that_was_rolled_back_is_named_until_the_stack_changes() -> None:
    old, new = deployed(LOCAL), deployed(WIDER)
    releases = (
        Release(1, "2026-01-01T00:00:00+00:00", "apply", old.live),
        Release(2, "2026-01-01T00:00:00+00:00", "apply", new.live),
        Release(3, "2026-01-01T00:00:00+00:00", "rollback to 1", old.live),
    )
    state = replace(old, releases=releases, released=3)
    asked = {a: node_of(r) for a, r in new.live.items()}
    other = {a: replace(n, key="9" * 64) for a, n in asked.items()}
    live = {a: node_of(r) for a, r in old.live.items()}

    assert rolled_back(asked, state) == 2
    assert rolled_back(other, state) == 0
    assert rolled_back(live, state) == 0
    assert rolled_back(asked, replace(state, releases=releases[:2], live=new.live)) == 0
