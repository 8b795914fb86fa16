"""Each rule of Modal, broken once; and what is worth a note."""

import json
from typing import Any

import pytest

from deployer.engines.modal import section
from deployer.stack.checks import checks
from deployer.stack.fields.model import GPUS, Stack

SOUND: dict[str, Any] = {
    "version": 1,
    "name": "s",
    "engine": "modal",
    "llama_cpp": {"tag": "b9763", "cuda": "12.8.1"},
    "model": {"repo": "owner/name", "quant": "Q4_K_M"},
    "gpu": "L4",
    "auth": {"api_key": {"secret": "llama-api-key"}},
}


def stack_with(**changes: Any) -> Stack:
    return Stack.model_validate_json(json.dumps({**SOUND, **changes}))


def check(*expect: str, **changes: Any) -> None:
    """The sound stack with these sections breaks exactly these rules."""
    found = [f"{f.path}: {f.what} | {f.hint}" for f in checks(stack_with(**changes))]
    assert found == list(expect)


def notes(**changes: Any) -> list[str]:
    return list(section.notes(stack_with(**changes)))


def test_a_sound_stack_breaks_no_rule_and_needs_no_note() -> None:
    check()
    assert notes() == []


def test_a_secret_of_the_environment_names_the_secret() -> None:
    check(
        "server.env.HF_TOKEN: `secret` is missing: on modal the value is kept in a"
        " Modal secret | add `secret: hf-token`",
        server={"env": {"HF_TOKEN": {"env": "HF_TOKEN"}}},
    )


def test_two_secrets_with_one_variable_are_refused() -> None:
    """The environment of a container has one of them only."""
    check(
        "server.env.X: `LLAMA_API_KEY` of `llama-api-key` would hide that of this"
        " secret | give one of them another name on Modal",
        server={"env": {"X": {"secret": "other", "env": "LLAMA_API_KEY"}}},
    )


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("L40", "did you mean `L40S`?"),
        ("l40s", "did you mean `L40S`?"),
        ("A10G", "did you mean `A10`?"),
        ("H10O", "did you mean `H100`?"),
        ("A100-80", "did you mean `A100-80GB`?"),
        ("banana", f"known: {', '.join(GPUS)}"),
    ],
)
def test_a_typo_in_a_gpu_is_found_before_modal_sees_it(name: str, hint: str) -> None:
    check(f"gpu: no GPU type `{name}` | {hint}", gpu=name)


def test_a_typo_in_a_list_is_told_at_its_place() -> None:
    check("gpu.1: no GPU type `A1000` | did you mean `A100`?", gpu=["L4", "A1000"])


@pytest.mark.parametrize(
    ("gpu", "most"), [("L4:9", 8), ("A10:5", 4), ("H100:0", 8), ("H100:x", 0)]
)
def test_a_container_holds_so_many_gpus(gpu: str, most: int) -> None:
    name = gpu.partition(":")[0]
    hint = f"write `{name}:2` for two"
    if most:
        count = gpu.partition(":")[2]
        check(f"gpu: expected 1 to {most} GPUs, got {count} | {hint}", gpu=gpu)
    else:
        check("gpu: no GPU type `H100:x` | did you mean `H100`?", gpu=gpu)


@pytest.mark.parametrize("name", sorted(GPUS))
def test_every_gpu_may_be_asked_for_up_to_its_limit(name: str) -> None:
    cuda = "13.1" if name in ("B300", "B200+") else "12.8.1"
    check(gpu=f"{name}:{GPUS[name].most}", llama_cpp={"tag": "b9763", "cuda": cuda})


def test_a_gpu_needs_a_build_with_cuda() -> None:
    check(
        "gpu: a build without CUDA would not use the GPU | "
        'add `llama_cpp.cuda: "12.8.1"`',
        llama_cpp={"tag": "b9763"},
    )


