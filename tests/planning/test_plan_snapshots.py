"""Plans on engines that take memory snapshots."""

from deployer.planning.plan import Drift
from deployer.planning.steps import steps_of
from deployer.show.text import step_text
from tests.planning.checking import (
    DROPS,
    KEEPS,
    LOCAL,
    MODAL,
    PLAIN,
    SNAPSHOT,
    but,
    check,
    planned,
)


def test_a_new_stack_has_four_resources() -> None:
    check(
        None,
        SNAPSHOT,
        """\
  + build    llama-server b9763 · CUDA 12.8.1 · 11.0 MB               build
  + weights  tiny.gguf · 253.0 MB                                     fetch
  + snapshot                                                          snapshot
  + server                                                            deploy
  ◌ gates    2 run on the candidate before promotion: health, auth
Plan: 1 to build, 1 to fetch, 1 to snapshot, 1 to deploy.
""",
        abilities=KEEPS,
    )


def test_nothing_changed() -> None:
    check(
        SNAPSHOT,
        SNAPSHOT,
        """\
No changes: what is live is what the stack says.
""",
        abilities=DROPS,
    )


def test_ctx_size_needs_a_new_snapshot_and_the_server_with_it() -> None:
    check(
        SNAPSHOT,
        but(SNAPSHOT, "4096", "8192"),
        """\
  ± snapshot                                                          re-snapshot
      server.ctx_size   4096 → 8192
  ± server                                                            redeploy
      because snapshot is replaced
  ◌ gates    2 run on the candidate before promotion: health, auth
Plan: 1 to snapshot, 1 to deploy.
""",
        abilities=KEEPS,
    )


def test_another_build_needs_a_new_snapshot() -> None:
    check(
        SNAPSHOT,
        but(SNAPSHOT, "b9763", "b9999"),
        """\
  ± build    llama-server b9999 · CUDA 12.8.1 · 11.0 MB               rebuild
      llama_cpp.tag   b9763 → b9999
  ± snapshot                                                          re-snapshot
      because build is replaced
  ± server                                                            redeploy
      because build is replaced
      because snapshot is replaced
  ◌ gates    2 run on the candidate before promotion: health, auth
Plan: 1 to build, 1 to snapshot, 1 to deploy.
""",
        abilities=KEEPS,
    )


def test_a_gpu_needs_a_new_snapshot() -> None:
    check(
        SNAPSHOT,
        but(SNAPSHOT, "gpu: L4", "gpu: L40S"),
        """\
  ± snapshot                                                          re-snapshot
      gpu   L4 → L40S
  ± server                                                            redeploy
      because snapshot is replaced
  ◌ gates    2 run on the candidate before promotion: health, auth
Plan: 1 to snapshot, 1 to deploy.
""",
        abilities=KEEPS,
    )


def test_auth_restarts_from_the_same_snapshot() -> None:
    check(
        SNAPSHOT,
        but(SNAPSHOT, "env: KEY", "env: OTHER"),
        """\
  ± server                                                            redeploy
      auth.api_key.env   KEY → OTHER
  ◌ gates    2 run on the candidate before promotion: health, auth
Plan: 1 to deploy.
""",
        abilities=KEEPS,
    )


def test_auth_needs_a_new_snapshot_where_a_restart_drops_it() -> None:
    check(
        SNAPSHOT,
        but(SNAPSHOT, "env: KEY", "env: OTHER"),
        """\
  ± snapshot                                                          re-snapshot
      auth.api_key.env   KEY → OTHER
  ± server                                                            redeploy
      because snapshot is replaced
  ◌ gates    2 run on the candidate before promotion: health, auth
Plan: 1 to snapshot, 1 to deploy.
""",
        abilities=DROPS,
    )


def test_scaling_is_updated_in_place_even_where_a_restart_drops_it() -> None:
    check(
        SNAPSHOT,
        but(SNAPSHOT, "min_containers: 0", "min_containers: 1"),
        """\
  ~ server                                                            update in place
      scaling.min_containers   0 → 1
Plan: 1 to update in place.
""",
        abilities=DROPS,
    )


