"""A model as one GGUF file, for llama.cpp and what is built on it (needs the package `gguf`).

    write_gguf(model, out / "model.gguf", Vocabulary(tokens=..., merges=..., special=..., ids={"eos": 151645}, ...))

Families: qwen2 (the first Qwen too, up to where its own context tricks begin: `formats.as_qwen2`) and qwen3. Names come
from the package's table; matrices are kept in the model's type (float16, bfloat16, float32), norms and biases are
float32, as llama.cpp wants them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from qwenkit.errors import UserError
from qwenkit.model.config import ModelConfig, Yarn
from qwenkit.model.formats import simplest_format
from qwenkit.model.gguf_blocks import package
from qwenkit.model.gptq_checkpoint import quantized_layers
from qwenkit.model.transformer import Transformer
from qwenkit.tokenizer import read_names
from qwenkit.tokenizer.gguf_vocabulary import CONTROL, NFC, NORMAL, PATTERN, PRE_TOKENIZERS, UNUSED, USER_DEFINED
from qwenkit.tokenizer.publish import tokenizer_json

if TYPE_CHECKING:
    from qwenkit.chat import ChatTokenizer


PATTERNS = {pre.regex: name for name, pre in reversed(PRE_TOKENIZERS.items())}
"""llama.cpp's names of pre-tokenization patterns; it does not accept other expressions."""


def pattern_name(regex: str) -> str:
    """Return llama.cpp's name of a pre-tokenization pattern.

    A pattern that llama.cpp does not know gets a name that it does not know either. It refuses to load such a file;
    under a known name it would silently split text differently."""
    return PATTERNS.get(regex) or f"own-{hashlib.sha256(regex.encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class Vocabulary:
    """A byte-level BPE vocabulary in GGUF's form: printable tokens by id, merges, and the kinds of special tokens."""

    tokens: list[str]
    merges: list[str]
    special: frozenset[int]
    visible: frozenset[int]
    """Added tokens that are not special, `<think>` and `<tool_call>`: they are printed."""
    unused: frozenset[int]
    pattern: str
    """llama.cpp's name of the pattern."""
    ids: dict[str, int]
    """`bos`, `eos`, `eot`, `pad`, `unk`, as far as they exist."""
    template: str | None
    nfc: bool = False
    """Whether text is normalised to NFC: llama.cpp never does, our own reader then does."""
    own_pattern: str | None = None
    """The expression by which text is cut, where llama.cpp has no name for it."""


def write_gguf(model: Transformer, file: Path, vocabulary: Vocabulary | None, name: str = "") -> None:
    """Write the model as one GGUF file; when writing fails, no file of that name is left."""
    gguf, config = package(), model.config
    family = simplest_format(config)
    _refuse(model, family)
    part = file.with_suffix(".part")
    writer = gguf.GGUFWriter(part, family)
    try:
        _describe(writer, gguf, config, model.model.embed_tokens.weight.dtype, name or file.stem)
        if vocabulary is not None:
            _spell(writer, vocabulary)
        names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, family.upper()), config.num_hidden_layers)
        for name, tensor in model.state_dict().items():
            gguf_name = names.get_name(name, try_suffixes=(".weight", ".bias"))
            _add(writer, gguf, gguf_name, tensor.detach().cpu())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
    part.replace(file)


def _refuse(model: Transformer, family: str) -> None:
    if family not in ("qwen2", "qwen3"):
        raise UserError(f"a GGUF file of the family {family} is not supported", expected="qwen2, qwen3")
    if quantized_layers(model):
        raise UserError("a quantized model cannot become GGUF", hint="export the model that it was made of")
    if model.config.windows is not None:
        raise UserError("a GGUF file of this family cannot hold layer windows", expected="a model without windows")
    yarn = model.config.yarn
    if yarn is not None and yarn != Yarn(
        factor=yarn.factor, original_max_position_embeddings=yarn.original_max_position_embeddings
    ):
        raise UserError("a GGUF file cannot hold YaRN with settings of its own", expected="only its factor and length")


