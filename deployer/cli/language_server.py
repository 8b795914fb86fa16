"""The language server: the answers of `deployer.usecases.editor` over stdio.

Columns of the protocol are units of UTF-16, unless the client asks for others; pygls
translates both ways.
"""

from functools import partial
from pathlib import Path
from urllib.parse import unquote, urlsplit

from lsprotocol import types as lsp
from pygls.lsp.server import LanguageServer
from pygls.workspace import ServerTextPosition, ServerTextRange, TextDocument

from deployer import __version__
from deployer.diagnostics import Diagnostic, Severity, span
from deployer.usecases import editor
from deployer.usecases.context.settings import Settings, settings_of

_SEVERITIES = {
    Severity.ERROR: lsp.DiagnosticSeverity.Error,
    Severity.WARNING: lsp.DiagnosticSeverity.Warning,
    Severity.NOTE: lsp.DiagnosticSeverity.Information,
    Severity.FINE: lsp.DiagnosticSeverity.Hint,
}


def server() -> LanguageServer:
    """Return a server of the Language Server Protocol for stacks."""
    made = LanguageServer("deployer", __version__)
    settings = settings_of()
    for event in (
        lsp.TEXT_DOCUMENT_DID_OPEN,
        lsp.TEXT_DOCUMENT_DID_CHANGE,
        lsp.TEXT_DOCUMENT_DID_SAVE,
    ):
        made.feature(event)(partial(_look, made, settings))
    made.feature(lsp.TEXT_DOCUMENT_CODE_ACTION)(partial(_fix, made, settings))
    made.feature(lsp.TEXT_DOCUMENT_HOVER)(partial(_hover, made))
    made.feature(
        lsp.TEXT_DOCUMENT_COMPLETION,
        lsp.CompletionOptions(trigger_characters=[" ", "\n", "/", "{", "["]),
    )(partial(_complete, made))
    return made


def serve() -> None:
    """Answer an editor on stdin and stdout until it ends.

    The protocol counts bytes: the stream that escapes what a terminal would obey is
    passed by.
    """
    with (
        open(0, "rb", closefd=False) as stdin,
        open(1, "wb", closefd=False) as stdout,
    ):
        server().start_io(stdin, stdout)


def _file(document: TextDocument) -> Path:
    return Path(unquote(urlsplit(document.uri).path))


def _stack(made: LanguageServer, uri: str) -> TextDocument | None:
    """Return the document of an address; None where it is no stack."""
    document = made.workspace.get_text_document(uri)
    if editor.is_stack(_file(document), document.source):
        return document
    return None


def _look(
    made: LanguageServer,
    settings: Settings,
    event: lsp.DidOpenTextDocumentParams
    | lsp.DidChangeTextDocumentParams
    | lsp.DidSaveTextDocumentParams,
) -> None:
    """Publish what is wrong with the text as it stands in the editor."""
    document = _stack(made, event.text_document.uri)
    found: list[lsp.Diagnostic] = []
    if document is not None:
        file = _file(document)
        problems = editor.problems(file, document.source, settings)
        found = [_shown(document, file, problem) for problem in problems]
    made.text_document_publish_diagnostics(
        lsp.PublishDiagnosticsParams(event.text_document.uri, found)
    )


def _shown(document: TextDocument, file: Path, problem: Diagnostic) -> lsp.Diagnostic:
    """Return a problem as editors show it; one of a base stands in the first line."""
    lines = document.lines
    here = problem.place.file == str(file)
    line = min(problem.place.line, len(lines)) - 1 if here and lines else 0
    text = lines[line].rstrip("\r\n") if lines else ""
    inside = here and problem.place.column <= len(text)
    start, end = span(problem, text) if inside else (0, len(text))
    said = problem.what if here else str(problem)
    return lsp.Diagnostic(
        range=document.range_to_client_units(_range(line, start, end)),
        message=f"{said}\n{problem.hint}" if problem.hint else said,
        severity=_SEVERITIES[problem.severity],
        code=problem.code or None,
        source="deployer",
    )


def _range(line: int, start: int, end: int) -> ServerTextRange:
    return ServerTextRange(
        ServerTextPosition(line, start), ServerTextPosition(line, end)
    )


def _fix(
    made: LanguageServer, settings: Settings, asked: lsp.CodeActionParams
) -> list[lsp.CodeAction]:
    """Return the edits that hints ask for, of the problems in the lines asked about."""
    document = _stack(made, asked.text_document.uri)
    if document is None:
        return []
    file, text = _file(document), document.source
    found = []
    for problem in editor.problems(file, text, settings):
        edit = (
            editor.edit_of(problem, text) if problem.place.file == str(file) else None
        )
        if edit and asked.range.start.line <= edit.line <= asked.range.end.line:
            place = document.range_to_client_units(
                _range(edit.line, edit.start, edit.end)
            )
            change = lsp.WorkspaceEdit({document.uri: [lsp.TextEdit(place, edit.text)]})
            shown = _shown(document, file, problem)
            found.append(
                lsp.CodeAction(
                    f"Write `{edit.text}`",
                    kind=lsp.CodeActionKind.QuickFix,
                    diagnostics=[shown],
                    edit=change,
                    is_preferred=True,
                )
            )
    return found


def _hover(made: LanguageServer, asked: lsp.HoverParams) -> lsp.Hover | None:
    document = _stack(made, asked.text_document.uri)
    if document is None:
        return None
    at = document.position_from_client_units(asked.position)
    found = editor.hover(_file(document), document.source, at.line, at.character)
    if found is None:
        return None
    place = _range(found.line, found.start, found.end)
    return lsp.Hover(
        lsp.MarkupContent(lsp.MarkupKind.Markdown, found.told),
        document.range_to_client_units(place),
    )


def _complete(
    made: LanguageServer, asked: lsp.CompletionParams
) -> lsp.CompletionList | None:
    document = _stack(made, asked.text_document.uri)
    if document is None:
        return None
    at = document.position_from_client_units(asked.position)
    found = editor.words(_file(document), document.source, at.line, at.character)
    return lsp.CompletionList(
        is_incomplete=False,
        items=[
            lsp.CompletionItem(
                label=word.text,
                insert_text=word.insert,
                sort_text=f"{number:04}",
                documentation=lsp.MarkupContent(lsp.MarkupKind.Markdown, word.told)
                if word.told
                else None,
            )
            for number, word in enumerate(found)
        ],
    )
