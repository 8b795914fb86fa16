"""What memory snapshots, Volumes and billing demand of a rendered app.

Each rule is one of Modal's documentation or of a report from the field: see
docs/modal.md.
"""

import ast

import pytest

from deployer.engines.modal.apps import builder_app, candidate_app
from deployer.engines.modal.lower import (
    lower_builder,
    lower_server,
    outputs_of,
    url_label,
)
from deployer.engines.modal.render import runtime_files
from deployer.errors import EngineError
from deployer.llama.patches import load_patches
from deployer.testing import stack as stack_of
from tests.engines.modal.lowering import (
    CAPTURED,
    PATCHES,
    PLAIN,
    constant,
    graph_of,
    keyword,
    lowered,
    production,
    rendered,
)


def server(text: str) -> str:
    return rendered(text)["server.py"]


def runtime(name: str) -> str:
    """A module that is copied beside every rendering."""
    return runtime_files()[f"runtime/{name}.py"].decode()


def function(text: str, name: str) -> str:
    """The source of a function or method, as `ast` writes it."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return ast.unparse(node)
    raise AssertionError(f"there is no `{name}`")


def test_a_captured_gpu_is_one_and_named_so() -> None:
    text = server(CAPTURED)
    assert keyword(text, "app.cls", "gpu") == "L4"
    assert keyword(text, "app.cls", "enable_memory_snapshot") is True
    options = keyword(text, "app.cls", "experimental_options")
    assert options == {"enable_gpu_snapshot": True}


def test_several_gpus_start_without_a_snapshot() -> None:
    text = server(CAPTURED.replace("true", "auto").replace("L4", "L4:2"))
    assert keyword(text, "app.cls", "gpu") == "L4:2"
    assert keyword(text, "app.cls", "enable_memory_snapshot") is None
    assert "snap=" not in text


def test_without_a_gpu_there_is_no_gpu_snapshot() -> None:
    text = server(CAPTURED.replace("gpu: L4\n", "").replace(', cuda: "12.8.1"', ""))
    assert keyword(text, "app.cls", "enable_memory_snapshot") is True
    assert keyword(text, "app.cls", "experimental_options") is None
    assert "nvidia" not in text


def test_gpus_are_a_list_in_order_of_preference() -> None:
    text = server(CAPTURED.replace("gpu: L4", "gpu: [L4, A10, T4]"))
    assert keyword(text, "app.cls", "gpu") == ["L4", "A10", "T4"]


@pytest.mark.parametrize("name", ["server.py", "candidate.py", "tryout.py"])
def test_nothing_is_sent_that_differs_from_deploy_to_deploy(name: str) -> None:
    """A secret made of values, or `env=`, is a new object with every deploy."""
    text = rendered(CAPTURED)[name]
    calls = [
        ast.unparse(node.func)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call)
    ]
    assert "modal.Secret.from_name" in calls
    assert not {"modal.Secret.from_dict", "modal.Secret.from_dotenv"} & {*calls}
    given = ("app.cls", "app.function")
    assert all(keyword(text, call, "env") is None for call in given)


def test_the_secret_is_looked_up_with_the_variable_that_is_needed() -> None:
    text = server(PLAIN.replace("secret: llama-api-key", "secret: mine, env: MY_KEY"))
    assert constant(text, "KEYS") == {"MY_KEY": "mine"}


def test_each_of_several_keys_comes_from_its_own_secret() -> None:
    named = "api_keys: {b: {secret: two, env: B}, a: {secret: one, env: A}}"
    text = server(PLAIN.replace("api_key: {secret: llama-api-key}", named))
    assert constant(text, "KEYS") == {"A": "one", "B": "two"}


ENV_SECRETS = "env: {HF_TOKEN: {secret: hub}, X: {secret: more, env: MINE}, Y: 1}"


def test_secrets_of_the_environment_are_named_and_looked_up() -> None:
    text = server(PLAIN.replace("ctx_size: 4096", ENV_SECRETS))
    assert constant(text, "GIVEN") == {
        "HF_TOKEN": ("HF_TOKEN", "hub"),
        "X": ("MINE", "more"),
    }
    assert "in (*KEYS.items(), *GIVEN.values())" in text
    keyless = PLAIN.replace("api_key: {secret: llama-api-key}", "open: a demo")
    text = server(keyless.replace("ctx_size: 4096", ENV_SECRETS))
    assert "in GIVEN.values()" in text
    assert "secrets=secrets" in text
    assert "KEYS" not in text


def test_the_variable_has_a_name_where_the_stack_gives_none() -> None:
    assert constant(server(PLAIN), "KEYS") == {"LLAMA_API_KEY": "llama-api-key"}


def test_the_image_builder_is_pinned_before_anything_is_built() -> None:
    for text in rendered(CAPTURED).values():
        pinned = text.index('os.environ["MODAL_IMAGE_BUILDER_VERSION"] = "2025.06"')
        assert pinned < text.index("modal.Image.")


def test_no_file_of_the_volume_is_open_when_memory_is_captured() -> None:
    place = function(runtime("serve"), "place")
    assert "shutil.copytree(program.build, program.home" in place
    command = constant(server(CAPTURED), "COMMAND")
    assert isinstance(command, list)
    assert command[0] == "/opt/llama/bin/llama-server"
    assert "--no-mmap" in command


def test_the_model_is_read_as_the_build_spells_it() -> None:
    newer = server(CAPTURED.replace("b9763", "b11434"))
    options = constant(newer, "COMMAND")
    assert isinstance(options, list)
    assert options[options.index("--load-mode") + 1] == "none"


def test_without_a_snapshot_the_model_may_be_mapped() -> None:
    assert "mmap" not in str(constant(server(PLAIN), "COMMAND"))
    stated = server(PLAIN.replace("ctx_size: 4096", "ctx_size: 4096, mmap: true"))
    assert "--mmap" in str(constant(stated, "COMMAND"))


def test_auto_takes_no_snapshot_of_a_mapped_model() -> None:
    text = CAPTURED.replace("true", "auto").replace("4096", "4096, mmap: true")
    assert "enable_memory_snapshot" not in server(text)


def test_paths_are_named_by_content_and_the_server_cannot_write() -> None:
    text = server(CAPTURED)
    graph = graph_of(stack_of(CAPTURED))
    assert constant(text, "BUILD_KEY") == graph["demo/build"].key
    assert constant(text, "WEIGHTS_KEY") == graph["demo/weights"].key
    assert "create_if_missing" not in text
    assert text.count("modal.Volume.from_name") == text.count("read_only=True") == 2
    assert 'read_only=True, sub_path=f"/build/{BUILD_KEY}"' in text
    assert 'read_only=True, sub_path=f"/weights/{WEIGHTS_KEY}"' in text


def test_a_server_with_several_weights_sees_all_weights_and_nothing_else() -> None:
    """A container mounts a Volume once: the client refuses a second folder of it."""
    beside = CAPTURED.replace("quant: Q4_K_M}", "quant: Q4_K_M, lora: [{url: LORA}]}")
    text = server(beside.replace("LORA", "https://example.com/a.gguf"))
    assert 'read_only=True, sub_path="/weights"' in text
    assert "str(PROGRAM.weights.parent): weights" in text


def test_the_builder_never_touches_what_is_complete() -> None:
    for module, name in (("compile", "compile_server"), ("fetch", "fetch_weights")):
        first = function(runtime(module), name).split("return about(target)")[0]
        assert "if is_complete(target)" in first
    publish = function(runtime("compile"), "publish")
    assert publish.index("volume.reload()") < publish.index("is_complete(")
    assert publish.rstrip().endswith("volume.complete(target, version)")
    complete = function(runtime("volume"), "complete")
    assert complete.index("write_text") < complete.index("self.commit()")


def test_the_candidate_proves_what_production_deploys() -> None:
    """Two lines of scaling and a name: nothing else differs."""
    files = rendered(CAPTURED + "scaling: {min_containers: 1, max_containers: 4}\n")
    one, other = (files[name].splitlines() for name in ("server.py", "candidate.py"))
    differ = [(a, b) for a, b in zip(one, other, strict=False) if a != b]
    assert differ[:2] == [
        (
            '"""App demo: llama-server.',
            '"""App demo-candidate: llama-server.',
        ),
        ('APP = "demo"', 'APP = "demo-candidate"'),
    ]
    scaling = ("min_containers", "max_containers", "scaledown_window")
    rest = [
        {line for line in lines if not line.strip().startswith(scaling)}
        for lines in (one[5:], other[5:])
    ]
    assert {*rest[0] ^ rest[1]} == {'APP = "demo"', 'APP = "demo-candidate"'}


