"""The options of llama-server are read from the source of a build."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from deployer.llama import description
from deployer.llama.catalogue import Option, Standing, Takes, catalogue
from deployer.llama.description import Description, Origin, describe, describe_tree
from deployer.planning.facts import Pin

ARG = r"""
static std::initializer_list<enum llama_example> mine = {
    LLAMA_EXAMPLE_CLI, LLAMA_EXAMPLE_SERVER,
};
static const std::initializer_list<enum llama_example> others = {LLAMA_EXAMPLE_BENCH};
common_params_context init(common_params & params, llama_example ex) {
    if (ex == LLAMA_EXAMPLE_COMPLETION) {
        params.use_jinja = false;
    } else if (ex == LLAMA_EXAMPLE_SERVER) {
        params.n_parallel = -1; // as many as fit
    }
    add_opt(common_arg(
        {"-c", "--ctx-size"}, "N",
        string_format("how much (default: %d, 0 = as trained)", params.n_ctx),
        [](common_params & params, int value) { params.n_ctx = value; }
    ).set_env("LLAMA_ARG_CTX_SIZE"));
    // add_opt(common_arg({"--in-a-comment"}, "N", "", f));
    add_opt(common_arg(
        {"--temp"}, "N",
        string_format("warmth (default: %.2f)", (double)params.sampling.temp),
        [](common_params & params, const std::string & value) {
            params.sampling.temp = std::stof(value);
        }
    ));
    add_opt(common_arg(
        {"-kvo", "--kv-offload"},
        {"-nkvo", "--no-kv-offload"},
        string_format("(default: %s)", params.no_kv ? "disabled" : "enabled"),
        [](common_params & params, bool value) { params.no_kv = !value; }
    ));
    add_opt(common_arg(
        {"-fa", "--flash-attn"}, "[on|off|auto]",
        "a text with (brackets, and a \"quote\"",
        [](common_params & params, const std::string & value) {
            if (is_truthy(value)) { on(); } else if (is_falsey(value)) { off(); }
            else if (is_autoy(value)) { both(); } else { throw std::exception(); }
        }
    ));
    add_opt(common_arg(
        {"-ctk", "--cache-type-k"}, "TYPE",
        string_format("(default: %s)", ggml_type_name(params.cache_type_k)),
        [](common_params & params, const std::string & value) {
            params.cache_type_k = kv_cache_type_from_str(value);
        }
    ));
    add_opt(common_arg(
        {"--split-mode"}, "MODE", "",
        [](common_params & params, const std::string & value) {
            if (value == "none") { a(); }
            else if (value == "layer") { b(); }
            else { throw std::invalid_argument("invalid value"); }
        }
    ));
    add_opt(common_arg(
        {"--spec-type"}, all_types_str(), "a list",
        [](common_params & params, const std::string & value) {
            const auto names = string_split<std::string>(value, ',');
            params.types = types_from_names(names);
        }
    ));
    add_opt(common_arg(
        {"--range"}, "START", "END", "two",
        [](common_params & params, const std::string & a, const std::string & b) {}
    ));
    add_opt(common_arg(
        {"--draft", "--draft-max"}, "N",
        "the argument has been removed. use --spec-draft-n-max or --spec-ngram-n-max",
        [](common_params & params, int value) { arg_removed("use --spec-draft-n-max"); }
    ).set_examples({LLAMA_EXAMPLE_SERVER}));
    add_opt(common_arg(
        {"--only-for-bench"}, "N", "", [](common_params & params, int value) {}
    ).set_examples({LLAMA_EXAMPLE_BENCH}));
    add_opt(common_arg(
        {"--not-for-us"}, "", [](common_params & params) {}
    ).set_excludes({LLAMA_EXAMPLE_SERVER}));
    add_opt(common_arg(
        {"--for-some"}, "N", "", [](common_params & params, int value) {}
    ).set_examples(mine));
    add_opt(common_arg(
        {"--for-others"}, "N", "", [](common_params & params, int value) {}
    ).set_examples(others));
    if (ex == LLAMA_EXAMPLE_SERVER) {
        add_opt(common_arg(
            {"-np", "--parallel"}, "N",
            string_format("(default: %d, -1 = auto)", params.n_parallel),
            [](common_params & params, int value) { params.n_parallel = value; }
        ).set_examples({LLAMA_EXAMPLE_SERVER}));
    } else {
        add_opt(common_arg(
            {"-np", "--parallel"}, "N", "another text",
            [](common_params & params, int value) { params.n_parallel = value; }
        ));
    }
}
"""
COMMON = """
struct common_params_sampling {
    float temp = 0.80f; // <= 0.0 to sample greedily
};
struct common_params {
    int32_t n_ctx      = 0;
    int32_t n_parallel = 1;
    bool    no_kv      = false;
    ggml_type cache_type_k = GGML_TYPE_F16;
    struct common_params_sampling sampling;
};
"""
SPECULATIVE = """
const std::map<std::string, type> type_map = {{"none", NONE}, {"ngram-mod", MOD}};
std::vector<type> types_from_names(const std::vector<std::string> & names) {
    return look_up(type_map, names);
}
const std::vector<ggml_type> kv_cache_types = { GGML_TYPE_F32, GGML_TYPE_Q8_0 };
static ggml_type kv_cache_type_from_str(const std::string & s) {
    for (const auto & type : kv_cache_types) { return type; }
    throw std::runtime_error("Unsupported cache type: " + s);
}
"""
FILES: Mapping[str, str] = {
    "common/arg.cpp": ARG,
    "common/common.h": COMMON,
    "common/speculative.cpp": SPECULATIVE,
    "ggml/CMakeLists.txt": """
        option(GGML_CUDA_FA_ALL_QUANTS "ggml: compile all" OFF)
        set   (GGML_CUDA_FA_QUANTS "q4_0;q8_0" CACHE STRING "which")
        set(GGML_SOURCES a.c)
    """,
    "common/chat.cpp": 'data.thinking_start_tag = "<|channel>thought";',
    "tools/server/server-http.cpp": """
        static const std::unordered_set<std::string> public_endpoints = {
            "/health",
            "/v1/models",
        };
    """,
    "tools/server/server.cpp": """
        ctx_http.get ("/health", wrap(routes.get_health));
        ctx_http.post("/v1/chat/completions", wrap(routes.post_chat));
    """,
    "tools/server/server-schema.cpp": """
        add((new field_num("n_predict", params.n))->add_alias("max_tokens"));
        auto grammar = json_value(body, "grammar", std::string());
    """,
    "src/llama-arch.cpp": '{ LLM_ARCH_LLAMA, "llama" }, { LLM_ARCH_GEMMA4, "gemma4" }',
    "tools/mtmd/clip-impl.h": '{ PROJECTOR_TYPE_GEMMA4V, "gemma4v" },',
    "src/llama-chat.cpp": '{ "chatml", LLM_CHAT_TEMPLATE_CHATML },',
    "include/llama.h": "#define LLAMA_SESSION_VERSION 11\n"
    "#define LLAMA_STATE_SEQ_VERSION 4\n",
    "CMakeLists.txt": "set(LLAMA_VERSION_MAJOR 0)\nset(LLAMA_VERSION_MINOR 6)\n"
    "set(LLAMA_VERSION_PATCH 0)\n",
}


def write(folder: Path, files: Mapping[str, str] = FILES) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8")
    return folder


@pytest.fixture(scope="module")
def options() -> Mapping[str, Option]:
    found = describe(FILES)
    assert found is not None
    return found.catalogue(1).by_name


def test_an_option_has_its_names_its_hint_and_its_variable(
    options: Mapping[str, Option],
) -> None:
    assert options["-c"] == Option(
        ("-c", "--ctx-size"),
        Takes.INT,
        hint="N",
        env="LLAMA_ARG_CTX_SIZE",
        default="0",
    )
    assert options["-kvo"].off == ("-nkvo", "--no-kv-offload")


@pytest.mark.parametrize(
    ("name", "takes", "values", "default"),
    [
        ("--temp", Takes.NUMBER, (), "0.80"),
        ("--kv-offload", Takes.NOTHING, (), "enabled"),
        ("--flash-attn", Takes.SWITCH, ("on", "off", "auto"), ""),
        ("--cache-type-k", Takes.TEXT, ("f32", "q8_0"), "f16"),
        ("--split-mode", Takes.TEXT, ("none", "layer"), ""),
        ("--spec-type", Takes.TEXT, ("none", "ngram-mod"), ""),
        ("--range", Takes.TWO, (), ""),
        ("--parallel", Takes.INT, (), "-1"),
    ],
)
def test_the_handler_says_what_a_value_may_be(
    options: Mapping[str, Option],
    name: str,
    takes: Takes,
    values: tuple[str, ...],
    default: str,
) -> None:
    found = options[name]
    assert (found.takes, found.values, found.default) == (takes, values, default)
    assert found.lists is (name == "--spec-type")


def test_a_removed_option_names_what_took_its_place(
    options: Mapping[str, Option],
) -> None:
    found = options["--draft-max"]
    assert found.standing is Standing.REMOVED
    assert found.instead == ("--spec-draft-n-max", "--spec-ngram-n-max")


def test_options_of_other_programs_are_none_of_ours(
    options: Mapping[str, Option],
) -> None:
    others = {"--only-for-bench", "--not-for-us", "--in-a-comment", "--for-others"}
    assert not others & {*options}
    assert "--for-some" in options


def test_the_rest_of_a_build_is_read(tmp_path: Path) -> None:
    found = describe_tree(write(tmp_path))
    assert found is not None
    assert found.origin is Origin.TREE
    assert found.routes == ("GET /health", "POST /v1/chat/completions")
    assert found.fields == ("grammar", "max_tokens", "n_predict")
    assert found.architectures == ("gemma4", "llama")
    assert (found.projectors, found.templates) == (("gemma4v",), ("chatml",))
    assert found.formats == {"session": 11, "sequence": 4}
    assert found.version == "0.6.0"


def test_a_tree_without_options_has_no_description(tmp_path: Path) -> None:
    assert describe_tree(write(tmp_path, {"CMakeLists.txt": ""})) is None


def test_a_description_is_kept_by_what_it_was_read_from(tmp_path: Path) -> None:
    found = describe(FILES)
    assert found is not None
    pin, other = (Pin("source-git", {"commit": x * 40}, {}) for x in "ab")
    description.keep(tmp_path, pin, found)
    assert description.find(tmp_path, pin) == found
    assert description.find(tmp_path, other) is None


@pytest.mark.parametrize("damage", ["", "{", '{"origin": "moon"}', "[1]"])
def test_a_damaged_description_is_none(tmp_path: Path, damage: str) -> None:
    found = describe(FILES)
    assert found is not None
    pin = Pin("source-git", {"commit": "a" * 40}, {})
    description.keep(tmp_path, pin, found)
    description.place(tmp_path, pin).write_text(damage, "utf-8")
    assert description.find(tmp_path, pin) is None


def test_a_description_other_than_the_locked_one_is_none(tmp_path: Path) -> None:
    found = describe(FILES)
    assert found is not None
    reader, _, _ = found.digest.partition("-")
    for locked, there in ((f"{reader}-{'0' * 64}", None), (f"0-{'0' * 64}", found)):
        pin = Pin("source-git", {"commit": "a" * 40}, {}, {"description": locked})
        description.keep(tmp_path, pin, found)
        assert description.find(tmp_path, pin) == there


@pytest.mark.parametrize(
    ("fact", "stated"),
    [
        ("option --ctx-size", True),
        ("option --ctx_size", True),
        ("option --no-such", False),
        ("option --draft", False),  # parsed only to be refused
        ("value --split-mode layer", True),
        ("value --split-mode tensor", False),
        ("route GET /health", True),
        ("route POST /v1/responses", False),
        ("field max_tokens", True),
        ("architecture gemma4", True),
        ("architecture llama4", False),
        ("projector gemma4v", True),
        ("definition GGML_CUDA_FA_QUANTS", True),
        ("definition GGML_SOURCES", False),  # no option of cmake
        ("open-route /v1/models", True),
        ("open-route /props", False),
        ("sign gemma4-thinking-tags", True),
        ("sign config-file", False),
    ],
)
def test_a_tree_answers_what_is_part_of_the_build(fact: str, *, stated: bool) -> None:
    found = describe(FILES)
    assert found is not None
    assert found.catalogue(None).states(fact) is stated


@pytest.mark.parametrize("kind", ["definition", "open-route", "architecture", "route"])
def test_what_was_not_found_in_a_tree_was_not_read(kind: str) -> None:
    """Upstream moved it: that is no proof that it is gone."""
    found = describe({"common/arg.cpp": ARG})
    assert found is not None
    assert found.catalogue(None).states(f"{kind} any") is None


def test_help_and_table_state_options_only() -> None:
    table = catalogue(11434)
    help_text = Description(Origin.HELP, table.options, build=11434)
    for known in (table, help_text.catalogue(11434)):
        assert known.states("option --load-mode") is True
        assert known.states("value --load-mode mmap+mlock") is True
        assert known.states("architecture llama") is None
        assert known.states("sign config-file") is None
    assert catalogue(99999).states("option --load-mode") is None
    assert catalogue(None).states("option --load-mode") is None
