"""The options of llama-server that a stack states as intent.

Each field becomes an option by its `Flag` marks; where upstream renamed one, the
marks say for which builds.  Unset means llama-server's own default: none is repeated
here.  Names and ranges: ``common/arg.cpp`` of 16 builds from b8646 to b11434.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, JsonValue, NonNegativeInt, PositiveInt

from deployer.stack.fields.marks import Section
from deployer.stack.fields.values import (
    DURATION_PATTERN,
    SIZE_PATTERN,
    TEMPLATE_ENDING,
    File,
    Flag,
    Mark,
    Memory,
    Only,
    Options,
    Unit,
)

CacheType = (
    Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"]
    | Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]
)
"""Types of upstream, or of a fork: the options of the build decide."""
OnOffAuto = Literal["on", "off", "auto"]

Text = Annotated[str, Field(min_length=1, pattern=r"^[^\x00-\x08\x0b-\x1f\x7f]*$")]
Duration = Annotated[
    Annotated[str, Field(pattern=DURATION_PATTERN)] | Annotated[float, Field(ge=0)],
    Unit.DURATION,
]
Size = Annotated[
    Annotated[str, Field(pattern=SIZE_PATTERN)] | NonNegativeInt, Unit.SIZE
]

VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]

_MMAP_GONE = 10104
"""``--load-mode`` came with b10105; the older flags were removed in b10878."""
_UI = 9246
"""``--webui`` was renamed to ``--ui`` by b9246."""


DRAFTING = ("draft-simple", "draft-eagle3", "draft-mtp", "draft-dflash", "draft-dspark")
"""Types of speculative decoding that read a draft, or heads of the model itself."""
_MAPS = ("ngram-simple", "ngram-map-k", "ngram-map-k4v")
_MOD = ("ngram-mod",)
_SPEC = 9093
"""``--draft-*`` and ``--spec-ngram-*`` were split by type after b8929, by b9093."""
_TYPED = 9246
"""Until then a draft needs no ``--spec-type``; the option took n-gram types alone."""


def _drafting(old: str, new: str) -> tuple[Flag, Flag]:
    """The option of a draft before and since it was renamed."""
    return Flag(old, until=_SPEC - 1, types=DRAFTING), Flag(
        new, since=_SPEC, types=DRAFTING
    )


def _mapped(name: str) -> tuple[Flag, ...]:
    """The option of each type that keeps a map of n-grams."""
    old = Flag(f"--spec-ngram-{name}", until=_SPEC - 1, types=_MAPS)
    new = (Flag(f"--spec-{it}-{name}", since=_SPEC, types=(it,)) for it in _MAPS)
    return (old, *new)


class Reference(Section):
    """Where a secret, such as an API key, is found; never the secret itself."""

    says_something_when_empty: ClassVar[bool] = True

    env: VariableName | None = None
    """Variable with the value; unset: the usual name on Modal, refused on local."""

    secret: Annotated[Text | None, Only("modal")] = None
    """Modal secret with the variable; unset: refused on Modal."""


class Drafting(Section):
    """Speculative decoding: what guesses tokens ahead, and how many."""

    type: Annotated[
        Literal[
            "draft-simple",
            "draft-eagle3",
            "draft-mtp",
            "draft-dflash",
            "draft-dspark",
            "ngram-simple",
            "ngram-map-k",
            "ngram-map-k4v",
            "ngram-mod",
            "ngram-cache",
        ],
        Flag("--spec-type", since=_TYPED, types=("draft-simple",)),
        Flag("--spec-type", types=(*DRAFTING[1:], *_MAPS, *_MOD, "ngram-cache")),
    ]
    """The guesser: a draft (`draft-…`, see `model.draft`), or the text so far."""

    n_max: Annotated[
        PositiveInt | None,
        Flag("--draft-max", until=_SPEC - 1, types=(*DRAFTING, *_MOD)),
        Flag("--spec-draft-n-max", since=_SPEC, types=DRAFTING),
        Flag("--spec-ngram-mod-n-max", since=_SPEC, types=_MOD),
    ] = None
    """Most tokens that are guessed at once."""

    n_min: Annotated[
        NonNegativeInt | None,
        Flag("--draft-min", until=_SPEC - 1, types=(*DRAFTING, *_MOD)),
        Flag("--spec-draft-n-min", since=_SPEC, types=DRAFTING),
        Flag("--spec-ngram-mod-n-min", since=_SPEC, types=_MOD),
    ] = None
    """Fewest tokens for which a guess is tried."""

    p_min: Annotated[
        float | None,
        Field(ge=0, le=1),
        *_drafting("--draft-p-min", "--spec-draft-p-min"),
    ] = None
    """Least probability of a token that a draft guesses."""

    n_match: Annotated[
        PositiveInt | None,
        Flag("--spec-ngram-size-n", until=_SPEC - 1, types=_MOD),
        Flag("--spec-ngram-mod-n-match", since=_SPEC, types=_MOD),
    ] = None
    """Tokens that must match for `ngram-mod`."""

    size_n: Annotated[PositiveInt | None, *_mapped("size-n")] = None
    """Tokens that are looked up in the text so far."""

    size_m: Annotated[PositiveInt | None, *_mapped("size-m")] = None
    """Tokens that are guessed from where they were found."""

    min_hits: Annotated[PositiveInt | None, *_mapped("min-hits")] = None
    """Times that they must have been found."""

    n_gpu_layers: Annotated[
        NonNegativeInt | Literal["auto", "all"] | None,
        *_drafting("--gpu-layers-draft", "--spec-draft-ngl"),
        Memory.COMPUTED,
    ] = None
    """Layers of the draft in GPU memory: a number, `auto` or `all`."""

    device: Annotated[
        tuple[Text, ...] | None,
        *_drafting("--device-draft", "--spec-draft-device"),
        Memory.UNKNOWN,
    ] = None
    """Devices of the draft, as `llama-server --list-devices` names them."""

    n_cpu_moe: Annotated[
        NonNegativeInt | None,
        *_drafting("--n-cpu-moe-draft", "--spec-draft-n-cpu-moe"),
        Memory.COMPUTED,
    ] = None
    """Layers of the draft whose experts stay in host memory."""

    cache_type_k: Annotated[
        CacheType | None,
        *_drafting("--cache-type-k-draft", "--spec-draft-type-k"),
        Memory.COMPUTED,
    ] = None
    """Type of the key half of the KV cache of the draft."""

    cache_type_v: Annotated[
        CacheType | None,
        *_drafting("--cache-type-v-draft", "--spec-draft-type-v"),
        Memory.COMPUTED,
    ] = None
    """Type of the value half of the KV cache of the draft."""

    threads: Annotated[
        PositiveInt | None, *_drafting("--threads-draft", "--spec-draft-threads")
    ] = None
    """CPU threads of the draft for generation."""

    threads_batch: Annotated[
        PositiveInt | None,
        *_drafting("--threads-batch-draft", "--spec-draft-threads-batch"),
    ] = None
    """CPU threads of the draft for prompt processing."""

    sampling: Annotated[
        Literal["greedy", "probabilistic"] | None,
        Flag("--spec-draft-sampling", types=("draft-simple", "draft-mtp")),
    ] = None
    """How the draft picks its tokens, from b11434 on."""


class Server(Section):
    """Options of llama-server.  Unset means llama-server's own default."""

    ctx_size: Annotated[
        PositiveInt | None, Flag("--ctx-size", default=0), Memory.COMPUTED
    ] = None
    """Context in tokens, shared by all slots."""

    parallel: Annotated[
        PositiveInt | None, Flag("--parallel", default=-1), Memory.COMPUTED
    ] = None
    """Slots that decode at the same time."""

    batch_size: Annotated[PositiveInt | None, Flag("--batch-size"), Memory.COMPUTED] = (
        None
    )
    """Logical batch: most prompt tokens handed to the model at once."""

    ubatch_size: Annotated[
        PositiveInt | None, Flag("--ubatch-size"), Memory.COMPUTED
    ] = None
    """Physical batch in tokens; an image of a vision model must fit in one."""

    threads: Annotated[PositiveInt | None, Flag("--threads", default=-1)] = None
    """CPU threads for generation."""

    threads_batch: Annotated[
        PositiveInt | None, Flag("--threads-batch", default=-1)
    ] = None
    """CPU threads for prompt processing."""

    threads_http: Annotated[PositiveInt | None, Flag("--threads-http", default=-1)] = (
        None
    )
    """Threads that answer HTTP requests."""

    n_gpu_layers: Annotated[
        NonNegativeInt | Literal["auto", "all"] | None,
        Flag("--n-gpu-layers", default=-1),
        Memory.COMPUTED,
    ] = None
    """Layers kept in GPU memory: a number, `auto` or `all`."""

    split_mode: Annotated[
        Literal["none", "layer", "row", "tensor"] | None, Flag("--split-mode")
    ] = None
    """How a model is split over several GPUs."""

    tensor_split: Annotated[tuple[float, ...] | None, Flag("--tensor-split")] = None
    """Share of the model for each GPU."""

    main_gpu: Annotated[NonNegativeInt | None, Flag("--main-gpu")] = None
    """Index of the GPU for what is not split."""

    device: Annotated[tuple[Text, ...] | None, Flag("--device")] = None
    """Devices to use, as `llama-server --list-devices` names them."""

    flash_attn: Annotated[OnOffAuto | None, Flag("--flash-attn"), Memory.COMPUTED] = (
        None
    )
    """Flash attention; needed for a quantised V cache."""

    mmap: Annotated[
        bool | None,
        Flag("--mmap", off="--no-mmap", until=_MMAP_GONE),
        Flag("--load-mode mmap", off="--load-mode none", since=_MMAP_GONE + 1),
    ] = None
    """Map the model file instead of reading it; off for memory snapshots."""

    mlock: Annotated[
        bool | None,
        Flag("--mlock", until=_MMAP_GONE),
        Flag("--load-mode mlock", since=_MMAP_GONE + 1),
    ] = None
    """Keep the model in RAM, never swapped out."""

    direct_io: Annotated[
        bool | None,
        Flag("--direct-io", off="--no-direct-io", until=_MMAP_GONE),
        Flag("--load-mode dio", since=_MMAP_GONE + 1),
    ] = None
    """Read the model past the page cache."""

    cache_type_k: Annotated[
        CacheType | None, Flag("--cache-type-k"), Memory.COMPUTED
    ] = None
    """Type of the key half of the KV cache."""

    cache_type_v: Annotated[
        CacheType | None, Flag("--cache-type-v"), Memory.COMPUTED
    ] = None
    """Type of the value half of the KV cache."""

    kv_offload: Annotated[
        bool | None, Flag("--kv-offload", off="--no-kv-offload"), Memory.COMPUTED
    ] = None
    """Keep the KV cache in GPU memory."""

    kv_unified: Annotated[
        bool | None, Flag("--kv-unified", off="--no-kv-unified"), Memory.COMPUTED
    ] = None
    """One KV buffer for all slots instead of one each."""

    swa_full: Annotated[bool | None, Flag("--swa-full"), Memory.COMPUTED] = None
    """Full-size cache for sliding-window layers."""

    ctx_checkpoints: Annotated[
        NonNegativeInt | None, Flag("--ctx-checkpoints"), Memory.COMPUTED
    ] = None
    """Context checkpoints kept for each slot in host memory."""

    cache_ram: Annotated[
        int | None, Field(ge=-1), Flag("--cache-ram"), Memory.COMPUTED
    ] = None
    """Host memory for the prompt cache in MiB; 0 turns it off, -1 sets no limit."""

    cache_prompt: Annotated[
        bool | None, Flag("--cache-prompt", off="--no-cache-prompt")
    ] = None
    """Reuse the KV cache of a common prompt prefix."""

    cache_reuse: Annotated[NonNegativeInt | None, Flag("--cache-reuse")] = None
    """Smallest chunk in tokens that is reused by shifting the KV cache."""

    cont_batching: Annotated[
        bool | None, Flag("--cont-batching", off="--no-cont-batching")
    ] = None
    """Admit new requests while others decode."""

    context_shift: Annotated[
        bool | None, Flag("--context-shift", off="--no-context-shift")
    ] = None
    """Drop the oldest tokens when a generation fills the context."""

    jinja: Annotated[bool | None, Flag("--jinja", off="--no-jinja")] = None
    """Render the chat template with jinja; needed for tools."""

    chat_template: Annotated[
        Text | None,
        Flag("--chat-template"),
        File(ending=TEMPLATE_ENDING, digest="{path}.sha256"),
    ] = None
    """Chat template: a name of this build, or a `.jinja` file relative to the stack."""

    chat_template_kwargs: Annotated[
        dict[str, JsonValue] | None, Flag("--chat-template-kwargs")
    ] = None
    """Variables of the chat template, such as `enable_thinking: false`."""

    reasoning: Annotated[OnOffAuto | None, Flag("--reasoning")] = None
    """Thinking of models that can be asked to think."""

    reasoning_format: Annotated[
        Literal["none", "auto", "deepseek", "deepseek-legacy"] | None,
        Flag("--reasoning-format"),
    ] = None
    """How thinking is split off into `reasoning_content`."""

    reasoning_budget: Annotated[
        int | None, Field(ge=-1), Flag("--reasoning-budget")
    ] = None
    """Most thinking tokens of a request that states none; -1 sets no limit."""

    reasoning_budget_message: Annotated[
        Text | None, Flag("--reasoning-budget-message")
    ] = None
    """Text put before the end of thinking when the budget ran out."""

    image_min_tokens: Annotated[PositiveInt | None, Flag("--image-min-tokens")] = None
    """Fewest tokens an image becomes."""

    image_max_tokens: Annotated[PositiveInt | None, Flag("--image-max-tokens")] = None
    """Most tokens an image becomes; at most `ubatch_size` on builds that abort."""

    mmproj_offload: Annotated[
        bool | None,
        Flag("--mmproj-offload", off="--no-mmproj-offload"),
        Memory.COMPUTED,
    ] = None
    """Keep the multimodal projector in GPU memory."""

    n_cpu_moe: Annotated[
        NonNegativeInt | None, Flag("--n-cpu-moe"), Memory.COMPUTED
    ] = None
    """Layers whose experts stay in host memory."""

    override_tensor: Annotated[
        tuple[Text, ...] | None, Flag("--override-tensor"), Memory.UNKNOWN
    ] = None
    """Where tensors go, as `pattern=buffer type`."""

    warmup: Annotated[bool | None, Flag("--warmup", off="--no-warmup")] = None
    """Run the model once, empty, before the server is healthy."""

    fit: Annotated[Literal["on", "off"] | None, Flag("--fit")] = None
    """Let llama-server shrink what is unset to the memory there is; costs start-up."""

    metrics: Annotated[bool | None, Flag("--metrics")] = None
    """Serve Prometheus counters at /metrics."""

    slots: Annotated[bool | None, Flag("--slots", off="--no-slots")] = None
    """Serve the state of the slots at /slots."""

    props: Annotated[bool | None, Flag("--props")] = None
    """Let clients change global properties with POST /props."""

    ui: Annotated[
        bool | None,
        Flag("--webui", off="--no-webui", until=_UI - 1),
        Flag("--ui", off="--no-ui", since=_UI),
    ] = None
    """Serve the web page of llama-server."""

    embeddings: Annotated[bool | None, Flag("--embeddings")] = None
    """Serve /v1/embeddings."""

    pooling: Annotated[
        Literal["none", "mean", "cls", "last", "rank"] | None, Flag("--pooling")
    ] = None
    """How token embeddings become one."""

    reranking: Annotated[bool | None, Flag("--reranking")] = None
    """Serve /v1/rerank."""

    timeout: Annotated[Duration | None, Flag("--timeout")] = None
    """Longest silence on a connection, reading or writing."""

    predict: Annotated[int | None, Field(ge=-1), Flag("--predict")] = None
    """Most tokens of an answer to a request that states none; -1 sets no limit."""

    temperature: Annotated[float | None, Field(ge=0), Flag("--temp")] = None
    """Sampling temperature of a request that states none."""

    top_k: Annotated[NonNegativeInt | None, Flag("--top-k")] = None
    """Tokens considered at each step."""

    top_p: Annotated[float | None, Field(ge=0, le=1), Flag("--top-p")] = None
    """Probability mass considered at each step."""

    min_p: Annotated[float | None, Field(ge=0, le=1), Flag("--min-p")] = None
    """Least probability, relative to the likeliest token."""

    seed: Annotated[int | None, Field(ge=-1), Flag("--seed")] = None
    """Seed of the sampler; -1 is random."""

    verbosity: Annotated[int | None, Field(ge=0, le=5), Flag("--verbosity")] = None
    """How much llama-server logs."""

    speculative: Drafting | None = None
    """Speculative decoding: a draft model, a head, or n-grams; unset: none."""

    flags: Annotated[
        dict[str, bool | int | float | Text | tuple[Text | int | float, ...]] | None,
        Options("deployer.llama.catalogue"),
    ] = None
    """Any other option by its long name without dashes; `true` where it takes none."""

    env: Annotated[
        dict[VariableName, bool | int | float | Text | Reference] | None, Mark.EACH
    ] = None
    """Environment variables of llama-server, secrets by reference; unset: none."""
