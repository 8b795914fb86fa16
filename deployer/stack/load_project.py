"""`deployer.yaml` to a `Project`, with every problem at once."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from deployer.diagnostics import Place, Problem
from deployer.errors import StackError
from deployer.spelling import did_you_mean, shown
from deployer.stack.fields.marks import Section, fields_of
from deployer.stack.fields.project_fields import Project, problems_of
from deployer.stack.without_plugins import no_plugins
from deployer.stack.yaml.file_bytes import text_of
from deployer.stack.yaml.tree import dotted, place_of, plain, walk
from deployer.stack.yaml.yaml12 import UnreadableError, parse

_WORDS = {"a valid string": "a text", "an object": "a mapping"}


def load_project(path: Path) -> Project:
    """Read the project file; raises StackError with every problem, by place."""
    file = str(path)
    try:
        text = text_of(path, file=file, asked=Place(file))
    except UnreadableError as error:
        raise StackError([error.problem]) from error
    return project_in(text, file)


def project_in(text: str, file: str) -> Project:
    """The project that a text says; raises StackError as `load_project` does."""
    try:
        table, problems = parse(text, file)
    except UnreadableError as error:
        raise StackError([error.problem]) from error
    places = {dotted(steps): entry.place for steps, entry in walk(table)}
    try:
        with no_plugins():
            project = Project.model_validate_json(json.dumps(plain(table)))
    except ValidationError as error:
        problems += _refused(error, places, Place(file))
        raise StackError(sorted(set(problems))) from error
    broken = [] if project.state is None else problems_of(project.state)
    problems += [
        replace(it, place=place_of(places, it.path) or Place(file)) for it in broken
    ]
    if problems:
        raise StackError(sorted(problems))
    return project


def _refused(
    error: ValidationError, places: Mapping[str, Place], whole: Place
) -> Iterator[Problem]:
    """Yield what the model refuses, in words."""
    for detail in error.errors(include_url=False, include_input=False):
        steps = tuple(step for step in detail["loc"] if isinstance(step, str))
        path = dotted(steps)
        place = place_of(places, path) or whole
        name = shown(steps[-1]) if steps else "the file"
        match detail["type"]:
            case "extra_forbidden":
                section = _section(steps[:-1])
                known = list(fields_of(section)) if section else []
                hint = did_you_mean(steps[-1], known)
                keys = f"keys here: {', '.join(known)}"
                what, hint = f"unknown key `{name}`", hint or keys
            case "missing":
                what, hint = f"`{name}` is missing", ""
            case _:
                expected = detail["msg"].removeprefix("Input should be ")
                expected = _WORDS.get(expected, expected)
                what, hint = f"`{name}`: expected {_lower(expected)}", ""
        yield Problem(place, path, what, hint)


def _section(steps: tuple[str, ...]) -> type[Section] | None:
    section: type[Section] | None = Project
    for step in steps:
        field = fields_of(section).get(step) if section else None
        section = field.section if field else None
    return section


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
