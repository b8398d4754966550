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

from typing import Literal

from qwenkit.chat.publish import find_tokenizer
from qwenkit.config import StageConfig, content, edge
from qwenkit.records import write_json
from qwenkit.stages.base import Input, Result, StageContext

SUMMARY = "a model in another form (Hugging Face, the first Qwen's, GGUF), with a certificate"
EXAMPLE = "--model runs/nano/chat --to gguf"
ORDER = 130
VERSION = 2  # 2: the tokenizer's own files and settings are carried over; GGUF's kinds and ends of tokens
PRODUCES = ("model", "tokenizer")


class Config(StageConfig):
    """What becomes of which model."""

    model: str = edge(doc="the model to export", accepts="model", hub="model")
    to: Literal["hf", "qwen1", "gguf"] = content("hf", doc="format of the folder")
    longest: int = content(512, doc="tokens of the longest prompt that the certificate keeps", ge=32)


def run(config: Config, inputs: dict[str, Input], context: StageContext) -> Result:
    """Ask the model, write the form, and, where it can be opened here, ask that too."""
    from qwenkit.evaluation import parity
    from qwenkit.model import load_model
    from qwenkit.model.export import NO_TOKENIZER, export_warnings, exported_config, write_form

    source = inputs["model"].path
    model, tok = load_model(source, device=context.device, merged=True), find_tokenizer(source)
    form, reason = exported_config(model.config, config.to)
    prompts = parity.prompts_of(tok, model.config.vocab_size, min(config.longest, form.max_length))
    context.progress(0, 3, now="asking")
    observed = parity.observe(model, prompts)
    context.progress(1, 3, now="writing")
    write_form(model, form, tok, source, context.out, config.to)
    agreement = None
    if config.to != "gguf":
        context.progress(2, 3, now="checking")
        agreement = parity.compare(observed, parity.observe(load_model(context.out, device=context.device), prompts))
    facts = {"of": inputs["model"].digest, "form": config.to, "length": form.max_length, "reason": reason,
            "dtype": str(next(model.parameters()).dtype).removeprefix("torch.")}  # fmt: skip
    write_json(context.out / parity.CERTIFICATE, parity.certificate(observed, facts, agreement))
    numbers = {} if agreement is None else agreement.rounded()
    words = [f"{config.to}, up to {form.max_length} tokens"]
    if numbers:
        words.append(f"max |dlogp| {numbers['max_dlogp']:.2g}, greedy {numbers['greedy_agreement']:.0%} equal")
    words += [text for text in (reason, None if tok else NO_TOKENIZER) if text]
    return Result({**facts, **numbers}, "; ".join(words), tuple(export_warnings(source, context.out, tok, config.to)))