def test_a_warm_up_request_needs_a_new_snapshot() -> None:
    check(
        SNAPSHOT,
        but(
            SNAPSHOT,
            "{enabled: true}",
            "{enabled: true, warmup: [{prompt: Hello, max_tokens: 8}]}",
        ),
        """\
  ± snapshot 1 warm-up request                                        re-snapshot
      snapshot.warmup   unset → [{prompt: Hello, max_tokens: 8}]
  ± server                                                            redeploy
      because snapshot is replaced
  ◌ gates    2 run on the candidate before promotion: health, auth
Plan: 1 to snapshot, 1 to deploy.
""",
        abilities=KEEPS,
    )


def test_prime_is_noted() -> None:
    check(
        SNAPSHOT,
        but(SNAPSHOT, "{enabled: true}", "{enabled: true, prime: 3}"),
        """\
  · server                                                            note
      snapshot.prime   unset → 3
Plan: 1 to note.
""",
        abilities=KEEPS,
    )


def test_auto_that_becomes_true_is_noted() -> None:
    before = but(SNAPSHOT, "true", "auto")
    check(
        before,
        SNAPSHOT,
        """\
  · server                                                            note
      snapshot.enabled   auto → true
Plan: 1 to note.
""",
        abilities=KEEPS,
    )


def test_idle_is_an_option_of_the_server_and_so_in_the_snapshot() -> None:
    before = LOCAL + "snapshot: {}\n"
    check(
        before,
        LOCAL + "snapshot: {idle: 5m}\n",
        """\
  ± snapshot                                                          re-snapshot
      snapshot.idle   unset → 5m
  ± server   http://127.0.0.1:8080                                    redeploy
      because snapshot is replaced
  ◌ gates    1 runs on the candidate before promotion: health
Plan: 1 to snapshot, 1 to deploy.
""",
        abilities=KEEPS,
    )


def test_idle_means_something_without_snapshots_too() -> None:
    before = LOCAL + "snapshot: {}\n"
    check(
        before,
        LOCAL + "snapshot: {idle: 5m}\n",
        """\
  ± server   http://127.0.0.1:8080 · tiny                             redeploy
      snapshot.idle   unset → 5m
  ◌ gates    1 runs on the candidate before promotion: health
Plan: 1 to deploy.
""",
        abilities=PLAIN,
    )


WARMED = LOCAL + "snapshot: {warmup: [{prompt: Hello, timeout: 5s}]}\n"


def test_how_long_a_warm_up_may_take_is_not_in_the_snapshot() -> None:
    check(
        WARMED,
        but(WARMED, "5s", "9s"),
        """\
  · snapshot 1 warm-up request                                        note
      snapshot.warmup   [{prompt: Hello, timeout: 5s}] → [{prompt: Hello, timeout: 9s}]
Plan: 1 to note.
""",
        abilities=KEEPS,
    )


def test_a_key_where_there_was_none_needs_a_new_snapshot() -> None:
    before = LOCAL + "snapshot: {}\n"
    check(
        before,
        before + "auth: {api_key: {env: KEY}}\n",
        """\
  ± snapshot                                                          re-snapshot
      auth   unset → true
  ± server   http://127.0.0.1:8080                                    redeploy
      because snapshot is replaced
      auth.api_key.env   unset → KEY
      gates.auth   unset → {}
  ◌ gates    2 run on the candidate before promotion: health, auth
Plan: 1 to snapshot, 1 to deploy.
""",
        abilities=KEEPS,
    )


def test_another_port_is_served_from_the_same_snapshot() -> None:
    before = LOCAL + "snapshot: {}\n"
    check(
        before,
        before + "local: {port: 9000}\n",
        """\
  ± server   http://127.0.0.1:9000                                    redeploy
      local.port   8080 → 9000
  ◌ gates    1 runs on the candidate before promotion: health
Plan: 1 to deploy.
""",
        abilities=KEEPS,
    )


