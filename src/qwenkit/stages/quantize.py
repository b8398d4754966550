"""`quantize`: a model with weights of 4 or 8 bits, as a GPTQ folder, and what that costs.

The cost is measured on text that calibration has not seen: perplexity before and after, paired by text, and with test
sets also the accuracy of base tasks. Whether it is *faster* depends on the machine, so it is not a metric: it is timed,
told as a warning, and said in words when the small model is the slower one.
"""

from __future__ import annotations

from typing import Literal

from qwenkit.config import StageConfig, content, edge
from qwenkit.stages.base import Input, Result, StageContext

SUMMARY = "weights of 4 or 8 bits, as a GPTQ folder, and what that costs"
EXAMPLE = "--model runs/nano/base --texts runs/nano/corpus --bits 8 --group-size -1"
ORDER = 120
VERSION = 2  # 2: the source's tokenizer settings and licence are carried over
PRODUCES = ("model", "tokenizer")


class Config(StageConfig):
    """What is quantized, how, and on which text it is calibrated and measured."""

    model: str = edge(doc="the model to quantize", accepts="model", hub="model")
    texts: str = edge(
        doc="a corpus, or documents as JSONL: the first part calibrates, the rest measures", accepts="documents"
    )
    tests: str | None = edge(None, doc="test sets: base tasks before and after", accepts="tests")
    bits: Literal[4, 8] = content(4, doc="bits of a weight")
    group_size: int = content(
        128, doc="columns that share a scale; -1: a whole row, for which 8 bits have a kernel", ge=-1
    )
    method: Literal["gptq", "round"] = content("gptq", doc="gptq (calibrated), or round to nearest")
    symmetric: bool = content(True, doc="levels around zero, as the released models have them")
    samples: int = content(128, doc="texts to calibrate on", ge=1)
    measured: int = content(64, doc="texts to measure on", ge=2)
    seq_length: int = content(512, doc="tokens of each text at most", ge=8)


def run(config: Config, inputs: dict[str, Input], context: StageContext) -> Result:
    """Measure, quantize, measure again."""
    from qwenkit.adapter_files import described_at
    from qwenkit.chat import load_tokenizer
    from qwenkit.evaluation.quantization_cost import calibration_split, measure, quantization_cost, speed_change
    from qwenkit.model import load_model
    from qwenkit.model.gptq import quantize
    from qwenkit.model.publish import save_like, weight_bytes
    from qwenkit.model.quantized_linear import QuantConfig

    source = inputs["model"].path
    tok, model = load_tokenizer(source), load_model(source, device=context.device, merged=True)
    longest = min(config.seq_length, model.config.max_length)
    corpus, questions = inputs["texts"].path, inputs["tests"].rows("base.jsonl") if "tests" in inputs else None
    calibration, texts = calibration_split(tok, corpus, config.samples, config.measured, longest)
    before = measure(model, tok, texts, questions, context.seed)
    quantize(
        model, QuantConfig(config.bits, config.group_size), calibration if config.method == "gptq" else None,
        config.symmetric, lambda done, total: context.progress(done, total, now="block"),
    )  # fmt: skip
    save_like(model, tok, source, context.out)
    after = measure(load_model(context.out, device=context.device), tok, texts, questions, context.seed)
    metrics = {
        "bits": config.bits,
        "bytes": weight_bytes(context.out),
        "bytes_before": weight_bytes(described_at(source)),
        **quantization_cost(before, after),
    }
    size = f"{metrics['bytes'] / 1e6:.1f} MB of {metrics['bytes_before'] / 1e6:.1f}"
    perplexity = f"perplexity {before.perplexity:.3f} -> {after.perplexity:.3f}"
    return Result(metrics, f"{config.bits} bits, {size}; {perplexity}", (speed_change(before, after),))
