"""A stack file becomes a stack, or every problem with its place and a hint."""

import subprocess
import sys
from pathlib import Path

import pytest

import deployer
from deployer.diagnostics import Place, diagnostics_text, place_of
from deployer.errors import StackError
from deployer.stack.load import Loaded, load

SMALL = """\
version: 1
name: small
engine: local
llama_cpp: {tag: b9763, package: llama==1.0}
model: {url: "https://example.org/tiny.gguf"}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test stands in a repository of its own: messages show short paths."""
    (tmp_path / ".git").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def loaded(text: str, *, engine: str | None = None) -> Loaded:
    path = Path("s.yaml")
    path.write_text(text, "utf-8")
    return load(path, engine=engine)


def refused(path: str, *, engine: str | None = None) -> str:
    with pytest.raises(StackError) as raised:
        load(Path(path), engine=engine)
    return diagnostics_text(raised.value.problems)


def check(text: str | bytes, expect: str) -> None:
    """A file with this text has exactly these problems."""
    data = text.encode() if isinstance(text, str) else text
    Path("s.yaml").write_bytes(data)
    assert refused("s.yaml") == expect


def check_small(more: str, expect: str) -> None:
    """The small stack with this added has exactly these problems."""
    check(SMALL + more, expect)


def test_a_small_stack_is_read_with_places() -> None:
    found = loaded(SMALL)
    assert found.stack.name == "small"
    assert found.sources == (Path("s.yaml"),)
    assert found.places["llama_cpp.tag"] == Place("s.yaml", 4, 13)
    assert found.notes == ()


def test_the_nearest_place_above_stands_for_what_is_not_written() -> None:
    places = loaded(SMALL).places
    assert place_of(places, "model.sha256.x") == Place("s.yaml", 5, 1)
    assert place_of(places, "gpu.architecture") is None


def test_the_digest_is_of_what_is_said_not_how() -> None:
    other = f"# a comment\n{SMALL}\n".replace("small", '"small"').replace(
        "version: 1\nname: small\n", "name: small\nversion: 1\n"
    )
    assert loaded(SMALL).digest == loaded(other).digest
    assert loaded(SMALL).digest != loaded(SMALL.replace("9763", "9764")).digest


def test_the_engine_can_be_overridden() -> None:
    anywhere = SMALL.replace(", package: llama==1.0", "")
    anywhere += "auth: {open: of the tests}\n"
    assert loaded(anywhere, engine="modal").stack.engine == "modal"
    assert loaded(SMALL.replace("engine: local\n", ""), engine="local")


def test_an_unknown_engine_is_refused() -> None:
    Path("s.yaml").write_text(SMALL, "utf-8")
    assert refused("s.yaml", engine="modl") == (
        "s.yaml:3:1: error: expected `local` or `modal`, got the string `modl`\n"
        "  hint: did you mean `local`?\n"
    ).replace("`local`?", "`modal`?")


def test_settings_of_the_other_engine_are_noted() -> None:
    text = f"{SMALL}scaling: {{min_containers: 1, max_containers: 2}}\n"
    text += "modal: {region: eu}\n"
    assert loaded(text).notes == ("not used by local: scaling, modal.region",)


def test_null_unsets_a_key() -> None:
    assert loaded(f"{SMALL}gpu: null\nserver: {{ctx_size: ~}}\n").stack.gpu is None


def test_unknown_keys_have_a_hint() -> None:
    check_small(
        """\
gpus: L4
server: {ctx-size: 5, n_ctx: 5, alias: m, rope-scaling: yarn, --parallel: 2}
gates: {chats: {}}
rollout: {zzz: 1}
""",
        """\
s.yaml:6:1: error: unknown key `gpus`
  hint: did you mean `gpu`?
s.yaml:7:10: error: unknown key `ctx-size` under `server`
  hint: did you mean `ctx_size`?
s.yaml:7:23: error: unknown key `n_ctx` under `server`
  hint: did you mean `ctx_size`?
s.yaml:7:33: error: unknown key `alias` under `server`
  hint: it belongs elsewhere: write `model.alias`
s.yaml:7:43: error: unknown key `rope-scaling` under `server`
  hint: other options of llama-server go under `server.flags`
s.yaml:7:63: error: unknown key `--parallel` under `server`
  hint: did you mean `parallel`?
s.yaml:8:9: error: unknown key `chats` under `gates`
  hint: did you mean `chat`?
s.yaml:9:11: error: unknown key `zzz` under `rollout`
  hint: keys here: `keep`, `on_failure`, `strategy`
""",
    )