def test_what_is_proven_has_the_key_of_the_snapshot() -> None:
    graph = graph_of(stack_of(CAPTURED))
    files = rendered(CAPTURED)
    for name in ("server.py", "candidate.py", "tryout.py"):
        assert constant(files[name], "RUN_KEY") == graph["demo/snapshot"].key
    plain = graph_of(stack_of(PLAIN))
    assert constant(server(PLAIN), "RUN_KEY") == plain["demo/server"].key


def test_scaling_changes_no_line_that_a_snapshot_depends_on() -> None:
    before = rendered(CAPTURED + "scaling: {max_containers: 2}\n")
    after = rendered(CAPTURED + "scaling: {max_containers: 3}\n")
    assert before["candidate.py"] == after["candidate.py"]
    assert before["builder.py"] == after["builder.py"]
    lines = (before["server.py"].splitlines(), after["server.py"].splitlines())
    changed = [(a, b) for a, b in zip(*lines, strict=True) if a != b]
    assert changed == [("    max_containers=2,", "    max_containers=3,")]


def test_memory_holds_the_weights_once_more() -> None:
    """18.3 GB of weights, 5 % on top, and 4 GiB beside them."""
    assert keyword(server(CAPTURED), "app.cls", "memory") == 22 * 1024
    cached = CAPTURED.replace("4096", "4096, cache_ram: 8192")
    assert keyword(server(cached), "app.cls", "memory") == 30 * 1024
    given = CAPTURED + "modal: {memory: 24GiB, cpu: 2.5}\n"
    assert keyword(server(given), "app.cls", "memory") == 24 * 1024
    assert keyword(server(given), "app.cls", "cpu") == 2.5


