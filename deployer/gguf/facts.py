"""Facts from the headers of a model, small enough for a lock file.

Marks of thinking and tools are those that llama.cpp's own parsers look for
(``common/chat.cpp`` of b8672, b9763 and b10867); a template may do more than its text
shows, so what is missing here is worth a warning, never an error.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from math import prod
from typing import Any, get_args, get_origin, get_type_hints

from deployer.errors import SourceError
from deployer.gguf.header import FILE_TYPES, TYPES, Array, Header, HeaderError, Tensor
from deployer.stack.fields.values import Flat, JsonValue

_THINKING = (
    *("enable_thinking", "reasoning_content", "<think>", "<|channel>thought"),
    *("<|channel|>analysis", "[THINK]", "<seed:think>", "<|START_THINKING|>"),
    *("reasoning_effort", "thinking", "<|think|>"),
)
_TOOLS = ("tools", "tool_calls", "available_tools")


@dataclass(frozen=True, slots=True)
class Template:
    """A chat template, by what it is and what it can do."""

    digest: str
    """First characters of its SHA-256: which template it is."""
    thinking: bool
    """It knows of thinking."""
    tools: bool
    """It shows tools to the model."""
    outdated: str = ""
    """Why it should not be used any more; empty for no known reason."""


def template_of(text: str) -> Template | None:
    """Return what a template can do; None where there is none."""
    if not text.strip():
        return None
    return Template(
        digest=hashlib.sha256(text.encode(errors="replace")).hexdigest()[:12],
        thinking=any(mark in text for mark in _THINKING),
        tools=any(mark in text for mark in _TOOLS),
        outdated=_outdated(text),
    )


def _outdated(text: str) -> str:
    """Early Gemma 4 files: llama.cpp patches them up from b8753 on, and says so."""
    early = "'<|tool_call>call:'" in text
    if early and "{#- OpenAI Chat Completions:" not in text:
        return "an early template of Gemma 4, which llama-server calls outdated"
    return ""


_OTHERS: Mapping[str, tuple[str, str]] = {
    "adapter": ("an adapter (LoRA)", "name it as `model.lora`"),
    "imatrix": ("an importance matrix, which only quantising reads", ""),
    "mmproj": ("a multimodal projector", "name it as `model.mmproj`"),
}
"""Values of `general.type`: what the file is, and where it belongs."""
_DRAFTERS = frozenset({"dflash", "dspark", "eagle3"})
_DRAFTER = "-assistant"
"""Architectures that predict tokens for another model, and serve none alone."""
_VOCODERS = frozenset({"wavtokenizer-dec"})
_REMOVED_TYPES = frozenset({4, 5, 31, 32, 33, 36, 37, 38})
"""Types of tensors that `ggml.h` lists as removed (Q4_2, Q4_0_4_4, IQ4_NL_4_4 …)."""

PROJECTOR = "clip"
"""The architecture that a multimodal projector calls itself."""

PerLayer = int | tuple[int, ...]

MOST_LAYERS = 4096
"""llama.cpp takes 512; what is computed layer by layer has to end."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model: what it is, and what its memory is computed from."""

    architecture: str
    size: int
    """Bytes of all its files."""
    block_count: int
    embedding_length: int
    vocabulary: int
    name: str = ""
    quant: str = ""
    files: int = 1
    parameters: int = 0
    context_length: int = 0
    feed_forward_length: PerLayer = 0
    heads: PerLayer = 0
    kv_heads: PerLayer = 0
    key_length: int = 0
    value_length: int = 0
    key_length_swa: int = 0
    value_length_swa: int = 0
    sliding_window: int = 0
    window_pattern: PerLayer = 0
    """Its period, or for each layer whether it has a window; 0 where none is given."""
    shared_kv_layers: int = 0
    latent_attention: bool = False
    """Keys and values are kept compressed, in the key half alone."""
    state_size: int = 0
    """Bytes of recurrent state of one sequence in one layer; 0 for none."""
    attention_interval: int = 0
    """Layers from one with attention to the next, where the others are recurrent."""
    recurrent_layers: PerLayer = 0
    """For each layer whether it is recurrent, as the file states it; 0 if it does not.
    """
    history_bytes: tuple[int, ...] = ()
    """Bytes of one sequence that layers keep beside their recurrent state."""
    prediction_layers: int = 0
    """The last layers, which predict further tokens (MTP) and serve no other end."""
    dense_layers: int = 0
    """The first layers, which have no experts."""
    indexer_length: int = 0
    """Width of the keys by which sparse attention finds tokens; 0 for none."""
    indexer_layers: PerLayer = 0
    """For each layer whether it has such keys, as the file states it."""
    indexer_pool: int = 0
    """Tokens whose keys are pooled; 0 for none."""
    experts: int = 0
    experts_used: int = 0
    expert_length: int = 0
    expert_bytes: tuple[int, ...] = ()
    """Bytes of the experts of each layer; empty without experts."""
    tensor_bytes: int = 0
    """Bytes of all tensors; 0 where they were not read."""
    layer_bytes: tuple[int, ...] = ()
    """Bytes of each layer; empty where the tensors were not read."""
    embedding_bytes: int = 0
    """The table of token embeddings, which stays in host memory."""
    tied: bool = False
    """The table is the output matrix too, and kept a second time for it."""
    template: Template | None = None
    """The chat template; None without one, or where it was not read."""
    whole: bool = True
    """Everything in the header was read: what is absent is not in the file."""


