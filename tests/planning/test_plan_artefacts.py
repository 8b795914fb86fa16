"""What a change of the build or the weights costs."""

from deployer.testing import facts
from tests.planning.checking import LOCAL, MODAL, but, check

REORDERED = """\
# how the smallest model is served
server: {ctx_size: 4096}
model:
  alias: "tiny"   # its name in answers
  path: tiny.gguf
llama_cpp: {package: llama-bin==1.0, tag: b9763}
engine: local
name: demo
version: 1
"""


def test_a_new_stack_is_created() -> None:
    check(
        None,
        LOCAL,
        """\
  + build    llama-server b9763 · llama-bin==1.0 · 11.0 MB            build
  + weights  tiny.gguf · 253.0 MB                                     fetch
  + server   http://127.0.0.1:8080 · tiny                             deploy
  ◌ gates    1 runs on the candidate before promotion: health
Plan: 1 to build, 1 to fetch, 1 to deploy.
""",
    )


def test_nothing_changed() -> None:
    check(
        LOCAL,
        LOCAL,
        """\
No changes: what is live is what the stack says.
""",
    )


def test_comments_and_order_change_nothing() -> None:
    check(
        LOCAL,
        REORDERED,
        """\
No changes: what is live is what the stack says.
""",
    )


def test_an_empty_section_says_nothing() -> None:
    check(
        LOCAL,
        LOCAL + "scaling: {}\nmodal: {}\n",
        """\
No changes: what is live is what the stack says.
""",
    )


def test_another_tag_is_another_build_and_restarts_the_server() -> None:
    check(
        LOCAL,
        but(LOCAL, "b9763", "b9999"),
        """\
  ± build    llama-server b9999 · llama-bin==1.0 · 11.0 MB            rebuild
      llama_cpp.tag   b9763 → b9999
  ± server   http://127.0.0.1:8080 · tiny                             redeploy
      because build is replaced
  ◌ gates    1 runs on the candidate before promotion: health
Plan: 1 to build, 1 to deploy.
""",
    )


def test_a_tag_with_the_same_facts_is_noted() -> None:
    check(
        LOCAL,
        but(LOCAL, "b9763", "b9764"),
        """\
  · build    llama-server b9764 · llama-bin==1.0 · 11.0 MB            note
      llama_cpp.tag   b9763 → b9764
Plan: 1 to note.
""",
        facts_before=facts(),
        facts_after=facts(),
    )


def test_a_tag_that_spells_an_option_differently_restarts_the_server() -> None:
    before = LOCAL + "  ui: false\n"
    after = but(before, "b9763", "b9000")
    check(
        before,
        after,
        """\
  · build    llama-server b9000 · llama-bin==1.0 · 11.0 MB            note
      llama_cpp.tag   b9763 → b9000
  ± server   http://127.0.0.1:8080 · tiny                             redeploy
      because the command line is spelled differently: [--no-ui] → [--no-webui]
  ◌ gates    1 runs on the candidate before promotion: health
Plan: 1 to deploy, 1 to note.
""",
        facts_before=facts(),
        facts_after=facts(),
    )


def test_a_package_with_the_same_binary_is_noted() -> None:
    check(
        LOCAL,
        but(LOCAL, "llama-bin==1.0", "llama-bin==1.0.post1"),
        """\
  · build    llama-server b9763 · llama-bin==1.0.post1 · 11.0 MB      note
      llama_cpp.package   llama-bin==1.0 → llama-bin==1.0.post1
Plan: 1 to note.
""",
        facts_before=facts(),
        facts_after=facts(),
    )


def test_a_fact_that_moved_without_a_field_is_a_reason() -> None:
    check(
        LOCAL,
        LOCAL,
        """\
  ± build    llama-server b9763 · llama-bin==1.0 · 11.0 MB            rebuild
      lock.sha256   ac8d8342bbb2 → c100f95c1913
  ± server   http://127.0.0.1:8080 · tiny                             redeploy
      because build is replaced
  ◌ gates    1 runs on the candidate before promotion: health
Plan: 1 to build, 1 to deploy.
""",
        facts_before=facts(build="a"),
        facts_after=facts(build="b"),
    )