def test_missing_keys_point_at_their_section() -> None:
    check(
        "version: 1\nllama_cpp: {}\nignore:\n  -\n    {trap: budget-zero}\n",
        """\
s.yaml:1:1: error: `engine` is missing
  hint: add `engine:` (`local` or `modal`)
s.yaml:1:1: error: `model` is missing
  hint: add `model:` (a section of `key: value` lines)
s.yaml:1:1: error: `name` is missing
  hint: add `name:` (a name of lower-case letters, digits and dashes, at most 48 \
long, that starts with a letter)
s.yaml:2:1: error: `tag` is missing under `llama_cpp`
  hint: add `tag:` (a release (`b9763` or `v1.2.3`) or a commit of 7 to 40 \
hexadecimal digits)
s.yaml:5:5: error: `reason` is missing under `ignore.0`
  hint: add `reason:` (a string)
""",
    )


def test_wrong_types_show_what_is_written_and_what_to_write() -> None:
    check_small(
        """\
server:
  ctx_size: 8k
  parallel: "2"
  threads: 0
  metrics: on
  mmap: "true"
  flash_attn: true
  reasoning_format: raw
  n_gpu_layers: al
  temperature: hot
  timeout: 5 min
  tensor_split: 3
  device: cuda0
  flags: {x: {a: 1}}
  chat_template: [a]
local: {port: 70000}
""",
        """\
s.yaml:7:3: error: expected an integer of at least 1, got the string `8k`
  hint: write `8192`
s.yaml:8:3: error: expected an integer of at least 1, got the string `2`
  hint: write `2` without quotes
s.yaml:9:3: error: expected an integer of at least 1, got the number `0`
  hint: write `1` or more
s.yaml:10:3: error: expected `true` or `false`, got the string `on`
  hint: YAML 1.2: write `true`, without quotes
s.yaml:11:3: error: expected `true` or `false`, got the string `true`
  hint: write `true` without quotes
s.yaml:12:3: error: expected one of `on`, `off`, `auto`, got `true`
  hint: write `on`
s.yaml:13:3: error: expected one of `none`, `auto`, `deepseek`, `deepseek-legacy`, \
got the string `raw`
s.yaml:14:3: error: expected an integer of at least 0, `auto` or `all`, \
got the string `al`
  hint: did you mean `all`?
s.yaml:15:3: error: expected a number of at least 0, got the string `hot`
s.yaml:16:3: error: expected a duration such as `90s`, `5m` or `1h30m`, \
or a number of seconds, got the string `5 min`
  hint: write `5m`
s.yaml:17:3: error: expected a list (each item: a number), got the number `3`
s.yaml:18:3: error: expected a list (each item: a string), got the string `cuda0`
  hint: write a list: `[cuda0]`
s.yaml:19:11: error: expected a number, a string, a list (each item: a string or a \
number), `true` or `false`, got a section
s.yaml:20:3: error: expected a string, got a list
s.yaml:21:9: error: expected an integer from 1 to 65535, got the number `70000`
""",
    )


@pytest.mark.parametrize("tag", ["1234567", "12e4", "1_0", "B9763", "main"])
def test_a_tag_that_is_no_tag_is_explained(tag: str) -> None:
    Path("s.yaml").write_text(SMALL.replace("b9763", tag), "utf-8")
    text = refused("s.yaml")
    assert "expected a release (`b9763` or `v1.2.3`) or a commit" in text
    assert f"`{tag}`" in text


def test_a_commit_of_digits_needs_quotes() -> None:
    text = SMALL.replace("b9763", "1234567")
    check(
        text,
        "s.yaml:4:13: error: expected a release (`b9763` or `v1.2.3`) or a commit of "
        "7 to 40 hexadecimal digits, got the number `1234567`\n"
        '  hint: write it in quotes: `"1234567"`\n',
    )
    assert loaded(text.replace("1234567", '"1234567"'))


@pytest.mark.parametrize(
    ("more", "path"),
    [
        ("gpu: 5\n", "gpu"),
        ("gpu: {str: 1}\n", "gpu"),
        ("gpu: [1]\n", "gpu.0"),
        ("snapshot: {enabled: 5}\n", "snapshot.enabled"),
        ("local: {drain: x}\n", "local.drain"),
        ("modal: {memory: x}\n", "modal.memory"),
        ("server: {n_gpu_layers: 1.5}\n", "server.n_gpu_layers"),
        ("server: {flags: {bool: {bool: 1}}}\n", "server.flags.bool"),
        ("server: {flags: {a: [[1]]}}\n", "server.flags.a.0"),
        ("extends: 5\n", "extends"),
    ],
)
def test_a_union_makes_one_problem(more: str, path: str) -> None:
    with pytest.raises(StackError) as raised:
        loaded(SMALL + more)
    assert [problem.path for problem in raised.value.problems] == [path]