def _describe(writer: Any, gguf: Any, config: ModelConfig, dtype: torch.dtype, name: str) -> None:
    """Write the shape of the model."""
    writer.add_name(name)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_key_length(config.head_size)
    writer.add_value_length(config.head_size)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    types = {torch.float32: "ALL_F32", torch.float16: "MOSTLY_F16", torch.bfloat16: "MOSTLY_BF16"}
    writer.add_file_type(getattr(gguf.LlamaFileType, types[dtype]))
    if config.yarn is not None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(config.yarn.factor)
        writer.add_rope_scaling_orig_ctx_len(config.yarn.original_max_position_embeddings)


def _spell(writer: Any, vocabulary: Vocabulary) -> None:
    """Write the tokenizer."""
    known = {**dict.fromkeys(vocabulary.unused, UNUSED), **dict.fromkeys(vocabulary.visible, USER_DEFINED),
             **dict.fromkeys(vocabulary.special, CONTROL)}  # fmt: skip
    kinds = [known.get(i, NORMAL) for i in range(len(vocabulary.tokens))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.pattern)
    writer.add_bool(NFC, vocabulary.nfc)  # llama.cpp passes over keys that it does not know
    if vocabulary.own_pattern is not None:
        writer.add_string(PATTERN, vocabulary.own_pattern)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(vocabulary.merges)
    writer.add_add_bos_token(False)
    for kind, id in vocabulary.ids.items():
        getattr(writer, f"add_{kind}_token_id")(id)
    if vocabulary.template is not None:
        writer.add_chat_template(vocabulary.template)


def _add(writer: Any, gguf: Any, name: str, tensor: Tensor) -> None:
    if tensor.dim() < 2:
        writer.add_tensor(name, tensor.float().numpy())
    elif tensor.dtype == torch.bfloat16:  # numpy has no such type: the bits travel as they are
        bits = tensor.contiguous().view(torch.int16).numpy().view(np.uint8)
        writer.add_tensor(name, bits, raw_shape=bits.shape, raw_dtype=gguf.GGMLQuantizationType.BF16)
    else:
        writer.add_tensor(name, tensor.contiguous().numpy())


def gguf_vocabulary(tok: ChatTokenizer, source: Path, form: ModelConfig) -> Vocabulary:
    """Return the tokenizer in GGUF's form. Ids beyond the tokenizer's size only pad the embedding and are marked as
    unused."""
    published = tokenizer_json(tok)
    names = {i: name for name, i in published["model"]["vocab"].items()}
    names |= {added["id"]: added["content"] for added in published["added_tokens"]}
    padding = frozenset(i for i in range(form.vocab_size) if i not in names)
    return Vocabulary(
        tokens=[names.get(i, f"[PAD{i}]") for i in range(form.vocab_size)],
        merges=[" ".join(pair) for pair in published["model"]["merges"]],
        special=frozenset(i for name, i in tok.special.items() if name not in tok.visible),
        visible=frozenset(tok.special[name] for name in tok.visible),
        unused=padding,
        pattern=pattern_name(tok.regex),
        ids=token_ids(tok, source, form),
        template=tok.chat_template,
        nfc=tok.nfc,
        own_pattern=None if tok.regex in PATTERNS else tok.regex,
    )


def token_ids(tok: ChatTokenizer, source: Path, form: ModelConfig) -> dict[str, int]:
    """Return the ids of special tokens by GGUF's names (bos, eos, eot, pad, unk).

    The tokenizer's settings are asked first, then the model's configuration."""
    names = read_names(source)
    ends = form.eos_token_id if isinstance(form.eos_token_id, tuple) else (form.eos_token_id,)
    special_ids = {kind: tok.special.get(names.get(f"{kind}_token") or "") for kind in ("bos", "eos", "pad", "unk")}
    turn, text = tok.special.get("<|im_end|>"), tok.special.get("<|endoftext|>")
    wanted = {
        "bos": special_ids["bos"] if special_ids["bos"] is not None else form.bos_token_id,
        "eos": next((id for id in (special_ids["eos"], *ends, text) if id is not None), None),
        "eot": turn if turn in (special_ids["eos"], *ends) else None,
        "pad": special_ids["pad"] if special_ids["pad"] is not None else text,
        "unk": special_ids["unk"],
    }
    return {kind: id for kind, id in wanted.items() if id is not None and id < form.vocab_size}