def test_a_start_is_bounded_and_below_modals_own_limit() -> None:
    assert constant(server(CAPTURED), "START_SECONDS") == 360
    allowed = keyword(server(CAPTURED), "app.cls", "startup_timeout")
    assert allowed == "START_SECONDS + 60"
    graph = graph_of(stack_of(CAPTURED))
    needs = {node.kind.value: outputs_of(node) for node in graph.values()}
    huge = {**needs, "weights": {**needs["weights"], "size": 10**12}}
    assert lower_server(graph["demo/server"], huge, {}).program.start_timeout == 1500


def test_the_tryout_is_a_plain_function_without_retries() -> None:
    text = rendered(CAPTURED)["tryout.py"]
    assert keyword(text, "app.function", "retries") == 0
    assert keyword(text, "app.function", "max_containers") == 1
    assert keyword(text, "app.function", "enable_memory_snapshot") is None
    assert constant(text, "COMMAND") == constant(server(CAPTURED), "COMMAND")
    tryout = function(text, "tryout")
    assert "llama.try_options(PROGRAM)" in tryout
    assert "llama.start(PROGRAM)" in tryout


def test_a_restore_is_checked_and_else_the_container_ends() -> None:
    assert "llama.check(self.server, PROGRAM)" in server(CAPTURED)
    check = function(runtime("serve"), "check")
    assert "os._exit(_WITHOUT_SNAPSHOT)" in check
    assert constant(runtime("serve"), "_WITHOUT_SNAPSHOT") == 222


