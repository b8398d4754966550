"""What 4 bits cost a real model: the perplexity of our GPTQ beside that of llama.cpp's Q4_0 and Q4_1, on one text.

    python benchmarks/quantized_quality.py --model FOLDER [--text FILE] [--calibration FILE] [--windows 64]
        [--length 512] [--rotated] [--threads N] [--out FILE.json]                  (needs the package `gguf`)

`--text` is plain text, by default the validation part of WikiText-2 in QWENKIT_TEST_DATA (or ../shared/data). It is cut
into windows of `--length` tokens; `--windows` of them, spread evenly behind the first 64, are measured, the same for
all. GPTQ is calibrated on the first 64, or on as many of `--calibration`; llama.cpp's formats see no text.

llama.cpp's formats are rounded and read back by the package `gguf`, embedding and head as Q8_0; ours leave those as
they are. All forms compute in float32 with our model, so the figures are the cost of the weights alone: llama.cpp also
rounds what goes into a product to 8 bits, which is not counted here. Rounding without a calibration is shown too.

A model that was of 4 bits before lies on the grid of that format, which then loses next to nothing. `--rotated` turns
the hidden states of the model by a random orthogonal matrix first, norms multiplied into the matrices behind them: the
same function up to rounding, but none of its weights lies on an old grid (the first row shows that nothing else moved).

The last line is the lower perplexity increase of llama.cpp's two over ours in groups of 64.
"""

from __future__ import annotations

import argparse
import gzip
import importlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from qwenkit import platform
from qwenkit.chat import load_tokenizer
from qwenkit.evaluation.engine_measures import text_losses
from qwenkit.inference import Engine
from qwenkit.model import Transformer, load_model
from qwenkit.model.gptq import quantize
from qwenkit.model.quantized_linear import QuantConfig
from qwenkit.statistics.paired import paired_difference

CALIBRATED = 64
BITS = {"Q8_0": 8.5, "Q4_1": 5.0, "Q4_0": 4.5}
Change = Callable[[Transformer], Transformer]


class Form(NamedTuple):
    """A way to keep the weights of the blocks."""

    name: str
    bits: float
    """Bits of a weight of the blocks, scales and zeros counted."""
    change: Change


def forms(batches: list[Tensor]) -> Iterator[Form]:
    """Yield what is compared."""
    for kind in ("Q4_1", "Q4_0"):
        yield Form(f"llama.cpp {kind}", BITS[kind], theirs(kind))
    for method, given, groups in (("GPTQ", batches, (64, 32)), ("rounded", None, (64,))):
        for group in groups:
            for symmetric in (True, False):
                name = f"ours, {method}, groups of {group}, {'symmetric' if symmetric else 'with zeros'}"
                yield Form(name, 4 + 20 / group, ours(given, group, symmetric))


def ours(batches: list[Tensor] | None, group: int, symmetric: bool) -> Change:
    """Return our quantization to 4 bits."""
    return lambda model: quantize(model, QuantConfig(4, group), batches, symmetric)


def theirs(kind: str) -> Change:
    """Return llama.cpp's: matrices of the blocks in one format, embedding and head in Q8_0."""

    @torch.no_grad()
    def change(model: Transformer) -> Transformer:
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                parameter.copy_(there_and_back(parameter, kind if ".layers." in name else "Q8_0"))
        return model

    return change


def there_and_back(weight: Tensor, kind: str) -> Tensor:
    """Return a matrix as a GGUF file of this kind holds it, in float32."""
    gguf: Any = importlib.import_module("gguf")
    wanted = gguf.GGMLQuantizationType[kind]
    rounded = gguf.quants.quantize(weight.detach().float().numpy(), wanted)
    return torch.from_numpy(gguf.quants.dequantize(rounded, wanted))


@torch.no_grad()
def rotate(model: Transformer, seed: int = 0) -> Transformer:
    """Return a model that computes the same with hidden states turned by a random orthogonal matrix [D, D]."""
    generator = torch.Generator().manual_seed(seed)
    width = model.config.hidden_size
    turn, _ = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64))
    turned = Transformer(replace(model.config, tie_word_embeddings=False)).eval()
    state = dict(model.state_dict())
    head = state.get("lm_head.weight", state["model.embed_tokens.weight"])
    turned.load_state_dict({**state, "lm_head.weight": head})

    def behind(norm: nn.Module, *layers: nn.Linear) -> None:
        """Multiply the norm into the layers that read it, and turn what they read."""
        for layer in layers:
            layer.weight.copy_(((layer.weight * norm.weight).double() @ turn).float())
        norm.weight.fill_(1)

    def written(*layers: nn.Linear) -> None:
        for layer in layers:
            layer.weight.copy_((turn.T @ layer.weight.double()).float())
            if layer.bias is not None:
                layer.bias.copy_((turn.T @ layer.bias.double()).float())

    block: Any
    for block in turned.model.layers:
        attention, mlp = block.self_attn, block.mlp
        behind(block.input_layernorm, attention.q_proj, attention.k_proj, attention.v_proj)
        behind(block.post_attention_layernorm, mlp.gate_proj, mlp.up_proj)
        written(attention.o_proj, mlp.down_proj)
    behind(turned.model.norm, turned.lm_head)
    embedding = turned.model.embed_tokens.weight
    embedding.copy_((embedding.double() @ turn).float())
    return turned