def test_a_cuda_version_is_another_build() -> None:
    check(
        MODAL,
        but(MODAL, "12.8.1", "12.9.0"),
        """\
  ± build    llama-server b9763 · CUDA 12.9.0 · 11.0 MB               rebuild
      llama_cpp.cuda   12.8.1 → 12.9.0
  ± server                                                            redeploy
      because build is replaced
  ◌ gates    2 run on the candidate before promotion: health, auth
Plan: 1 to build, 1 to deploy.
""",
    )


def test_cmake_definitions_are_another_build() -> None:
    before = but(MODAL, "{tag: b9763,", "{tag: b9763, cmake: [A=1],")
    after = but(before, "[A=1]", "[A=1, B=2]")
    check(
        before,
        after,
        """\
  ± build    llama-server b9763 · CUDA 12.8.1 · 11.0 MB               rebuild
      llama_cpp.cmake   [A=1] → [A=1, B=2]
  ± server                                                            redeploy
      because build is replaced
  ◌ gates    2 run on the candidate before promotion: health, auth
Plan: 1 to build, 1 to deploy.
""",
    )


def test_a_patch_is_another_build() -> None:
    before = but(MODAL, "{tag: b9763,", "{tag: b9763, patches: [one],")
    after = but(before, "[one]", "[one, two]")
    check(
        before,
        after,
        """\
  ± build    llama-server b9763 + 2 patches · CUDA 12.8.1 · 11.0 MB   rebuild
      llama_cpp.patches   [one] → [one, two]
  ± server                                                            redeploy
      because build is replaced
  ◌ gates    2 run on the candidate before promotion: health, auth
Plan: 1 to build, 1 to deploy.
""",
    )


def test_patches_in_another_order_are_another_build() -> None:
    before = but(MODAL, "{tag: b9763,", "{tag: b9763, patches: [one, two],")
    after = but(before, "[one, two]", "[two, one]")
    check(
        before,
        after,
        """\
  ± build    llama-server b9763 + 2 patches · CUDA 12.8.1 · 11.0 MB   rebuild
      llama_cpp.patches   [one, two] → [two, one]
  ± server                                                            redeploy
      because build is replaced
  ◌ gates    2 run on the candidate before promotion: health, auth
Plan: 1 to build, 1 to deploy.
""",
    )


def test_a_pinned_commit_is_validated_on_what_is_live() -> None:
    check(
        LOCAL,
        but(LOCAL, "{tag: b9763,", "{tag: b9763, commit: 0123abc,"),
        """\
  ◌ server   http://127.0.0.1:8080 · tiny                             re-validate
      llama_cpp.commit   unset → 0123abc
  ◌ gates    1 runs on what is live: health
Plan: 1 to re-validate.
""",
    )


def test_other_weights_restart_the_server() -> None:
    check(
        LOCAL,
        but(LOCAL, "tiny.gguf", "small.gguf"),
        """\
  ± weights  tiny.gguf · 253.0 MB                                     re-fetch
      model.path   tiny.gguf → small.gguf
  ± server   http://127.0.0.1:8080 · tiny                             redeploy
      because weights are replaced
  ◌ gates    1 runs on the candidate before promotion: health
Plan: 1 to fetch, 1 to deploy.
""",
    )


def test_a_mirror_with_the_same_file_is_noted() -> None:
    check(
        MODAL,
        but(MODAL, "some/model-GGUF", "other/mirror-GGUF"),
        """\
  · weights  tiny.gguf · 253.0 MB                                     note
      model.repo   some/model-GGUF → other/mirror-GGUF
Plan: 1 to note.
""",
        facts_before=facts(),
        facts_after=facts(),
    )


def test_a_quant_is_other_weights() -> None:
    check(
        MODAL,
        but(MODAL, "Q4_K_M", "Q8_0"),
        """\
  ± weights  tiny.gguf · 253.0 MB                                     re-fetch
      model.quant   Q4_K_M → Q8_0
  ± server                                                            redeploy
      because weights are replaced
  ◌ gates    2 run on the candidate before promotion: health, auth
Plan: 1 to fetch, 1 to deploy.
""",
    )
