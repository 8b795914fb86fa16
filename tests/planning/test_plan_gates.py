"""Gates in a plan: what they look at, and why they run."""

from tests.planning.checking import LOCAL, MODAL, but, check

GATED = LOCAL + "gates: {chat: {}, speed: {ttft: 2s}}\n"


def test_gates_that_are_added_run_on_what_is_live() -> None:
    check(
        LOCAL,
        GATED,
        """\
  ◌ server   http://127.0.0.1:8080 · tiny                             re-validate
      gates.chat   unset → {}
      gates.speed.ttft   unset → 2s
  ◌ gates    3 run on what is live: health, chat, speed
Plan: 1 to re-validate.
""",
    )


def test_a_gate_option_runs_the_gates_on_what_is_live() -> None:
    check(
        GATED,
        but(GATED, "2s", "1s"),
        """\
  ◌ server   http://127.0.0.1:8080 · tiny                             re-validate
      gates.speed.ttft   2s → 1s
  ◌ gates    3 run on what is live: health, chat, speed
Plan: 1 to re-validate.
""",
    )


def test_a_gate_that_is_removed_is_validated_without() -> None:
    check(
        GATED,
        but(GATED, "chat: {}, ", ""),
        """\
  ◌ server   http://127.0.0.1:8080 · tiny                             re-validate
      gates.chat   {} → unset
  ◌ gates    2 run on what is live: health, speed
Plan: 1 to re-validate.
""",
    )


def test_all_gates_removed_leaves_health() -> None:
    check(
        GATED,
        LOCAL,
        """\
  ◌ server   http://127.0.0.1:8080 · tiny                             re-validate
      gates.chat   {} → unset
      gates.speed.ttft   2s → unset
  ◌ gates    1 runs on what is live: health
Plan: 1 to re-validate.
""",
    )


def test_a_candidate_runs_all_gates() -> None:
    check(
        GATED,
        but(GATED, "4096", "8192"),
        """\
  ± server   http://127.0.0.1:8080 · tiny                             redeploy
      server.ctx_size   4096 → 8192
  ◌ gates    3 run on the candidate before promotion: health, chat, speed
Plan: 1 to deploy.
""",
    )


def test_a_time_limit_written_otherwise_changes_nothing() -> None:
    before = LOCAL + "gates: {speed: {ttft: 1m30s}}\n"
    after = LOCAL + "gates: {speed: {ttft: 90}}\n"
    check(
        before,
        after,
        """\
No changes: what is live is what the stack says.
""",
    )


def test_gates_and_scaling_change_together_in_place() -> None:
    after = but(MODAL, "min_containers: 0", "min_containers: 2")
    check(
        MODAL,
        after + "gates: {chat: {}}\n",
        """\
  ~ server                                                            update in place
      gates.chat   unset → {}
      scaling.min_containers   0 → 2
  ◌ gates    3 run on what is live: health, chat, auth
Plan: 1 to update in place.
""",
    )


def test_gates_and_ctx_size_change_together_with_one_candidate() -> None:
    after = but(LOCAL, "4096", "8192")
    check(
        LOCAL,
        after + "gates: {chat: {contains: hello}}\n",
        """\
  ± server   http://127.0.0.1:8080 · tiny                             redeploy
      gates.chat.contains   unset → hello
      server.ctx_size   4096 → 8192
  ◌ gates    2 run on the candidate before promotion: health, chat
Plan: 1 to deploy.
""",
    )
