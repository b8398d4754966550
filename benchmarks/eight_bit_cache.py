"""How much a last bit moves the logits of an 8-bit cache: the golden case under weights that hardly differ.

    python benchmarks/eight_bit_cache.py [--draws 4] [--noise 1e-7]

The official rule truncates levels, and the greatest value of every span lies on an edge by construction. Each draw
changes all weights by `noise` of themselves; what is printed is the largest change of a logit, over the prompt of 48
tokens and over the 24 tokens after it, and how far the unchanged weights are from the official code's numbers.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from qwenkit.inference.paged_cache import PagedRows
from qwenkit.model import Transformer, load_model

CASE = Path(__file__).parents[1] / "tests" / "model" / "golden" / "qwen1_kvquant"
PROMPT = 48


@torch.no_grad()
def written(model: Transformer, ids_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of the prompt, and from its last token on of every token, each read by itself."""
    B, T = ids_BT.shape
    rows = PagedRows(model.config, B, T, torch.float32, "cpu", "int8")
    prompt_BTV = model.head(rows.hidden(model, ids_BT[:, :PROMPT], 0, PROMPT))
    steps = [prompt_BTV[:, -1:]]
    for t in range(PROMPT, T):
        steps.append(model.head(rows.hidden(model, ids_BT[:, t : t + 1], t, PROMPT)))
    return prompt_BTV, torch.cat(steps, dim=1)


@torch.no_grad()
def disturbed(noise: float, seed: int) -> Transformer:
    """The case's model, each weight changed a little."""
    model, generator = load_model(CASE), torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.mul_(1 + noise * torch.randn(parameter.shape, generator=generator))
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--noise", type=float, default=1e-7)
    given = parser.parse_args()
    ids, wanted = load_file(CASE / "inputs.safetensors")["input_ids"], load_file(CASE / "expected.safetensors")
    own = written(load_model(CASE), ids)
    official = wanted["prefill48.logits"], wanted["step48to72.logits"]
    print("| | prompt | steps |\n|---|---|---|")
    for name, found in [
        ("official numbers", official),
        *((f"weights changed, draw {seed}", written(disturbed(given.noise, seed), ids)) for seed in range(given.draws)),
    ]:
        prompt, steps = ((a - b).abs().max().item() for a, b in zip(own, found))
        print(f"| {name} | {prompt:.6f} | {steps:.6f} |")


if __name__ == "__main__":
    main()