@dataclass(frozen=True, slots=True)
class Projector:
    """A multimodal projector."""

    size: int
    kinds: tuple[str, ...]
    """Projector types, such as ``gemma4v``: one for pictures, one for sound."""
    projection: int = 0
    """Width of what it makes of a picture; that of the model's embeddings."""
    image_size: int = 0
    patch_size: int = 0


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter, or a control vector."""

    size: int
    architecture: str = ""
    """The model that it was made for; empty where the file does not say."""


Part = Model | Projector | Adapter
"""The kind of the file of one role."""


@dataclass(frozen=True, slots=True)
class Facts:
    """The model of a stack, and the weights beside it."""

    model: Model
    projector: Projector | None = None
    draft: Model | None = None
    """Drafts tokens for the model."""
    beside: tuple[tuple[str, int], ...] = ()
    """Bytes of adapters, control vectors and a vocoder, by role."""


class NoModelError(SourceError):
    """The file is sound, and holds something else than asked for."""

    field = "model"
    """The field of a stack that asked for it."""


class NoProjectorError(NoModelError):
    """The same of what was asked for as a projector."""

    field = "model.mmproj"


@dataclass(frozen=True, slots=True)
class _Keys:
    """The keys of one architecture; absent ones and nonsense are 0."""

    header: Header
    architecture: str

    def number(self, name: str) -> int:
        return max(0, self.header.number(f"{self.architecture}.{name}") or 0)

    def per_layer(self, name: str) -> PerLayer:
        return _settled(self.header.per_layer(f"{self.architecture}.{name}") or 0)


def model_of(headers: Sequence[Header]) -> Model:
    """The model in the parts of one file; raises HeaderError, NoModelError."""
    first = headers[0]
    _refuse_parts(headers)
    tensors = [tensor for header in headers for tensor in header.tensors]
    _refuse_others(first, tensors, complete=all(it.complete for it in headers))
    return _model_in(headers, tensors)


def _model_in(headers: Sequence[Header], tensors: Sequence[Tensor]) -> Model:
    first, name = headers[0], headers[0].architecture
    keys = _Keys(first, name)
    layers = keys.number("block_count")
    if layers > MOST_LAYERS:
        raise HeaderError(
            f"broken GGUF header: `{name}.block_count` is {layers}, and no model has"
            f" more than {MOST_LAYERS} layers"
        )
    model = Model(
        architecture=name,
        size=sum(header.size or 0 for header in headers),
        block_count=layers,
        embedding_length=keys.number("embedding_length"),
        vocabulary=_vocabulary(first),
        name=first.text("general.name"),
        quant=_quant(first),
        files=len(headers),
        parameters=sum(prod(tensor.shape) for tensor in tensors),
        context_length=keys.number("context_length"),
        feed_forward_length=keys.per_layer("feed_forward_length"),
        expert_bytes=_by_layer(tensors, layers, _EXPERTS),
        tensor_bytes=sum(tensor.size or 0 for tensor in tensors),
        layer_bytes=_by_layer(tensors, layers, _LAYER),
        embedding_bytes=_named(tensors, "token_embd.weight"),
        tied=bool(tensors) and not _named(tensors, "output.weight"),
        template=template_of(first.text("tokenizer.chat_template")),
        whole=first.complete,
    )
    return replace(model, **_attention(keys), **_experts(keys))


def _attention(keys: _Keys) -> dict[str, Any]:
    """Return what the caches are computed from."""
    heads = keys.per_layer("attention.head_count")
    width = keys.number("embedding_length")
    head_width = width // max(1, _first(heads))
    key = keys.number("attention.key_length") or head_width
    value = keys.number("attention.value_length") or head_width
    return {
        "heads": heads,
        "kv_heads": keys.per_layer("attention.head_count_kv") or heads,
        "key_length": key,
        "value_length": value,
        "key_length_swa": keys.number("attention.key_length_swa") or key,
        "value_length_swa": keys.number("attention.value_length_swa") or value,
        "sliding_window": keys.number("attention.sliding_window"),
        "window_pattern": keys.per_layer("attention.sliding_window_pattern"),
        "shared_kv_layers": keys.number("attention.shared_kv_layers"),
        "latent_attention": keys.number("attention.key_length_mla") > 0,
        "state_size": _state_size(keys, _first(heads), key),
        "attention_interval": keys.number("full_attention_interval"),
        "recurrent_layers": keys.per_layer("attention.recurrent_layers"),
        "history_bytes": _history(keys, width),
        "prediction_layers": keys.number("nextn_predict_layers"),
        "dense_layers": keys.number("leading_dense_block_count"),
        "indexer_length": keys.number("attention.indexer.key_length"),
        "indexer_layers": keys.per_layer("attention.indexer.types"),
        "indexer_pool": keys.number("attention.indexer.kpool"),
    }


def _experts(keys: _Keys) -> dict[str, Any]:
    return {
        "experts": keys.number("expert_count"),
        "experts_used": keys.number("expert_used_count"),
        "expert_length": keys.number("expert_feed_forward_length"),
    }


def projector_of(header: Header) -> Projector:
    """The projector in a file; raises HeaderError where it is none."""
    if header.architecture != PROJECTOR:
        raise NoProjectorError(
            f"the file is no multimodal projector: its architecture is "
            f"`{header.architecture}`"
        )
    keys = (f"{PROJECTOR}{part}.projector_type" for part in ("", ".vision", ".audio"))
    kinds = dict.fromkeys(header.text(key) for key in keys)
    sides = [f"{PROJECTOR}.vision", f"{PROJECTOR}.audio"]
    widths = [header.number(f"{side}.projection_dim") or 0 for side in sides]
    return Projector(
        size=header.size or 0,
        kinds=tuple(kind for kind in kinds if kind),
        projection=next((width for width in widths if width), 0),
        image_size=header.number(f"{sides[0]}.image_size") or 0,
        patch_size=header.number(f"{sides[0]}.patch_size") or 0,
    )


def part_of(role: str, headers: Sequence[Header]) -> Part:
    """The weights of a role beside the model; raises NoModelError for another kind."""
    first = headers[0]
    kind, name = first.text("general.type"), first.architecture
    match role.partition("-")[0]:
        case "mmproj":
            return projector_of(first)
        case "lora":
            if kind != "adapter":
                raise NoModelError(f"the file is no LoRA adapter but {_kind(first)}")
            return Adapter(first.size or 0, name)
        case "control":
            named = any(it.name.startswith("direction.") for it in first.tensors)
            if name != "controlvector" and not named:
                raise NoModelError(f"the file is no control vector but {_kind(first)}")
            return Adapter(first.size or 0, first.text("controlvector.model_hint"))
        case _:
            if kind not in ("", "model") or name in ("", PROJECTOR):
                raise NoModelError(f"the file is no model but {_kind(first)}")
            _refuse_parts(headers)
            return _model_in(headers, [it for one in headers for it in one.tensors])


def _kind(header: Header) -> str:
    """The kind that a file says it is."""
    kind = header.text("general.type") or "model"
    article = "an" if kind[0] in "aeiou" else "a"
    name = header.architecture
    return f"{article} {kind}" + (f" of architecture `{name}`" if name else "")


_HEADS: Mapping[str, tuple[str, ...]] = {
    "eagle3": ("draft-eagle3",),
    "dflash": ("draft-dflash", "draft-dspark"),
}


def draft_types(model: Model) -> tuple[str, ...]:
    """The types of speculative decoding that a draft is made for; empty: not known."""
    if model.architecture.endswith("-assistant"):
        return ("draft-mtp",)
    return _HEADS.get(model.architecture, ())


def part_to_json(part: Part) -> Flat:
    """A part as the lock file keeps it."""
    return {_NAMES[type(part)]: as_json(part)}


def part_from_json(content: JsonValue) -> Part | None:
    """A part from a lock file; None for what an other version wrote, or nobody."""
    for kind, name in _NAMES.items():
        if isinstance(content, dict) and name in content:
            try:
                found: Part = kind(**_values(content[name], kind))
            except (KeyError, TypeError):
                return None
            large = isinstance(found, Model) and found.block_count > MOST_LAYERS
            return None if large else found
    return None


_NAMES: Mapping[type[Part], str] = {
    Model: "model",
    Projector: "mmproj",
    Adapter: "adapter",
}


def to_json(facts: Facts) -> Flat:
    """Facts as the lock file keeps them: what differs from nothing at all."""
    return {
        "model": as_json(facts.model),
        **({"mmproj": as_json(facts.projector)} if facts.projector else {}),
    }


def as_json(thing: Part) -> dict[str, JsonValue]:
    """A part by its fields; those with their default are left out."""
    found: dict[str, JsonValue] = {}
    for field in fields(thing):
        value = getattr(thing, field.name)
        if isinstance(value, Template):
            value = {f.name: getattr(value, f.name) for f in fields(value)}
        if value != field.default:
            found[field.name] = list(value) if isinstance(value, tuple) else value
    return found


def from_json(content: JsonValue) -> Facts | None:
    """Facts from a lock file; None for what an other version wrote, or nobody."""
    if not isinstance(content, dict):
        return None
    try:
        mmproj = content.get("mmproj")
        model = Model(**_values(content["model"], Model))
        projector = Projector(**_values(mmproj, Projector)) if mmproj else None
    except (KeyError, TypeError):
        return None
    return Facts(model, projector) if model.block_count <= MOST_LAYERS else None


def _values(content: JsonValue, kind: type) -> dict[str, Any]:
    """The values of a class of facts; raises KeyError, TypeError for any other form."""
    if not isinstance(content, dict):
        raise TypeError("not facts")
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in content.items()
    }
    if isinstance(template := values.get("template"), dict):
        values["template"] = Template(**_values(template, Template))
    types = get_type_hints(kind)
    if not all(_fits(value, types[name]) for name, value in values.items()):
        raise TypeError("facts of another form")
    return values


def _fits(value: object, kind: object) -> bool:
    """Return whether a value is of a type; a number is one that a header can state."""
    if kind is int:
        return type(value) is int and -(2**63) <= value < 2**64
    if isinstance(kind, type) and get_origin(kind) is None:
        return isinstance(value, kind)
    if get_origin(kind) is tuple:
        (item, *_) = get_args(kind)
        return isinstance(value, tuple) and all(_fits(it, item) for it in value)
    return any(_fits(value, one) for one in get_args(kind))


def _refuse_others(
    header: Header, tensors: Sequence[Tensor], *, complete: bool
) -> None:
    """Raise NoModelError for what llama-server cannot serve as a model."""
    name, kind = header.architecture, header.text("general.type")
    if not header.values and not tensors:
        raise SourceError("the header of the file is empty")
    what, hint = _OTHERS.get("mmproj" if name == PROJECTOR else kind, ("", ""))
    if name in _DRAFTERS or name.endswith(_DRAFTER):
        what, hint = f"a draft model (`{name}`)", "name it as `model.draft`"
    elif name in _VOCODERS:
        what, hint = f"a vocoder (`{name}`)", "name it as `model.vocoder`"
    elif complete and not tensors and "tokenizer.ggml.tokens" in header.values:
        what, hint = "a vocabulary without tensors", ""
    if what:
        hint = hint and f"{hint}, beside the model that it belongs to"
        raise NoModelError(f"the file is {what}, not a model", hint=hint)
    if not name:
        raise NoModelError("the file names no architecture: it is not a model")
    for tensor in tensors:
        if tensor.kind in _REMOVED_TYPES:
            raise NoModelError(
                f"the tensor `{tensor.name}` has type {tensor.kind}, which llama.cpp"
                " removed: no build from b8646 on loads the file",
                hint="take the model quantised again",
            )


def _refuse_parts(headers: Sequence[Header]) -> None:
    """Raise HeaderError where the parts are not all, or not in order."""
    stated = headers[0].number("split.count") or 1
    if stated != len(headers):
        raise HeaderError(
            f"the model has {stated} parts, and {len(headers)} are here",
            hint="put all parts beside the first one",
        )
    for index, header in enumerate(headers):
        number = header.number("split.no") or 0
        if number != index:
            raise HeaderError(f"part {index + 1} of the model says it is {number + 1}")


def _vocabulary(header: Header) -> int:
    match header.values.get("tokenizer.ggml.tokens"):
        case Array(count=count):
            return count
        case _:
            return header.number(f"{header.architecture}.vocab_size") or 0


def _quant(header: Header) -> str:
    """The quantisation: as the file says, else the type of most of its bytes."""
    stated = header.number("general.file_type")
    if stated is not None and stated in FILE_TYPES:
        return FILE_TYPES[stated]
    sizes: dict[int, int] = {}
    for tensor in header.tensors:
        sizes[tensor.kind] = sizes.get(tensor.kind, 0) + (tensor.size or 0)
    most = max(sizes, key=lambda kind: sizes[kind], default=-1)
    return TYPES[most].name if most in TYPES else ""


def _history(keys: _Keys, width: int) -> tuple[int, ...]:
    """Bytes by layer of what per-layer n-gram embeddings keep; `ple_conv_state`."""
    number, listed = keys.number, keys.per_layer("ple.layers")
    layers = {*listed} if isinstance(listed, tuple) else {listed}
    kernel = number("ple.conv_kernel")
    if not kernel:
        return ()
    copies = number("ple.ngram_size") * max(1, number("hyper_connection.count"))
    size = 4 * (kernel - 1) * copies * width
    count = min(number("block_count"), MOST_LAYERS)
    return tuple(size if layer in layers else 0 for layer in range(count))


def _state_size(keys: _Keys, heads: int, key_length: int) -> int:
    """Recurrent state of a layer, in 32-bit floats; `n_embd_r` and `n_embd_s`."""
    number, width = keys.number, keys.number("embedding_length")
    if keys.architecture == "minimax-01":  # its lightning attention
        return 4 * heads * key_length * key_length
    if head := number("wkv.head_size"):
        return 4 * width * (number("token_shift_count") or 2) + 4 * width * head
    if cache := number("shortconv.l_cache"):
        return 4 * width * (cache - 1)
    kernel = number("ssm.conv_kernel")
    if head := number("kda.head_dim"):
        return 4 * (3 * max(1, kernel - 1) * heads * head + head * head * heads)
    inner, state = number("ssm.inner_size"), number("ssm.state_size")
    groups = number("ssm.group_count")
    if not inner:
        return 0
    return 4 * (max(0, kernel - 1) * (inner + 2 * groups * state) + state * inner)


_LAYER = re.compile(r"blk\.(\d+)\.")
_EXPERTS = re.compile(r"blk\.(\d+)\.ffn_(gate|up|down|gate_up)_(ch)?exps\.")


def _by_layer(
    tensors: Iterable[Tensor], layers: int, wanted: re.Pattern[str]
) -> tuple[int, ...]:
    """Bytes of the matching tensors of each layer; empty where there are none."""
    sizes = [0] * min(layers, 4096)
    for tensor in tensors:
        found = wanted.match(tensor.name)
        if found and len(found[1]) < 6 and int(found[1]) < len(sizes):
            sizes[int(found[1])] += tensor.size or 0
    return tuple(sizes) if any(sizes) else ()


def _named(tensors: Iterable[Tensor], name: str) -> int:
    return next((tensor.size or 0 for tensor in tensors if tensor.name == name), 0)


def _settled(value: PerLayer) -> PerLayer:
    """One number where all layers have the same; flags of layers stay as they are."""
    if isinstance(value, tuple) and value and set(value) == {value[0]}:
        return value if isinstance(value[0], bool) else value[0]
    if isinstance(value, tuple):
        return tuple(int(item) for item in value)
    return max(0, value)


def _first(value: PerLayer) -> int:
    return max(value, default=0) if isinstance(value, tuple) else value