def test_the_hook_returns_only_when_the_server_is_healthy_and_warm() -> None:
    assert "self.server = llama.start(PROGRAM)" in server(CAPTURED)
    start = function(runtime("serve"), "start").partition('"""')[2]
    order = ["subprocess.Popen", "wait_healthy(", "unlink(", "warm_up(", "report_mem"]
    assert [*sorted(order, key=start.index)] == order


def test_the_key_is_in_a_file_of_its_own_and_in_no_command_line() -> None:
    assert "touch(mode=384)" in function(runtime("serve"), "place")
    assert '"--api-key"' not in server(PLAIN)


def test_variables_of_the_stack_are_given_to_the_server() -> None:
    text = server(PLAIN.replace("4096", '4096, env: {GGML_X: true, Y: "it\'s"}'))
    assert "    variables={\n" in text
    assert '"GGML_X": "1",' in text
    assert '"Y": "it\'s",' in text
    assert "    variables=" not in server(PLAIN)


def test_a_server_without_a_key_mentions_none() -> None:
    text = server(PLAIN.replace("auth: {api_key: {secret: llama-api-key}}\n", ""))
    assert "api-key" not in text
    assert "secret" not in text


TWO = PLAIN.replace("4096", "4096, parallel: 2")


@pytest.mark.parametrize(
    ("text", "target", "most"),
    [
        (PLAIN, 4, 8),
        (TWO, 2, 6),
        (TWO + "scaling: {max_concurrent: 3}\n", 2, 3),
        (TWO + "scaling: {target_concurrency: 3}\n", 3, 7),
        (TWO + "scaling: {max_concurrent: 2}\n", None, 2),
        (TWO + "scaling: {max_concurrent: 1}\n", None, 1),
    ],
)
def test_a_container_has_as_many_requests_as_slots_and_a_few_more_for_scrapes(
    text: str, target: int | None, most: int
) -> None:
    """`/metrics` beside answers in all slots is no reason for another container."""
    rendered_text = server(text)
    assert keyword(rendered_text, "modal.concurrent", "target_inputs") == target
    assert keyword(rendered_text, "modal.concurrent", "max_inputs") == most


def test_a_server_endpoint_refuses_no_request_unless_a_limit_is_stated() -> None:
    """What is above the limit of a server is refused, and does not wait."""
    direct = TWO + "modal: {endpoint: server}\n"
    assert keyword(server(direct), "app.server", "target_concurrency") == 2
    assert keyword(server(direct), "app.server", "max_concurrency") is None
    stated = direct + "scaling: {max_concurrent: 5, scaleup_window: 10s}\n"
    assert keyword(server(stated), "app.server", "max_concurrency") == 5
    assert keyword(server(stated), "app.server", "scaleup_window") == 10


MACHINE = """\
modal:
  region: [eu, us-west]
  routing_region: eu-west
  cloud: aws
  cpu: 4
  cpu_limit: 8
  memory: 24GiB
  memory_limit: 32GiB
  ephemeral_disk: 600GiB
  startup_timeout: 10m
  tags: {team: search}
  mounts:
    - {at: /mnt/media, volume: media, folder: a/b}
    - {at: /mnt/more, bucket: more, folder: x, endpoint: "https://r2.example.org"}
"""


@pytest.mark.parametrize("endpoint", ["web_server", "server"])
def test_what_a_container_is_given_is_rendered_for_both_endpoints(
    endpoint: str,
) -> None:
    text = server(PLAIN + MACHINE + f"  endpoint: {endpoint}\n")
    call = "app.server" if endpoint == "server" else "app.cls"
    where = "compute_region" if endpoint == "server" else "region"
    assert keyword(text, call, where) == ["eu", "us-west"]
    assert keyword(text, call, "routing_region") == "eu-west"
    assert keyword(text, call, "cloud") == "aws"
    assert keyword(text, call, "cpu") == (4.0, 8.0)
    assert keyword(text, call, "memory") == (24576, 32768)
    assert keyword(text, call, "ephemeral_disk") == 600 * 1024
    assert constant(text, "START_SECONDS") == 600
    assert '"team": "search",' in text
    assert constant(text, "VOLUMES") == {
        "/mnt/media": {"name": "media", "path": "/a/b"}
    }
    assert constant(text, "BUCKETS") == {
        "/mnt/more": {
            "name": "more",
            "path": "x/",
            "endpoint": "https://r2.example.org",
        }
    }
    assert text.count("read_only=True") == 4


