"""A model in another form: a Hugging Face folder, the first Qwen's, or one GGUF file.

    form, reason = exported_config(model.config, "gguf")      # what is written, and why it ends where it ends
    write_form(model, form, tok, source, out, "gguf")
    for warning in export_warnings(source, out, tok, "gguf"): ...

A first Qwen's dynamic NTK and LogN cannot be said in the later forms. They do nothing up to `seq_length`, so what is
exported ends there (`max_position_embeddings`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from qwenkit.errors import listed
from qwenkit.model.formats import as_qwen2, simplest_format
from qwenkit.model.gguf_export import PATTERNS, gguf_vocabulary, write_gguf
from qwenkit.model.publish import copy_licences, save_like

if TYPE_CHECKING:
    from qwenkit.chat import ChatTokenizer
    from qwenkit.model import ModelConfig, Transformer

GGUF_FILE = "model.gguf"
NO_TOKENIZER = "without a tokenizer: the model's folder has none that is read here"
_MADE_ANEW = (".*", "adapter_*", "*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json",
              "*.tiktoken", "README.md", "certificate.json", "manifest.json", "run.json", "quantize_config.json",
              "config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja",
              "vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json")  # fmt: skip
"""Files that the new folder has in its own form."""


def exported_config(config: ModelConfig, to: str) -> tuple[ModelConfig, str | None]:
    """Return the configuration to write for a form (`hf`, `qwen1`, `gguf`), and where the form reads less of a text
    than the model, why."""
    if to == "qwen1":
        return replace(config, model_type="qwen"), None
    if config.model_type == "qwen" or config.extension is not None:
        return as_qwen2(config)
    return replace(config, model_type=simplest_format(config)), None


def write_form(
    model: Transformer, form: ModelConfig, tok: ChatTokenizer | None, source: Path, out: Path, to: str
) -> None:
    """Write a model in a form: its configuration becomes `form`, the rest comes from its folder `source`."""
    model.config = form
    if to == "gguf":
        write_gguf(model, out / GGUF_FILE, gguf_vocabulary(tok, source, form) if tok else None, source.name)
        copy_licences(source, out)
    else:
        save_like(model, tok, source, out, "tiktoken" if to == "qwen1" else "json")


def export_warnings(source: Path, out: Path, tok: ChatTokenizer | None, to: str) -> Iterator[str]:
    """Yield what of the model's folder has no place in the new one, and what another program will refuse."""
    if tok is None:
        yield NO_TOKENIZER
    elif to == "gguf" and tok.regex not in PATTERNS:
        yield f"llama.cpp cannot cut text as this tokenizer does and will refuse the file: {tok.regex:.200}"
    there = {path.name for path in out.iterdir()}
    lost = sorted(path.name for path in source.iterdir() if path.name not in there)
    if lost := [name for name in lost if not any(fnmatch(name, pattern) for pattern in _MADE_ANEW)]:
        yield f"left out of the exported folder: {listed(lost)}"
