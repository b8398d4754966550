"""`export`: a model in another form, with a certificate of what it said before.

| to    | what is written                                                                                       |
| ----- | ----------------------------------------------------------------------------------------------------- |
| hf    | the plainest Hugging Face form: the first Qwen becomes `Qwen2ForCausalLM`, others stay what they are  |
| qwen1 | the first Qwen's form (`QWenLMHeadModel`, `qwen.tiktoken`), for tools that want it                    |
| gguf  | one file for llama.cpp                                                                                |

A first Qwen's dynamic NTK and LogN cannot be said in the later forms. They do nothing up to `seq_length`, so the folder
ends there (`max_position_embeddings`), and the certificate says why. `qwenkit parity` holds a folder against its
certificate.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from qwenkit.chat.publish import find_tokenizer, save_tokenizer
from qwenkit.config import StageConfig, content, edge
from qwenkit.errors import listed
from qwenkit.records import write_json
from qwenkit.stages.base import Input, Result, StageContext

if TYPE_CHECKING:
    from qwenkit.chat import ChatTokenizer
    from qwenkit.model import ModelConfig

SUMMARY = "a model in another form (Hugging Face, the first Qwen's, GGUF), with a certificate"
EXAMPLE = "--model runs/nano/chat --to gguf"
ORDER = 130
VERSION = 2  # 2: the tokenizer's own files and settings are carried over; GGUF's kinds and ends of tokens
PRODUCES = ("model", "tokenizer")
NO_TOKENIZER = "without a tokenizer: the model's folder has none that is read here"


class Config(StageConfig):
    """What becomes of which model."""

    model: str = edge(doc="the model to export", accepts="model", hub="model")
    to: Literal["hf", "qwen1", "gguf"] = content("hf", doc="the form")
    longest: int = content(512, doc="tokens of the longest prompt that the certificate keeps", ge=32)


def run(config: Config, inputs: dict[str, Input], context: StageContext) -> Result:
    """Ask the model, write the form, and, where it can be opened here, ask that too."""
    from qwenkit.evaluation import parity
    from qwenkit.model import load_model, save_model
    from qwenkit.model.publish import copy_licences, save_generation_config

    source = inputs["model"].path
    model, tok = load_model(source, device=context.device), find_tokenizer(source)
    form, reason = target(model.config, config.to)
    prompts = parity.prompts_of(tok, model.config.vocab_size, min(config.longest, form.max_length))
    context.progress(0, 3, now="asking")
    observed = parity.observe(model, prompts)
    context.progress(1, 3, now="writing")
    agreement = None
    if config.to == "gguf":
        from qwenkit.model.gguf_export import gguf_vocabulary, write_gguf

        model.config = form
        write_gguf(model, context.out / "model.gguf", gguf_vocabulary(tok, source, form) if tok else None, source.name)
    else:
        model.config = form
        save_model(model, context.out)
        save_generation_config(source, context.out, form.vocab_size)
        if tok is not None:
            save_tokenizer(tok, source, context.out, "tiktoken" if config.to == "qwen1" else "json")
        context.progress(2, 3, now="checking")
        agreement = parity.compare(observed, parity.observe(load_model(context.out, device=context.device), prompts))
    facts = {"of": inputs["model"].digest, "form": config.to, "length": form.max_length, "reason": reason,
            "dtype": str(next(model.parameters()).dtype).removeprefix("torch.")}  # fmt: skip
    copy_licences(source, context.out)
    write_json(context.out / parity.CERTIFICATE, parity.certificate(observed, facts, agreement))
    numbers = {} if agreement is None else {name: round(value, 8) for name, value in agreement._asdict().items()}
    words = summary(config.to, form, reason, numbers) + ("" if tok is not None else f"; {NO_TOKENIZER}")
    return Result({**facts, **numbers}, words, tuple(export_warnings(source, context.out, tok, config.to)))


def target(config: ModelConfig, to: str) -> tuple[ModelConfig, str | None]:
    """The configuration to write, and why it ends where it ends."""
    from qwenkit.model.formats import as_qwen2, simplest_format

    if to == "qwen1":
        return replace(config, model_type="qwen"), None
    if config.model_type == "qwen" or config.extension is not None:
        return as_qwen2(config)
    return replace(config, model_type=simplest_format(config)), None


def export_warnings(source: Path, out: Path, tok: ChatTokenizer | None, to: str) -> Iterator[str]:
    """What of the model's folder has no place in the new one."""
    if tok is None:
        yield NO_TOKENIZER
    elif to == "gguf":
        from qwenkit.model.gguf_export import PATTERNS

        if tok.regex not in PATTERNS:
            yield f"llama.cpp cannot cut text as this tokenizer does and will refuse the file: {tok.regex:.200}"
    there = {path.name for path in out.iterdir()}
    lost = sorted(path.name for path in source.iterdir() if path.name not in there)
    if lost := [name for name in lost if not any(fnmatch(name, pattern) for pattern in _MADE_ANEW)]:
        yield f"left out of the exported folder: {listed(lost)}"


_MADE_ANEW = (".*", "*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json", "*.tiktoken", "README.md",
              "certificate.json", "manifest.json", "run.json", "quantize_config.json", "config.json", "tokenizer.json",
              "tokenizer_config.json", "generation_config.json", "chat_template.jinja", "vocab.json", "merges.txt",
              "added_tokens.json", "special_tokens_map.json")  # fmt: skip
"""Files that the new folder has in its own form."""


def summary(to: str, form: ModelConfig, reason: str | None, numbers: dict[str, Any]) -> str:
    """One line: the form, how near it is, and how far it reaches."""
    near = (
        f"; max |dlogp| {numbers['max_dlogp']:.2g}, greedy {numbers['greedy_agreement']:.0%} equal" if numbers else ""
    )
    return f"{to}, up to {form.max_length} tokens{near}" + (f"; {reason}" if reason else "")