def test_a_proxy_asks_for_a_token_before_a_container_is_started() -> None:
    """The candidate's as well: it is a server with an address, too."""
    closed = PLAIN.replace("auth: {", "auth: {proxy: true, ")
    for name in ("server.py", "candidate.py"):
        text = rendered(closed)[name]
        assert keyword(text, "modal.web_server", "requires_proxy_auth") is True
        text = rendered(f"{closed}modal: {{endpoint: server}}\n")[name]
        assert keyword(text, "app.server", "unauthenticated") is False
    assert "proxy" not in server(PLAIN).replace("there is no proxy of ours", "")


def test_domains_and_the_time_of_a_request_are_of_a_web_server() -> None:
    text = PLAIN + "modal: {custom_domains: [llm.example.org], request_timeout: 10m}\n"
    assert keyword(server(text), "modal.web_server", "custom_domains") == [
        "llm.example.org"
    ]
    assert keyword(server(text), "app.cls", "timeout") == 600
    candidate = rendered(text)["candidate.py"]
    assert "custom_domains" not in candidate, "clients must not reach what is tried"


def test_a_container_without_a_gpu_may_be_one_that_stays() -> None:
    plain = PLAIN.replace(', cuda: "12.8.1"', "").replace("gpu: L4\n", "")
    text = server(plain + "modal: {nonpreemptible: true}\n")
    assert keyword(text, "app.cls", "nonpreemptible") is True


def test_a_region() -> None:
    text = server(PLAIN + "modal: {region: eu-west}\n")
    assert keyword(text, "app.cls", "region") == "eu-west"
    assert "region" not in server(PLAIN)


def test_a_server_endpoint_is_reached_without_a_queue() -> None:
    text = server(
        PLAIN
        + "modal: {endpoint: server, region: eu-north}\n"
        + "scaling: {max_containers: 3}\n"
    )
    assert keyword(text, "app.server", "routing_region") == "eu-west"
    assert keyword(text, "app.server", "compute_region") == "eu-north"
    assert keyword(text, "app.server", "target_concurrency") == 4
    assert keyword(text, "app.server", "unauthenticated") is True
    assert "web_server" not in text
    assert "modal.concurrent" not in text
    assert "503" in text


def test_a_single_server_has_no_target_and_no_limit() -> None:
    """A limit of one would keep a new version from taking over."""
    text = server(PLAIN + "modal: {endpoint: server}\nscaling: {max_containers: 1}\n")
    assert keyword(text, "app.server", "target_concurrency") is None
    assert keyword(text, "app.server", "max_containers") is None


@pytest.mark.parametrize(
    ("cuda", "image"),
    [
        ("12.8.1", "nvidia/cuda:12.8.1-runtime-ubuntu24.04"),
        ("12.8", "nvidia/cuda:12.8.0-runtime-ubuntu24.04"),
        ("12.4.1", "nvidia/cuda:12.4.1-runtime-ubuntu22.04"),
        ("13.0.2", "nvidia/cuda:13.0.2-runtime-ubuntu24.04"),
    ],
)
def test_images_follow_the_toolkit(cuda: str, image: str) -> None:
    files = rendered(PLAIN.replace("12.8.1", cuda))
    assert constant(files["server.py"], "IMAGE") == image
    devel = image.replace("runtime", "devel")
    assert constant(files["builder.py"], "BUILD_IMAGE") == devel