def test_b300_needs_a_new_toolkit() -> None:
    check(
        "llama_cpp.cuda: B300 needs CUDA 13.1 or later, and `cuda` is 12.9 | "
        'write `cuda: "13.1"`',
        gpu="B300",
        llama_cpp={"tag": "b9763", "cuda": "12.9"},
    )


def test_what_may_be_a_b300_needs_the_same() -> None:
    check(
        "llama_cpp.cuda: B200+ may be a B300: B300 needs CUDA 13.1 or later, and `cuda`"
        ' is 12.9 | write `cuda: "13.1"`, or `gpu: B200`',
        gpu="B200+",
        llama_cpp={"tag": "b9763", "cuda": "12.9"},
    )


def test_several_gpus_are_not_captured() -> None:
    check(
        "snapshot.enabled: the memory of several GPUs cannot be captured | "
        "name one GPU, or set `snapshot.enabled: false`",
        gpu="H100:2",
        snapshot={"enabled": True},
    )
    check(gpu="H100:2", snapshot={"enabled": "auto"})
    check(gpu="H100:2", snapshot={"enabled": False})


def test_a_snapshot_without_the_gpu_could_not_start() -> None:
    check(
        "snapshot.gpu: without `gpu` no GPU is visible before the capture: nothing"
        " could start | set `snapshot.gpu: true`, or `snapshot.enabled: false`",
        snapshot={"enabled": True, "gpu": False},
    )
    check(snapshot={"enabled": "auto", "gpu": False})


def test_a_mapped_model_does_not_survive_a_restore() -> None:
    check(
        "server.mmap: a snapshot does not hold a mapped model file: restores would"
        " fail | set `mmap: false`",
        snapshot={"enabled": True},
        server={"mmap": True},
    )


_BUILT = "leave it out: llama-server is built there, from `llama_cpp.tag`"
_FETCHED = "write `model.repo` or `model.url`: weights are fetched there"
_OF_THIS_MACHINE = {
    "binary": "llama_cpp.binary: `binary` is a file of this machine, which Modal does"
    f" not see | {_BUILT}",
    "package": f"llama_cpp.package: `package` is a build for this machine | {_BUILT}",
    "path": "model.path: `path` is a file of this machine, which Modal does not see"
    f" | {_FETCHED}",
    "pypi": f"model.pypi: `pypi` is for the local engine alone | {_FETCHED}",
    "release": "llama_cpp.source: `source: release` does not work on Modal:"
    " llama-server is built there | leave it out, or write `source: pypi`",
}


@pytest.mark.parametrize(
    ("section", "value", "told"),
    [
        ("llama_cpp", {"tag": "b9763", "binary": "x"}, _OF_THIS_MACHINE["binary"]),
        ("llama_cpp", {"tag": "b9763", "package": "a==1"}, _OF_THIS_MACHINE["package"]),
        ("model", {"path": "x.gguf"}, _OF_THIS_MACHINE["path"]),
        ("model", {"pypi": "a==1"}, _OF_THIS_MACHINE["pypi"]),
        (
            "llama_cpp",
            {"tag": "b9763", "source": "release"},
            _OF_THIS_MACHINE["release"],
        ),
    ],
)
def test_what_lies_on_this_machine_is_not_on_modal(
    section: str, value: dict[str, str], told: str
) -> None:
    check(told, **{"gpu": None, section: value})


@pytest.mark.parametrize(
    ("window", "shown"),
    [("1s", "1s"), (1.5, "1.5 s"), ("61m", "61m"), ("1h1s", "1h1s"), (0, "0 s")],
)
def test_an_idle_container_is_kept_for_two_seconds_to_an_hour(
    window: object, shown: str
) -> None:
    check(
        f"scaling.scaledown_window: expected 2 s to 1 h, got {shown} | "
        "`scaling.min_containers: 1` keeps a container for good",
        scaling={"scaledown_window": window},
    )


@pytest.mark.parametrize("window", [2, "90s", "20m", "1h", 3600])
def test_other_windows_are_fine(window: object) -> None:
    check(scaling={"scaledown_window": window})


