"""The pictures show what the commands print, and nothing of where they were made."""

import getpass
import html
import re
import socket
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from scripts.docs.pictures import FOLDER, STORY, Scene, played
from scripts.docs.terminal import Ran, svg
from tests.docs.pages import PAGES, ROOT

FILES = sorted(FOLDER.glob("*.svg"))
NAMED = "{http://www.w3.org/2000/svg}"
ANEW = "run `python -m scripts.docs.pictures LLAMA_SERVER`"
PLOTS = {"dashboard"}
"""Pictures that `python -m scripts.docs.NAME STACK` draws."""
CODES = {"gate": [6, 0]}
"""How the commands of a scene exit, where that is not 0."""


def shape(text: str) -> list[str]:
    """The words of a picture, less what every run has of its own: keys and numbers."""
    plain = re.sub(r"\b[0-9a-f]{6,}\b", "KEY", text)
    return re.sub(r"[\d.]+", "N", plain).split()


def words_of(file: Path) -> str:
    lines = ET.parse(file).iter(f"{NAMED}text")  # noqa: S314 - our own
    return " ".join(" ".join(line.itertext()) for line in lines)


@pytest.mark.real
def test_the_story_goes_as_the_pictures_show_it(
    llama_server: Path, tmp_path: Path
) -> None:
    """What plans print is compared with the pictures; the rest differs in figures."""
    for scene, ran in played(llama_server, tmp_path):
        printed = " ".join(one.text for one in ran)
        assert [one.typed for one in ran] == [*scene.commands]
        assert [one.code for one in ran] == CODES.get(scene.name, [0] * len(ran))
        assert "━" not in printed, "a bar was left behind"
        if scene.name in ("plan", "change"):
            shown = shape(words_of(FOLDER / f"{scene.name}.svg"))
            assert shown == shape(printed), ANEW


def test_every_scene_has_its_picture_and_every_picture_its_place() -> None:
    assert {file.stem for file in FILES} == {scene.name for scene in STORY} | PLOTS
    pages = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    every = [file.name for file in FOLDER.iterdir()]
    assert [name for name in every if f"pictures/{name})" not in pages] == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_picture_says_nothing_of_where_it_was_made(file: Path) -> None:
    text = html.unescape(file.read_text(encoding="utf-8"))
    assert file.stat().st_size < 100_000
    for private in (r"/(?:root|home|tmp|work|opt|mnt)/", r"\.cache/", str(ROOT)):
        assert not re.search(private, text)
    for name in (socket.gethostname(), f"{getpass.getuser()}@"):
        assert name not in text


@pytest.mark.parametrize("scene", STORY, ids=lambda scene: scene.name)
def test_a_terminal_is_text_and_nothing_to_load(scene: Scene) -> None:
    file = FOLDER / f"{scene.name}.svg"
    picture = ET.parse(file)  # noqa: S314 - our own
    drawn = {element.tag.removeprefix(NAMED) for element in picture.iter()}
    assert drawn == {"svg", "title", "rect", "circle", "text", "tspan"}
    assert "url(" not in file.read_text(encoding="utf-8")


def test_colours_and_columns_of_a_terminal_are_kept() -> None:
    from pyte.screens import Char  # noqa: PLC0415 - of a library of this test alone

    line = (Char(" "), Char("<", fg="red"), Char("b"), Char(" "), Char("c"))
    picture = svg([Ran("deployer x", (line,), 0)], "A & B")
    root = ET.fromstring(picture)  # noqa: S314 - our own
    prompt, row = root.iter(f"{NAMED}text")
    assert "".join(prompt.itertext()) == "$deployer x"
    red, rest = row
    assert (red.text, red.get("fill"), red.get("x")) == ("<", "#e06c75", "24.4")
    assert (rest.text, rest.get("x")) == ("b c", "32.8")