def test_rules_between_fields_are_checked_beside_what_the_model_refuses() -> None:
    check_small(
        "gpu: L40\nserver: {ctx_size: x}\ngates: {metrics: {}, auth: {}}\nauth: 5\n",
        """\
s.yaml:6:1: error: no GPU type `L40`
  hint: did you mean `L40S`?
s.yaml:7:10: error: expected an integer of at least 1, got the string `x`
s.yaml:8:9: error: the gate `metrics` needs the counters served
  hint: set `server.metrics: true`
s.yaml:9:1: error: expected a section of `key: value` lines, got a number
""",
    )


def test_yaml_problems_do_not_hide_those_of_the_model() -> None:
    check_small(
        "gpu:\ngpu: L4\nserver: {ctx_size: x}\nname: twice\n",
        """\
s.yaml:6:5: error: no value here
  hint: write `{}` for an empty section, `null` to remove a base's value
s.yaml:7:1: error: `gpu` is written twice
  hint: the first is in line 6: keep one
s.yaml:8:10: error: expected an integer of at least 1, got the string `x`
s.yaml:9:1: error: `name` is written twice
  hint: the first is in line 2: keep one
""",
    )


@pytest.mark.parametrize(
    "secret",
    [
        "hf_abcdefghijklmnopqrstuvwx",
        "sk-abcdefghijklmnopqrstuvwx",
        "ghp_abcdefghijklmnopqrstuvwx",
        "AKIAIOSFODNN7EXAMPLE",
        "aB3dE5gH7jK9mN1pQ3sT5vW7yZ9bC1dE",
        "0123456789abcdef0123456789abcdef",
    ],
)
@pytest.mark.parametrize(
    "more",
    [
        "auth: {api_key: SECRET}\n",
        "auth: {api_key: {env: SECRET}}\n",
        "gpu: SECRET\n",
        "server: {flags: {some-key: SECRET}}\n",
        "server: {chat_template_kwargs: {a: [SECRET]}}\n",
        "server: {ctx_size: SECRET}\n",
        "foo: SECRET\n",
    ],
)
def test_a_secret_is_refused_and_never_shown(secret: str, more: str) -> None:
    with pytest.raises(StackError) as raised:
        loaded(SMALL + more.replace("SECRET", secret))
    assert "looks like a secret" in [p.what for p in raised.value.problems]
    assert secret not in repr(raised.value.problems)
    assert secret not in diagnostics_text(raised.value.problems)


def test_digests_and_long_names_are_no_secrets() -> None:
    digest = "0123456789abcdef" * 4
    text = SMALL.replace('gguf"', f'gguf", sha256: {digest}, alias: {"Qwen3-" * 9}x')
    assert loaded(text).stack.model.sha256 == digest


def test_control_characters_do_not_reach_the_terminal() -> None:
    Path("s.yaml").write_text(f'{SMALL}"\\e[31mred": 1\ngpu: "\\e[0m"\n', "utf-8")
    assert "\x1b" not in refused("s.yaml")


def test_what_only_trouble_needs_is_not_imported() -> None:
    Path("s.yaml").write_text(SMALL, "utf-8")
    code = (
        "import sys, pathlib; from deployer.stack.load import load;"
        "load(pathlib.Path('s.yaml'));"
        "print(*sorted({'difflib', 'jsonschema', 'deployer.stack.explain_problems'}"
        " & set(sys.modules)))"
    )
    root = Path(deployer.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "\n"


def test_files_that_a_stack_names_have_to_be_there(folder: Path) -> None:
    (folder / "tiny.gguf").write_bytes(b"")
    (folder / "folder").mkdir()
    check(
        """\
version: 1
name: small
engine: local
llama_cpp: {tag: b1, binary: folder}
model: {path: tinny.gguf, mmproj: gone/x.gguf}
snapshot: {warmup: [{prompt: x, image: red.png}]}
""",
        """\
s.yaml:4:22: error: `folder` is a directory
  hint: name the file in it
s.yaml:5:9: error: there is no file `tinny.gguf`
  hint: did you mean `tiny.gguf`?
s.yaml:5:27: error: there is no file `gone/x.gguf`
  hint: there is no folder `gone`
s.yaml:6:33: error: there is no file `red.png`
  hint: paths are relative to the stack
""",
    )


def test_an_absolute_path_is_taken_as_it_is(folder: Path) -> None:
    (folder / "tiny.gguf").write_bytes(b"")
    text = SMALL.replace('url: "https://example.org/', f'path: "{folder}/')
    assert loaded(text)
