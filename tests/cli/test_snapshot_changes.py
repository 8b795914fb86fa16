"""What changes around an image: seen before it is used, and told."""

import re

import pytest

from tests.cli.frozen import DEMO, Frozen

pytestmark = [pytest.mark.real, pytest.mark.criu]


@pytest.fixture
def live(deployed: Frozen) -> Frozen:
    """A server that comes from a snapshot, and runs."""
    deployed.start()
    return deployed


def test_the_api_key_was_changed(crashed: Frozen) -> None:
    """An image holds the key it was taken with; llama-server takes no other later."""
    out = crashed.start(key="sk-of-today")
    assert "starts cold: the API key or a secret has changed" in out
    out = crashed.apply(env={"LLAMA_API_KEY": "sk-of-today"}).out
    assert "! drift    demo/snapshot: the API key or a secret has changed" in out
    assert "a server that runs keeps the API key and secrets that it was" in out
    crashed.kill()
    assert "restored from its snapshot" in crashed.start(key="sk-of-today")


def test_a_key_that_is_not_at_hand_is_not_taken_for_another(live: Frozen) -> None:
    done = live.run("plan", DEMO, "--refresh", env={"LLAMA_API_KEY": None})
    assert "No changes: what is live is what the stack says." in done.out


def test_the_machine_was_started_anew(crashed: Frozen) -> None:
    manifest = crashed.file("manifest.json")
    manifest.write_text(re.sub(r'"boot": "[^"]*"', '"boot": "b"', manifest.read_text()))
    since = "which was taken before this machine was started"
    assert f"restored from its snapshot, {since}" in crashed.start()


def test_the_kernel_is_another_one(crashed: Frozen) -> None:
    manifest = crashed.file("manifest.json")
    text = manifest.read_text()
    manifest.write_text(re.sub(r'"kernel": "[^"]*"', '"kernel": "5.1"', text))
    assert "starts cold: it was taken under kernel 5.1, this is" in crashed.start()


def test_the_environment_is_another_one(crashed: Frozen) -> None:
    out = crashed.start({"LC_ALL": "C.UTF-8"})
    since = "the environment of the server has changed since it was taken"
    assert f"starts cold: {since}" in out