def test_a_window_can_not_be_upside_down() -> None:
    check(
        "scaling.max_containers: `max_containers` is below `min_containers` (1 < 2) | "
        "raise `max_containers` to 2",
        scaling={"min_containers": 2, "max_containers": 1},
    )


@pytest.mark.parametrize("region", ["us", "eu-west", "us-east-1", "westeurope-2"])
def test_regions_by_name_and_of_a_cloud(region: str) -> None:
    known = region != "westeurope-2"
    told = (
        "modal.region: no region `westeurope-2` | known: "
        "us, us-east, us-central, us-south, us-west, eu, eu-west, eu-north, eu-south, "
        "uk, ap, ap-northeast, ap-southeast, ap-south, ap-melbourne, jp, au, ca, sa, "
        "me, mx, af"
    )
    check(*(() if known else (told,)), modal={"region": region})


def test_a_typo_in_a_region_is_found() -> None:
    check(
        "modal.region: no region `us-wset` | did you mean `us-west`?",
        modal={"region": "us-wset"},
    )


def test_a_long_name_is_cut_in_urls() -> None:
    assert notes(name="a" * 35) == []
    told = (
        "a label of a URL has 63 characters: Modal cuts that of the candidate where"
        " the workspace's name is longer than 15"
    )
    assert notes(name="a" * 36) == [told]


def test_an_open_server_is_told() -> None:
    told = "every client that knows the URL can use the server: behind our VPN"
    assert notes(auth={"open": "behind our VPN"}) == [told]


def test_a_server_endpoint_does_not_queue() -> None:
    told = (
        "`endpoint: server` answers 503 while no container is ready: clients must try"
        " again until one is; `web_server` lets them wait"
    )
    assert notes(modal={"endpoint": "server"}) == [told]
    warm = {"min_containers": 1}
    assert notes(modal={"endpoint": "server"}, scaling=warm) == []


def test_a_snapshot_on_a_list_of_gpus_is_proven_on_those_of_the_candidate() -> None:
    listed = ["L4", "A10"]
    told = (
        "`gpu` names 2 types and a snapshot is of one: the gates prove it on those that"
        " Modal gives the candidate; on another one production takes its own at the"
        " first start, and nothing has proven it"
    )
    for enabled in (True, "auto"):
        assert notes(gpu=listed, snapshot={"enabled": enabled}) == [told]
    assert notes(gpu=listed, snapshot={"enabled": False}) == []
    assert notes(gpu="L4", snapshot={"enabled": True}) == []


def test_containers_of_europe_are_reached_through_the_us_unless_it_is_stated() -> None:
    told = (
        "containers are in eu, uk, and requests enter Modal in `us-east` and go there"
        " through the US: `modal.routing_region` moves that"
    )
    there: dict[str, object] = {"region": ["us", "eu", "uk"]}
    assert notes(modal=there) == [told]
    assert notes(modal={**there, "routing_region": "eu-west"}) == []
    warm = {"min_containers": 1}
    assert notes(modal={**there, "endpoint": "server"}, scaling=warm) == []


def test_a_list_of_regions_is_looked_at_one_by_one() -> None:
    check(
        "modal.region.1: no region `us-wset` | did you mean `us-west`?",
        modal={"region": ["us", "us-wset"]},
    )


_SERVER_ONLY = "leave it out, or write `endpoint: web_server`"