def test_images_are_pinned_by_what_the_lock_file_has() -> None:
    names = ("nvidia/cuda:12.8.1-devel-ubuntu24.04", "ghcr.io/some/image:1")
    digests = [f"sha256:{letter * 64}" for letter in "ab"]
    pinned = [f"{it}@{digest}" for it, digest in zip(names, digests, strict=True)]
    images = dict(zip(("build", "server"), pinned, strict=True))
    text = f"{CAPTURED}modal: {{image: '{names[1]}', registry_secret: registry}}\n"
    files = rendered(text, images)
    assert constant(files["builder.py"], "BUILD_IMAGE") == names[0]
    assert constant(files["builder.py"], "BUILD_DIGEST") == digests[0]
    assert 'from_registry(f"{BUILD_IMAGE}@{BUILD_DIGEST}", add' in files["builder.py"]
    for name in ("server.py", "candidate.py", "tryout.py"):
        assert constant(files[name], "IMAGE") == names[1]
        assert constant(files[name], "DIGEST") == digests[1]
        assert 'registry = modal.Secret.from_name("registry")' in files[name]
        assert 'from_registry(f"{IMAGE}@{DIGEST}", secret=registry, ad' in files[name]


def test_the_builder_compiles_what_the_local_engine_would() -> None:
    builder = rendered(production())["builder.py"]
    definitions = keyword(builder, "Build", "definitions")
    assert isinstance(definitions, list)
    assert "CMAKE_CUDA_ARCHITECTURES=89" in definitions
    assert "LLAMA_BUILD_NUMBER=11434" in definitions
    assert "GGML_CCACHE=ON" in definitions


def test_a_repository_that_is_not_open_gets_its_token() -> None:
    text = PLAIN.replace("quant: Q4_K_M", "quant: Q4_K_M, hub_secret: hugging")
    builder = rendered(text)["builder.py"]
    keys = keyword(builder, "modal.Secret.from_name", "required_keys")
    assert keys == ["HF_TOKEN"]
    assert "hub_secret" not in rendered(PLAIN)["builder.py"]
    with_token, without = graph_of(stack_of(text)), graph_of(stack_of(PLAIN))
    assert with_token["demo/weights"].key == without["demo/weights"].key


def test_a_patch_that_changed_since_it_was_locked_is_refused() -> None:
    stack = production()
    patches = load_patches(PATCHES, stack.llama_cpp.patches or ())
    build = graph_of(stack, patches)["gemma4-prod/build"]
    with pytest.raises(EngineError, match="changed since it was locked"):
        lower_builder(build, (), ())


def test_names_of_apps_are_those_of_the_stack() -> None:
    apps = lowered(PLAIN)
    assert apps.builder.app == builder_app("demo") == "demo-builder"
    assert apps.candidate.app == candidate_app("demo") == "demo-candidate"
    assert apps.server.app == "demo"


def test_a_url_is_cut_as_modal_cuts_it() -> None:
    assert url_label("acme", "", "demo") == "acme--demo"
    assert url_label("acme", "dev", "demo") == "acme-dev--demo"
    long = url_label("acme", "", "x" * 60)
    assert len(long) == 63
    assert long.startswith(f"acme--{'x' * 50}-")


@pytest.mark.parametrize(
    ("cuda", "source", "client"),
    [
        (', cuda: "12.8.1"', "", True),  # images of CUDA have no git
        (', cuda: "12.8.1"', ", source: pypi", False),
        ("", "", False),
    ],
)
def test_what_images_add_is_pinned(cuda: str, source: str, *, client: bool) -> None:
    text = PLAIN.replace(', cuda: "12.8.1"', f"{cuda}{source}")
    if not cuda:
        text = text.replace("gpu: L4\n", "")
    files = rendered(text)
    assert not [name for name, code in files.items() if "apt_install" in code]
    added = [
        ast.literal_eval(word)
        for code in files.values()
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "pip_install"
        for word in node.args
    ]
    assert added
    assert all("==" in package for package in added)
    assert any(package.startswith("dulwich") for package in added) == client
