"""Moving a Gemma 4 stack to another build, and back."""

import shutil
from pathlib import Path

import pytest

from deployer.errors import SourceError, UsageError
from deployer.planning.progress import unwatched
from deployer.stack.load import load
from deployer.usecases.context.settings import Settings
from deployer.usecases.upgrade import Upgrade, Wanted, upgrade, write

ROOT = Path(__file__).parents[1]

STACK = """\
# Production.
version: 1
name: gemma4-prod
engine: modal

llama_cpp:
  tag: b8672                        # the build
  patches: [gemma4-thinking-tags]   # thinking budgets
  cuda: "12.8.1"

model:
  repo: unsloth/gemma-4-26B-A4B-it-GGUF
  quant: UD-Q4_K_XL
  mmproj: F16

gpu: L40S

server:
  ctx_size: 32768
  mmap: false                       # intent: spelled as the build wants it
  ctx_checkpoints: 1
  flags:
    checkpoint-every-n-tokens: 4096 # spacing
    slot-prompt-similarity: 0.5     # unchanged

gates: {chat: {}, thinking_budget: {tokens: [0, 64]}}
auth: {open: nothing is deployed by these tests}
"""
DIFF = """\
@@ -4,8 +4,7 @@
 engine: modal
 ~
 llama_cpp:
-  tag: b8672                        # the build
-  patches: [gemma4-thinking-tags]   # thinking budgets
+  tag: b11434                       # the build
   cuda: "12.8.1"
 ~
 model:
@@ -20,7 +19,7 @@
   mmap: false                       # intent: spelled as the build wants it
   ctx_checkpoints: 1
   flags:
-    checkpoint-every-n-tokens: 4096 # spacing
+    checkpoint-min-step: 4096 # spacing
     slot-prompt-similarity: 0.5     # unchanged
 ~
 gates: {chat: {}, thinking_budget: {tokens: [0, 64]}}
""".replace(" ~\n", " \n")


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "patches", tmp_path / "patches")
    (tmp_path / "deployer.yaml").touch()
    (tmp_path / "stacks").mkdir()
    file = tmp_path / "stacks" / "prod.yaml"
    file.write_text(STACK, encoding="utf-8")
    return file


def moved(stack: Path, to: str) -> Upgrade:
    settings = Settings({"PATH": "/usr/bin:/bin"}, stack.parents[1] / "home")
    return upgrade(stack, settings, Wanted(to), unwatched)


def said(found: Upgrade, topic: str) -> list[str]:
    return [line.text.partition(":")[0] for line in found.lines if line.topic == topic]


def test_the_file_changes_where_it_has_to_and_nowhere_else(stack: Path) -> None:
    (file,) = moved(stack, "b11434").files

    assert file.diff.partition("@@")[1:] == DIFF.partition("@@")[1:]


def test_nothing_is_written_unless_asked(stack: Path) -> None:
    moved(stack, "b11434")

    assert stack.read_text(encoding="utf-8") == STACK


def test_what_the_build_means_is_told(stack: Path) -> None:
    found = moved(stack, "b11434")

    assert said(found, "patches") == ["gemma4-thinking-tags"]
    assert said(found, "traps left") == ["gemma4-early", "thinking-unbounded"]
    assert said(found, "traps entered") == []
    assert "`timeout`" in said(found, "defaults")
    assert "`tool_choice" in said(found, "server API")
    assert len(said(found, "weights")) == 1


def test_a_second_upgrade_has_nothing_to_do(stack: Path) -> None:
    write(moved(stack, "b11434"))
    again = moved(stack, "b11434")

    assert (again.files, again.lines) == ((), ())


def test_the_way_back_brings_the_old_spelling_and_says_what_is_missing(
    stack: Path,
) -> None:
    write(moved(stack, "b11434"))
    back = moved(stack, "b8672")
    write(back)

    flags = load(stack).stack.server
    assert flags is not None
    assert "checkpoint-every-n-tokens" in (flags.flags or {})
    assert "budget-ignored" in said(back, "traps entered")
    assert load(stack).stack.llama_cpp.tag == "b8672"