@pytest.mark.parametrize(
    ("told", "changes"),
    [
        (
            (
                "modal.custom_domains: `endpoint: server` has no domains of your own"
                f" | {_SERVER_ONLY}"
            ),
            {"modal": {"endpoint": "server", "custom_domains": ["llm.example.org"]}},
        ),
        (
            (
                "modal.request_timeout: `endpoint: server` ends no request by time"
                f" | {_SERVER_ONLY}"
            ),
            {"modal": {"endpoint": "server", "request_timeout": "1m"}},
        ),
        (
            (
                "scaling.scaleup_window: `scaleup_window` is an option of `endpoint:"
                " server` alone | leave it out: `web_server` adds a container when no"
                " slot is free"
            ),
            {"scaling": {"scaleup_window": "10s"}},
        ),
        (
            (
                "scaling.max_concurrent: `max_concurrent` is below `target_concurrency`"
                " (1 < 2) | raise `max_concurrent` to 2"
            ),
            {"scaling": {"max_concurrent": 1, "target_concurrency": 2}},
        ),
        (
            (
                "modal.nonpreemptible: Modal may preempt any container with a GPU |"
                " leave it out; `scaling.buffer_containers: 1` has another one ready"
            ),
            {"modal": {"nonpreemptible": True}},
        ),
        (
            "modal.cpu_limit: `cpu_limit` is below `cpu` (2 < 4) | raise it to 4",
            {"modal": {"cpu": 4, "cpu_limit": 2}},
        ),
        (
            (
                "modal.memory_limit: `memory_limit` is below `memory` (1GiB < 2GiB)"
                " | raise it to 2GiB"
            ),
            {"modal": {"memory": "2GiB", "memory_limit": "1GiB"}},
        ),
        (
            (
                "modal.ephemeral_disk: expected at most 3TiB, got 4TiB"
                " | write `3TiB` or less"
            ),
            {"modal": {"ephemeral_disk": "4TiB"}},
        ),
        (
            (
                "modal.startup_timeout: expected 1 s to 24 h, got 2d"
                " | write `1h`, for example"
            ),
            {"modal": {"startup_timeout": "2d"}},
        ),
        (
            (
                "modal.tags.deployer-x: tags that begin with `deployer-` are deployer's"
                " own | give it another name"
            ),
            {"modal": {"tags": {"deployer-x": "y"}}},
        ),
        (
            (
                "modal.mounts.0: expected one of `volume` and `bucket`"
                " | name what is mounted, once"
            ),
            {"modal": {"mounts": [{"at": "/mnt/a"}]}},
        ),
        (
            "modal.mounts.0.secret: `secret` is about a bucket | leave it out",
            {"modal": {"mounts": [{"at": "/mnt/a", "volume": "v", "secret": "s"}]}},
        ),
        (
            (
                "modal.mounts.1: `v` is mounted already, and a container mounts it once"
                " | leave it out, or name another one"
            ),
            {
                "modal": {
                    "mounts": [
                        {"at": "/mnt/a", "volume": "v"},
                        {"at": "/mnt/b", "volume": "v"},
                    ]
                }
            },
        ),
        (
            (
                "modal.mounts.0: `deployer-store` is mounted already, and a container"
                " mounts it once | leave it out, or name another one"
            ),
            {"modal": {"mounts": [{"at": "/mnt/a", "volume": "deployer-store"}]}},
        ),
    ],
)
def test_what_an_endpoint_or_a_container_has_not_is_refused(
    told: str, changes: dict[str, Any]
) -> None:
    check(told, **changes)


def test_a_token_of_the_proxy_is_a_key_to_the_server() -> None:
    check(auth={"proxy": True})
    assert notes(auth={"proxy": True}) == []
    check(
        "auth.open: `open` and `proxy` contradict each other | keep one of them",
        auth={"proxy": True, "open": "behind our VPN"},
    )
    check(
        "auth: expected `api_key`, `api_keys`, or `open` with a reason | "
        "add `api_key: {env: LLAMA_API_KEY}`",
        auth={"proxy": False},
    )


def test_a_container_without_a_gpu_may_be_kept() -> None:
    check(gpu=None, llama_cpp={"tag": "b9763"}, modal={"nonpreemptible": True})


def test_a_toolkit_beyond_the_driver_is_told() -> None:
    told = (
        "the driver of Modal's hosts speaks CUDA 13.0: a toolkit of 13.3 is not"
        " promised to run there"
    )
    assert notes(llama_cpp={"tag": "b9763", "cuda": "13.3"}) == [told]
    assert notes(llama_cpp={"tag": "b9763", "cuda": "13.0.2"}) == []
