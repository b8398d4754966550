"""`quantize`: a model with weights of 4 or 8 bits, as a GPTQ folder, and what that costs.

The cost is measured on text that calibration has not seen: perplexity before and after, paired by text, and with test
sets also the accuracy of base tasks. Whether it is *faster* depends on the machine, so it is not a metric: it is timed,
told as a warning, and said in words when the small model is the slower one.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from qwenkit.chat.publish import save_tokenizer
from qwenkit.config import StageConfig, content, edge
from qwenkit.data.documents import iter_documents
from qwenkit.errors import UserError
from qwenkit.stages.base import Input, Result, StageContext

if TYPE_CHECKING:
    from torch import Tensor

    from qwenkit.chat import ChatTokenizer
    from qwenkit.model import Transformer

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
    bits: Literal[4, 8] = content(4, doc="of a weight")
    group_size: int = content(
        128, doc="columns that share a scale; -1: a whole row, for which 8 bits have a kernel", ge=-1
    )
    method: Literal["gptq", "round"] = content("gptq", doc="gptq (calibrated), or round to nearest")
    symmetric: bool = content(True, doc="levels around zero, as the released models have them")
    samples: int = content(128, doc="texts to calibrate on", ge=1)
    measured: int = content(64, doc="texts to measure on", ge=2)
    seq_length: int = content(512, doc="tokens of each, at most", ge=8)


def run(config: Config, inputs: dict[str, Input], context: StageContext) -> Result:
    """Measure, quantize, measure again."""
    from qwenkit.chat import load_tokenizer
    from qwenkit.evaluation.engine_measures import text_losses, tokens_per_second
    from qwenkit.inference import Engine
    from qwenkit.model import load_model, save_model
    from qwenkit.model.gptq import quantize
    from qwenkit.model.publish import copy_licences, save_generation_config
    from qwenkit.model.quantized_linear import QuantConfig
    from qwenkit.statistics import paired_difference

    source = inputs["model"].path
    tok, model = load_tokenizer(source), load_model(source, device=context.device)
    calibration, aside = _texts(tok, inputs["texts"].path, config, min(config.seq_length, model.config.max_length))
    before, exam = text_losses(Engine(model), aside), _exam(model, tok, inputs, context)
    slow = tokens_per_second(Engine(model))
    batches = calibration if config.method == "gptq" else None
    quantize(model, QuantConfig(config.bits, config.group_size), batches, config.symmetric,
             lambda done, total: context.progress(done, total, now="block"))  # fmt: skip
    save_model(model, context.out)
    save_generation_config(source, context.out, model.config.vocab_size)
    save_tokenizer(tok, source, context.out)
    copy_licences(source, context.out)
    small = load_model(context.out, device=context.device)
    after = text_losses(Engine(small), aside)
    fast = tokens_per_second(Engine(small))
    lost = paired_difference(after, before)
    metrics = {
        "bits": config.bits,
        "bytes": _bytes(context.out),
        "bytes_before": _bytes(source),
        "perplexity_before": round(math.exp(sum(before) / len(before)), 5),
        "perplexity": round(math.exp(sum(after) / len(after)), 5),
        "loss_increase": lost._asdict(),
        "base_tasks_before": exam,
        "base_tasks": _exam(small, tok, inputs, context),
    }
    return Result(metrics, _summary_line(metrics), (_pace(slow, fast),))


def _texts(tok: ChatTokenizer, path: Path, config: Config, row: int) -> tuple[list[Tensor], list[list[int]]]:
    """Rows of ids to calibrate on, as batches of one, and others to measure on."""
    import torch

    wanted, ids = config.samples + config.measured, []
    for document in iter_documents(path):
        tokens = tok.encode(document["text"])[:row]
        if len(tokens) >= 8:
            ids.append(tokens)
        if len(ids) == wanted:
            break
    if len(ids) < config.measured + 1:
        raise UserError(f"{len(ids)} texts of 8 tokens or more", where=str(path),
                        expected=f"{config.measured} to measure on, and at least one to calibrate on")  # fmt: skip
    return [torch.tensor([tokens]) for tokens in ids[config.measured :]], ids[: config.measured]


def _exam(
    model: Transformer, tok: ChatTokenizer, inputs: dict[str, Input], context: StageContext
) -> dict[str, Any] | None:
    """Right answers to base tasks, where tests are given."""
    from qwenkit.evaluation import aggregate_components, multiple_choice
    from qwenkit.inference import Engine

    if "tests" not in inputs:
        return None
    rows = [row for row in inputs["tests"].rows("base.jsonl") if row.get("choices")]
    return aggregate_components(multiple_choice(Engine(model, tok), rows), seed=context.seed).get("right")


def _pace(before: float, after: float) -> str:
    """What became of the speed, on this machine."""
    verdict = "SLOWER here than the original" if after < before else f"{after / before:.2f} times the original"
    return f"one answer at a time: {after} tokens a second, {verdict} ({before})"


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def _summary_line(metrics: dict[str, Any]) -> str:
    size = f"{metrics['bytes'] / 1e6:.1f} MB of {metrics['bytes_before'] / 1e6:.1f}"
    return (
        f"{metrics['bits']} bits, {size}; perplexity {metrics['perplexity_before']:.3f} -> {metrics['perplexity']:.3f}"
    )