def windows_of(text: list[int], length: int, count: int) -> tuple[list[list[int]], list[list[int]]]:
    """Return the windows of a text to calibrate on, and `count` others to measure on."""
    all_windows = [text[start : start + length] for start in range(0, len(text) - length, length)]
    first, rest = all_windows[:CALIBRATED], all_windows[CALIBRATED:]
    if len(all_windows) < CALIBRATED + count:
        sys.exit(f"a text of {len(all_windows)} windows of {length} tokens, {CALIBRATED + count} are needed")
    return first, [rest[i * len(rest) // count] for i in range(count)]


def encoded(file: Path, model: Path) -> list[int]:
    """Return the ids of a text file, which may be packed by gzip."""
    if not file.exists():
        sys.exit(f"no text at {file.name} (give --text, or set QWENKIT_TEST_DATA)")
    text = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    return load_tokenizer(model).encode(text.decode())


def arguments() -> argparse.Namespace:
    """Return the command line."""
    data = Path(os.environ.get("QWENKIT_TEST_DATA", "../shared/data"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--text", type=Path, default=data / "wikitext2" / "valid.txt.gz")
    parser.add_argument("--calibration", type=Path, help="another text to calibrate on")
    parser.add_argument("--windows", type=int, default=64)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--rotated", action="store_true")
    parser.add_argument("--threads", type=int, default=platform.free_cores())
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def main() -> None:
    """Measure all forms, print the table, and the ratio last."""
    given = arguments()
    torch.set_num_threads(given.threads)
    first, measured = windows_of(encoded(given.text, given.model), given.length, given.windows)
    if given.calibration:
        first, _ = windows_of(encoded(given.calibration, given.model), given.length, 0)
    batches = [torch.tensor([window]) for window in first]

    def fresh() -> Transformer:
        model = load_model(given.model, dtype=torch.float32, device="cpu")
        return rotate(model) if given.rotated else model

    print(f"{date.today()}; {platform.machine()}; {platform.versions()}")
    print(f"{len(measured)} windows of {given.length} tokens\n")
    print("| weights of the blocks | bits | perplexity | increase | nats a token more, 95 % |")
    print("| --- | --- | --- | --- | --- |")
    before = text_losses(Engine(load_model(given.model, dtype=torch.float32, device="cpu")), measured)
    kept = {"unquantized": before}
    plain = math.exp(sum(before) / len(before))
    print(f"| as they are | 16 | {plain:.3f} | | |", flush=True)
    if given.rotated:
        turned = _perplexity(text_losses(Engine(fresh()), measured))
        print(f"| as they are, rotated | 16 | {turned:.3f} | | |", flush=True)
    for form in forms(batches):
        losses = text_losses(Engine(form.change(fresh())), measured)
        kept[form.name], more = losses, paired_difference(losses, before)
        print(f"| {form.name} | {form.bits:.2f} | {_perplexity(losses):.3f} | {_perplexity(losses) / plain - 1:+.1%} | "
              f"{more.mean:.4f} ({more.low:.4f} to {more.high:.4f}) |", flush=True)  # fmt: skip
    report(kept, given)


def _perplexity(losses: list[float]) -> float:
    return math.exp(sum(losses) / len(losses))


def report(losses: dict[str, list[float]], given: argparse.Namespace) -> None:
    """Write the file, and print the ratio."""
    increase = {name: _perplexity(values) - _perplexity(losses["unquantized"]) for name, values in losses.items()}
    if given.out:
        kept = {"date": str(date.today()), "machine": platform.machine(), "versions": platform.versions(),
                "rotated": given.rotated, "losses": losses}  # fmt: skip
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(kept, indent=1) + "\n")
    mine = min(value for name, value in increase.items() if "GPTQ, groups of 64" in name)
    print(f"ratio {min(increase[f'llama.cpp {kind}'] for kind in ('Q4_1', 'Q4_0')) / mine:.2f}")


if __name__ == "__main__":
    main()
