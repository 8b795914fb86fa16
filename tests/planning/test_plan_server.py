"""What a change of a field of the server costs, on an engine without snapshots."""

from tests.planning.checking import LOCAL, MODAL, but, check


def test_ctx_size_restarts_the_server() -> None:
    check(
        LOCAL,
        but(LOCAL, "4096", "8192"),
        """\
  ± server   http://127.0.0.1:8080 · tiny                             redeploy
      server.ctx_size   4096 → 8192
  ◌ gates    1 runs on the candidate before promotion: health
Plan: 1 to deploy.
""",
    )


def test_an_alias_restarts_the_server() -> None:
    check(
        LOCAL,
        but(LOCAL, "alias: tiny", "alias: small"),
        """\
  ± server   http://127.0.0.1:8080 · small                            redeploy
      model.alias   tiny → small
  ◌ gates    1 runs on the candidate before promotion: health
Plan: 1 to deploy.
""",
    )


def test_an_option_that_is_dropped_restarts_the_server() -> None:
    check(
        LOCAL,
        but(LOCAL, "  ctx_size: 4096\n", "  {}\n"),
        """\
  ± server   http://127.0.0.1:8080 · tiny                             redeploy
      server.ctx_size   4096 → unset
  ◌ gates    1 runs on the candidate before promotion: health
Plan: 1 to deploy.
""",
    )


def test_a_switch_that_writes_no_word_is_noted() -> None:
    check(
        LOCAL,
        LOCAL + "  metrics: false\n",
        """\
  · server   http://127.0.0.1:8080 · tiny                             note
      server.metrics   unset → false
Plan: 1 to note.
""",
    )


def test_a_free_flag_that_is_added_changed_or_removed() -> None:
    before = LOCAL + "  flags: {keep: 1, prio: 2}\n"
    after = LOCAL + "  flags: {keep: 4, poll: 50}\n"
    check(
        before,
        after,
        """\
  ± server   http://127.0.0.1:8080 · tiny                             redeploy
      server.flags.keep   1 → 4
      server.flags.poll   unset → 50
      server.flags.prio   2 → unset
  ◌ gates    1 runs on the candidate before promotion: health
Plan: 1 to deploy.
""",
    )


def test_a_free_flag_with_the_same_word_is_noted() -> None:
    before = LOCAL + "  flags: {keep: 1}\n"
    after = LOCAL + "  flags: {keep: '1'}\n"
    check(
        before,
        after,
        """\
  · server   http://127.0.0.1:8080 · tiny                             note
      server.flags.keep   1 → "1"
Plan: 1 to note.
""",
    )


def test_chat_template_kwargs_in_another_order_change_nothing() -> None:
    before = LOCAL + "  chat_template_kwargs: {a: 1, b: 2}\n"
    after = LOCAL + "  chat_template_kwargs: {b: 2, a: 1}\n"
    check(
        before,
        after,
        """\
No changes: what is live is what the stack says.
""",
    )


def test_a_gpu_restarts_the_server() -> None:
    check(
        MODAL,
        but(MODAL, "gpu: L4", "gpu: L40S"),
        """\
  ± server                                                            redeploy
      gpu   L4 → L40S
  ◌ gates    2 run on the candidate before promotion: health, auth
Plan: 1 to deploy.
""",
    )


def test_the_variable_of_the_key_restarts_the_server() -> None:
    check(
        MODAL,
        but(MODAL, "env: KEY", "env: LLAMA_KEY"),
        """\
  ± server                                                            redeploy
      auth.api_key.env   KEY → LLAMA_KEY
  ◌ gates    2 run on the candidate before promotion: health, auth
Plan: 1 to deploy.
""",
    )


def test_auth_that_is_dropped_restarts_the_server() -> None:
    check(
        MODAL,
        but(MODAL, "auth: {api_key: {env: KEY}}\n", ""),
        """\
  ± server                                                            redeploy
      auth.api_key.env   KEY → unset
      gates.auth   {} → unset
  ◌ gates    1 runs on the candidate before promotion: health
Plan: 1 to deploy.
""",
    )


def test_a_port_restarts_the_server() -> None:
    before = LOCAL + "local: {port: 8081}\n"
    after = LOCAL + 'local: {port: 9090, host: "::1"}\n'
    check(
        before,
        after,
        """\
  ± server   http://[::1]:9090 · tiny                                 redeploy
      local.host   127.0.0.1 → ::1
      local.port   8081 → 9090
  ◌ gates    1 runs on the candidate before promotion: health
Plan: 1 to deploy.
""",
    )


def test_limits_of_the_local_engine_are_noted() -> None:
    check(
        LOCAL,
        LOCAL + "local: {start_timeout: 10m, drain: 5}\n",
        """\
  · server   http://127.0.0.1:8080 · tiny                             note
      local.drain   30s → 5
      local.start_timeout   5m → 10m
Plan: 1 to note.
""",
    )


def test_keep_and_strategy_are_noted() -> None:
    check(
        LOCAL,
        LOCAL + "rollout: {keep: 5, strategy: replace}\n",
        """\
  · server   http://127.0.0.1:8080 · tiny                             note
      rollout.keep   3 → 5
      rollout.strategy   unset → replace
Plan: 1 to note.
""",
    )


def test_a_duration_written_otherwise_changes_nothing() -> None:
    check(
        MODAL,
        but(MODAL, "scaledown_window: 300", "scaledown_window: 5m"),
        """\
No changes: what is live is what the stack says.
""",
    )


def test_scaling_is_updated_in_place() -> None:
    check(
        MODAL,
        but(
            MODAL,
            "min_containers: 0, scaledown_window: 300",
            "min_containers: 1, scaledown_window: 90s",
        ),
        """\
  ~ server                                                            update in place
      scaling.min_containers   0 → 1
      scaling.scaledown_window   300 → 90s
Plan: 1 to update in place.
""",
    )


def test_scaling_that_is_dropped_is_updated_in_place() -> None:
    check(
        MODAL,
        but(MODAL, "scaling: {min_containers: 0, scaledown_window: 300}\n", ""),
        """\
  ~ server                                                            update in place
      scaling.min_containers   0 → unset
      scaling.scaledown_window   300 → unset
Plan: 1 to update in place.
""",
    )


def test_what_only_modal_has_means_nothing_here() -> None:
    check(
        LOCAL,
        LOCAL + "scaling: {max_containers: 4}\nmodal: {region: eu}\n",
        """\
No changes: what is live is what the stack says.
""",
    )


def test_what_only_local_has_means_nothing_on_modal() -> None:
    check(
        MODAL,
        MODAL + "local: {port: 9}\nrollout: {strategy: replace}\n",
        """\
No changes: what is live is what the stack says.
""",
    )


def test_settings_of_modal_restart_the_server() -> None:
    check(
        MODAL,
        MODAL + "modal: {region: eu, memory: 16GiB}\n",
        """\
  ± server                                                            redeploy
      modal.memory   unset → 16GiB
      modal.region   unset → eu
  ◌ gates    2 run on the candidate before promotion: health, auth
Plan: 1 to deploy.
""",
    )


def test_a_size_written_otherwise_changes_nothing() -> None:
    before = MODAL + "modal: {memory: 16GiB}\n"
    after = MODAL + "modal: {memory: 17179869184}\n"
    check(
        before,
        after,
        """\
No changes: what is live is what the stack says.
""",
    )