DAMAGE = (Drift("demo/snapshot", "the image is damaged: a file is gone"),)


def test_a_damaged_snapshot_is_taken_anew_while_the_server_serves_on() -> None:
    check(
        WARMED,
        WARMED,
        """\
  ! drift    demo/snapshot: the image is damaged: a file is gone
  ± snapshot 1 warm-up request                                        re-snapshot
      because it drifted
Plan: 1 to snapshot.
""",
        abilities=KEEPS,
        drift=DAMAGE,
    )


def test_what_is_made_room_for_comes_back_after_the_snapshot() -> None:
    replaces = WARMED + "rollout: {strategy: replace}\n"
    plan = planned(replaces, replaces, abilities=KEEPS, drift=DAMAGE)
    steps = [step_text(step).split(" ")[:2] for step in steps_of(plan)]
    assert steps == [
        ["stop", "demo/server"],
        ["snapshot", "demo/snapshot"],
        ["start", "demo/server"],
        ["note", "demo/build,"],
    ]


def test_a_new_snapshot_is_taken_once_there_is_room_for_it() -> None:
    replaces = WARMED + "rollout: {strategy: replace}\n"
    plan = planned(replaces, but(replaces, "4096", "8192"), abilities=KEEPS)
    steps = [step_text(step).split(" ")[0] for step in steps_of(plan)]
    assert steps == ["stop", "snapshot", "stage", "check", "promote", "retire"]


def test_turned_on_no_field_is_blamed_that_did_not_change() -> None:
    check(
        MODAL,
        SNAPSHOT,
        """\
  + snapshot                                                          snapshot
  ± server                                                            redeploy
      because snapshot is new
      snapshot.enabled   unset → true
  ◌ gates    2 run on the candidate before promotion: health, auth
Plan: 1 to snapshot, 1 to deploy.
""",
        abilities=KEEPS,
    )


def test_turned_on_with_another_change() -> None:
    after = but(SNAPSHOT, "4096", "8192")
    check(
        MODAL,
        after,
        """\
  + snapshot                                                          snapshot
  ± server                                                            redeploy
      because snapshot is new
      server.ctx_size   4096 → 8192
      snapshot.enabled   unset → true
  ◌ gates    2 run on the candidate before promotion: health, auth
Plan: 1 to snapshot, 1 to deploy.
""",
        abilities=KEEPS,
    )


def test_turned_off_the_snapshot_goes() -> None:
    check(
        SNAPSHOT,
        MODAL,
        """\
  ± server                                                            redeploy
      because snapshot is removed
      snapshot.enabled   true → unset
  - snapshot                                                          remove
      no longer asked for
  ◌ gates    2 run on the candidate before promotion: health, auth
Plan: 1 to deploy, 1 to remove.
""",
        abilities=KEEPS,
    )


def test_turned_off_by_its_switch_the_snapshot_goes() -> None:
    check(
        SNAPSHOT,
        but(SNAPSHOT, "true", "false"),
        """\
  ± server                                                            redeploy
      because snapshot is removed
      snapshot.enabled   true → unset
  - snapshot                                                          remove
      no longer asked for
  ◌ gates    2 run on the candidate before promotion: health, auth
Plan: 1 to deploy, 1 to remove.
""",
        abilities=DROPS,
    )


def test_turned_off_with_another_change() -> None:
    after = but(MODAL, "4096", "8192")
    check(
        SNAPSHOT,
        after,
        """\
  ± server                                                            redeploy
      because snapshot is removed
      server.ctx_size   4096 → 8192
      snapshot.enabled   true → unset
  - snapshot                                                          remove
      no longer asked for
  ◌ gates    2 run on the candidate before promotion: health, auth
Plan: 1 to deploy, 1 to remove.
""",
        abilities=DROPS,
    )


def test_an_engine_without_them_sees_no_snapshot_section() -> None:
    check(
        MODAL,
        SNAPSHOT,
        """\
No changes: what is live is what the stack says.
""",
        abilities=PLAIN,
    )
