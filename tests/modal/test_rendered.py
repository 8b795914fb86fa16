"""Rendered apps on the emulated platform: the same files are the same requests."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.modal.emulated import Emulated
from tests.modal.stories import STACK, Stack, by_hand, platform

GPUS = STACK.replace("b9763", 'b9763, cuda: "12.8.1"') + "gpu: [L4, A10]\n"

_SETS = frozenset({"mount_ids", "sha256_hex_hashes", "files"})


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulated]:
    with platform(tmp_path_factory.mktemp("rendered")) as made:
        yield made


@pytest.mark.parametrize("text", [STACK, GPUS], ids=["cpu", "gpus"])
def test_a_second_deployment_sends_what_the_first_sent(
    cloud: Emulated, tmp_path: Path, text: str
) -> None:
    """So Modal makes no new version of it, and its snapshots stay."""
    stack = Stack(f"twice-{len(text)}", cloud, tmp_path, text=text)
    stack.place_artefacts(stack.graph(1024))
    sent = []
    for _ in range(3):
        cloud.forget()
        by_hand(stack, 1024)
        sent.append(cloud.requests())
    assert _defined(sent[0]) == _defined(sent[1])
    assert sorted(map(_text, sent[1])) == sorted(map(_text, sent[2]))
    assert (cloud.app(stack.name) or {})["history"] == ["STANDARD"]
    gpus = [it["resources"]["gpu_config"]["gpu_type"] for it in _ranks(sent[0])]
    assert gpus == (["L4", "A10"] if text is GPUS else [])


def test_a_server_mounts_its_build_and_its_weights_and_writes_neither(
    cloud: Emulated, tmp_path: Path
) -> None:
    stack = Stack("mounts", cloud, tmp_path)
    graph = stack.graph(1024)
    stack.place_artefacts(graph)
    cloud.forget()
    by_hand(stack, 1024)
    made = [it for name, it in cloud.requests() if name == "FunctionCreate"]
    mounted = [it["function"]["volume_mounts"] for it in made]
    folders = [f"/build/{graph['mounts/build'].key}"]
    folders += [f"/weights/{graph['mounts/weights'].key}"]
    assert mounted
    for mounts in mounted:
        assert [it["sub_path"] for it in mounts] == folders
        assert [it["mount_path"] for it in mounts] == [f"/store{it}" for it in folders]
        assert all(it["read_only"] for it in mounts)


def _defined(requests: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """Definitions of functions and classes, less the ids that Modal gave them."""
    return [
        _text((kind, {k: v for k, v in content.items() if "existing" not in k}))
        for kind, content in requests
        if kind in ("FunctionCreate", "ClassCreate")
    ]


def _text(request: object) -> str:
    """A request with its sets in order: the client sends them in any."""
    return json.dumps(_in_order(request), sort_keys=True)


def _in_order(value: Any) -> Any:
    match value:
        case dict():
            return {
                name: sorted(it, key=str) if name in _SETS else _in_order(it)
                for name, it in value.items()
            }
        case list() | tuple():
            return [_in_order(it) for it in value]
        case _:
            return value


def _ranks(requests: list[tuple[str, dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """Each GPU of a list is a function of its own, one rank after the other."""
    for kind, content in requests:
        if kind == "FunctionCreate":
            for rank in content.get("function_data", {}).get("ranked_functions", []):
                yield rank["function"]