def test_the_file_that_holds_a_field_is_the_one_that_changes(stack: Path) -> None:
    over = stack.with_name("canary.yaml")
    over.write_text(
        "extends: prod.yaml\nname: canary\nllama_cpp: {tag: b8722} # ours\n",
        encoding="utf-8",
    )
    files = {file.path.name: file.diff for file in moved(over, "b11434").files}

    assert set(files) == {"canary.yaml", "prod.yaml"}
    assert "+llama_cpp: {tag: b11434} # ours" in files["canary.yaml"]
    assert "tag:" not in files["prod.yaml"].replace(" tag: b8672", "")


def test_a_mark_at_the_start_of_the_file_stays(stack: Path) -> None:
    stack.write_text("\ufeff" + STACK, encoding="utf-8")
    write(moved(stack, "b11434"))

    assert stack.read_bytes().startswith(b"\xef\xbb\xbf# Production.")


def test_a_commit_of_the_old_build_goes_and_a_package_is_told(stack: Path) -> None:
    text = STACK.replace("  cuda:", "  commit: abcdef0\n  cuda:")
    stack.write_text(text, encoding="utf-8")
    assert said(moved(stack, "b8722"), "build") == ["llama_cpp.commit"]

    ready = text.replace('  cuda: "12.8.1"', "  package: llama==1").replace(
        "  patches: [gemma4-thinking-tags]   # thinking budgets\n", ""
    )
    ready = ready.replace("engine: modal", "engine: local")
    stack.write_text(ready, encoding="utf-8")
    found = moved(stack, "b8722")
    assert said(found, "build") == ["llama_cpp.commit", "llama_cpp.package"]


def test_a_patch_that_is_still_wanted_stays(stack: Path) -> None:
    found = moved(stack, "b8722")

    (line,) = [line for line in found.lines if line.topic == "patches"]
    assert line.sign == "✔"
    assert load(stack).stack.llama_cpp.patches == ("gemma4-thinking-tags",)


def test_a_change_that_may_come_later_is_told_apart(stack: Path) -> None:
    signs = {
        build: {
            line.sign for line in moved(stack, build).lines if "ubatch" in line.text
        }
        for build in ("b8722", "b11434")
    }

    assert signs == {"b8722": {"?"}, "b11434": {"~"}}


def test_the_way_back_takes_changes_back(stack: Path) -> None:
    write(moved(stack, "b11434"))
    texts = [line.text for line in moved(stack, "b8672").lines]

    assert "`timeout`: 3600 s → 600 s (between b9246 and b9496)" in texts


def test_what_is_no_tag_is_refused(stack: Path) -> None:
    with pytest.raises(UsageError, match="`11434` is no tag"):
        moved(stack, "11434")


def test_latest_says_so_where_upstream_cannot_be_asked(stack: Path) -> None:
    text = STACK.replace("  cuda:", "  repo: https://127.0.0.1:9/llama.cpp\n  cuda:")
    stack.write_text(text, encoding="utf-8")

    with pytest.raises(SourceError, match="could not be reached"):
        moved(stack, "latest")


def test_latest_is_the_highest_build_of_the_repository(
    stack: Path, tmp_path: Path
) -> None:
    from deployer.llama.git import run_git  # noqa: PLC0415 - here alone

    repo = tmp_path / "upstream"
    repo.mkdir()
    who = ("-c", "user.name=n", "-c", "user.email=e@example.org")
    for words in (
        ["init", "-q"],
        [*who, "commit", "-q", "--allow-empty", "-m", "one"],
        ["tag", "b9999"],
        ["tag", "b11434"],
        ["tag", "v0.6.0"],
    ):
        done = run_git(words, folder=repo, environment={"PATH": "/usr/bin:/bin"})
        assert done.returncode == 0, done.stderr
    text = STACK.replace("  cuda:", f"  repo: file://{repo}\n  cuda:")
    stack.write_text(text, encoding="utf-8")

    assert moved(stack, "latest").new == "b11434"
