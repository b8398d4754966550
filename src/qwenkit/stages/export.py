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

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from qwenkit.config import StageConfig, content, edge
from qwenkit.records import read_object, write_json
from qwenkit.stages.base import Input, Result, Work

if TYPE_CHECKING:
    from qwenkit.model import ModelConfig

VERSION = 1
GIVES = ("model", "tokenizer")
CERTIFICATE = "certificate.json"


class Config(StageConfig):
    """What becomes of which model."""

    model: str = edge(doc="the model to export", wants="model", hub="model")
    to: Literal["hf", "qwen1", "gguf"] = content("hf", doc="the form")
    longest: int = content(512, doc="tokens of the longest prompt that the certificate keeps", ge=32)


def run(config: Config, inputs: dict[str, Input], work: Work) -> Result:
    """Ask the model, write the form, and, where it can be opened here, ask that too."""
    from qwenkit.evaluation import parity
    from qwenkit.model import load_model, save_model

    source = inputs["model"].path
    model, tok = load_model(source, device=work.device), tokenizer_of(source)
    form, reason = target(model.config, config.to)
    prompts = parity.prompts_of(tok, model.config.vocab_size, min(config.longest, form.max_length))
    work.progress(0, 3, now="asking")
    seen = parity.observe(model, prompts)
    work.progress(1, 3, now="writing")
    found = None
    if config.to == "gguf":
        from qwenkit.model.gguf_file import write_gguf

        model.config = form
        write_gguf(model, work.out / "model.gguf", vocabulary(tok, form) if tok else None, source.name)
    else:
        model.config = form
        save_model(model, work.out)
        copy_settings(source, work.out)
        if tok is not None:
            write_tokenizer(tok, work.out, config.to)
        work.progress(2, 3, now="checking")
        found = parity.compare(seen, parity.observe(load_model(work.out, device=work.device), prompts))
    told = {"of": inputs["model"].digest, "form": config.to, "length": form.max_length, "reason": reason,
            "dtype": str(next(model.parameters()).dtype).removeprefix("torch.")}  # fmt: skip
    write_json(work.out / CERTIFICATE, parity.certificate(seen, told, found))
    numbers = {} if found is None else {name: round(value, 8) for name, value in found._asdict().items()}
    return Result({**told, **numbers}, headline(config.to, form, reason, numbers))


def target(config: ModelConfig, to: str) -> tuple[ModelConfig, str | None]:
    """The configuration to write, and why it ends where it ends."""
    from qwenkit.model.formats import as_qwen2, plainest

    if to == "qwen1":
        return replace(config, model_type="qwen"), None
    if config.model_type == "qwen" or config.extension is not None:
        return as_qwen2(config)
    return replace(config, model_type=plainest(config)), None


def tokenizer_of(folder: Path) -> Any:
    """The folder's tokenizer, or None where it has none."""
    from qwenkit.chat import load_tokenizer

    here = (folder / "tokenizer.json").exists() or any(folder.glob("*.tiktoken"))
    return load_tokenizer(folder) if here else None


def write_tokenizer(tok: Any, out: Path, to: str) -> None:
    """The tokenizer as the form's tools expect it."""
    from qwenkit.tokenizer import save_tokenizer

    if to == "qwen1":
        save_tokenizer(tok, out, tok.chat_template, chat_style=tok.style or "", form="tiktoken")
    else:
        tok.save(out)


def copy_settings(source: Path, out: Path) -> None:
    """How answers are drawn belongs to the model."""
    if (source / "generation_config.json").exists():
        own = read_object(source / "generation_config.json")
        (out / "generation_config.json").write_text(json.dumps(own, indent=2, ensure_ascii=False) + "\n")


def vocabulary(tok: Any, form: ModelConfig) -> Any:
    """The tokenizer as a GGUF file spells it. Rows beyond it only pad the embedding."""
    import tempfile

    from qwenkit.model.gguf_file import Vocabulary

    with tempfile.TemporaryDirectory() as folder:
        tok.save(folder)
        published = json.loads((Path(folder) / "tokenizer.json").read_text("utf-8"))
    names = {i: name for name, i in published["model"]["vocab"].items()}
    names |= {added["id"]: added["content"] for added in published["added_tokens"]}
    padding = frozenset(i for i in range(form.vocab_size) if i not in names)
    tokens = [names.get(i, f"[PAD{i}]") for i in range(form.vocab_size)]
    merges = [m if isinstance(m, str) else " ".join(m) for m in published["model"]["merges"]]
    eos = form.eos_token_id if form.eos_token_id is not None else tok.eot_id
    return Vocabulary(tokens, merges, frozenset(tok.special.values()), padding, eos, tok.eot_id, tok.chat_template)


def headline(to: str, form: ModelConfig, reason: str | None, numbers: dict[str, Any]) -> str:
    """One line: the form, how near it is, and how far it reaches."""
    near = (
        f"; max |dlogp| {numbers['max_dlogp']:.2g}, greedy {numbers['greedy_agreement']:.0%} equal" if numbers else ""
    )
    return f"{to}, up to {form.max_length} tokens{near}" + (f"; {reason}" if reason else "")
