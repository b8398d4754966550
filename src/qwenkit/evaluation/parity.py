"""Compare two forms of a model: log-probabilities, their divergence, and what each generates greedily.

    seen = observe(model, prompts)                 # one model at a time need be in memory
    compare(reference, seen) -> Parity(positions, max_dlogp, mean_kl, max_kl, greedy_agreement)
    certificate(seen, ...)                         # travels with an exported folder; `recheck` holds the two together

Positions are those of every prompt; the greedy answer follows the first tokens of it. Two greedy answers agree up to
their first different token; after it they are different texts, so the share is that of the common beginning.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from qwenkit.errors import UserError
from qwenkit.inference import Engine, SamplingParams
from qwenkit.inference.detokenizer import TextTokenizer
from qwenkit.model import Transformer
from qwenkit.records import Row

SCHEMA = 1
TOP = 8
"""Tokens whose log-probabilities a certificate keeps for each position."""
ANSWER = 24
"""Tokens of a greedy answer."""
TEXTS = (
    "The tokens of a language model are small pieces of text. The model reads them from left to right, and",
    "北京是中华人民共和国的首都。语言模型从左到右阅读文字，然后",
    "def fibonacci(n):\n    a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a + b\n    return a\n\nprint(",
    "12 + 30 = 42; 7 * 8 = 56; 100 - 1 = ",
    "Émile naïvely said: “¿Qué?” — and 東京 replied with 🙂, 한국어 and العربية.",
)
"""The prompts of every certificate: English, Chinese, code, digits, and scripts beside each other."""

CLOSE = {"float32": 1e-3, "bfloat16": 0.2, "float16": 0.05}
"""The tolerance of a certificate's log-probabilities (nats) on another machine, by the dtype of the computation."""

CERTIFICATE = "certificate.json"
"""The file beside an exported model."""


class Parity(NamedTuple):
    """The distance of a form of a model from the reference, over all positions that both can read."""

    positions: int
    max_dlogp: float
    """Largest difference of a log-probability among the reference's most likely tokens, in nats."""
    mean_kl: float
    max_kl: float
    greedy_agreement: float
    """Share of greedy tokens before the first difference."""

    def rounded(self) -> dict[str, float]:
        """Return the numbers by name, rounded to eight places: what is written of them."""
        return {name: round(value, 8) for name, value in self._asdict().items()}


@dataclass
class Observed:
    """The outputs of a model: full log-probabilities [T, V] in nats for each prompt, and its greedy answers."""

    prompts: list[list[int]]
    logprobs: list[Tensor]
    greedy: list[list[int]]


def prompts_of(tok: TextTokenizer | None, vocabulary: int, longest: int) -> list[list[int]]:
    """Return the test texts as ids, and a long prompt of all of them in turn, for settings that act only on long texts.

    Without a tokenizer the ids are a fixed walk through the vocabulary. No prompt has more than `longest` tokens."""
    if tok is None:
        texts = [[(37 * i * i + 11 * i + n) % vocabulary for i in range(40)] for n in range(4)]
    else:
        texts = [tok.encode(text) for text in TEXTS]
    joined = [id for text in texts for id in text]
    long = (joined * (1 + longest // len(joined)))[:longest]
    return [*(text[: longest - _answer(longest)] for text in texts), long]


def _answer(longest: int) -> int:
    """Return the tokens of a greedy answer where prompt and answer together have at most `longest`."""
    return min(ANSWER, max(1, longest - 8))


@torch.inference_mode()
def observe(model: Transformer, prompts: Sequence[Sequence[int]]) -> Observed:
    """Return the log-probabilities of every prompt, and a greedy answer to as much of it as leaves room for one."""
    engine = Engine(model)
    logprobs = [model(torch.tensor([list(p)], device=engine.runner.cache.device)) for p in prompts]
    longest = max(map(len, prompts))  # what every form can read: an answer must not go beyond it in one of them
    short = [list(p)[: max(1, longest - _answer(longest))] for p in prompts]
    params = SamplingParams.plain(temperature=0, max_tokens=_answer(longest), ignore_eos=True)
    greedy = [output.ids for output in engine.generate(short, params)]
    return Observed([list(p) for p in prompts], [x[0].float().log_softmax(-1).cpu() for x in logprobs], greedy)


def compare(reference: Observed, other: Observed) -> Parity:
    """Return the distance of one form from the reference over the same prompts: differences and KL(reference || other)
    in nats."""
    dlogp, divergence = [], []
    for a_TV, b_TV in zip(reference.logprobs, other.logprobs, strict=True):
        width = min(a_TV.shape[1], b_TV.shape[1])  # padding rows of the vocabulary may differ
        a_TV, b_TV = a_TV[:, :width], b_TV[:, :width]
        top = a_TV.topk(min(TOP, width), dim=-1).indices
        dlogp.append((a_TV.gather(1, top) - b_TV.gather(1, top)).abs().amax(-1))
        each = torch.where(a_TV == -torch.inf, 0.0, a_TV.exp() * (a_TV - b_TV))  # probability zero adds nothing
        divergence.append(each.sum(-1).clamp(min=0))
    kl_T = torch.cat(divergence)
    return Parity(len(kl_T), torch.cat(dlogp).max().item(), kl_T.mean().item(), kl_T.max().item(),
                  agreement(reference.greedy, other.greedy))  # fmt: skip


def agreement(reference: Sequence[Sequence[int]], other: Sequence[Sequence[int]]) -> float:
    """Return the share of greedy tokens before the first difference."""
    same = sum(_common(a, b) for a, b in zip(reference, other, strict=True))
    return same / max(1, sum(len(ids) for ids in reference))


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


# ---- certificates ---------------------------------------------------------------------------------------------------


def certificate(observed: Observed, origin: Mapping[str, object], parity: Parity | None) -> Row:
    """Return the outputs of the reference in few enough numbers to travel with the exported folder; `origin` says how
    it was made."""
    return {
        "schema": SCHEMA,
        **origin,
        "parity": None if parity is None else parity.rounded(),
        "prompts": observed.prompts,
        "top": [_top(x_TV) for x_TV in observed.logprobs],
        "greedy": observed.greedy,
    }


def _top(x_TV: Tensor) -> dict[str, Any]:
    """Return the most likely tokens of the last positions and their log-probabilities."""
    best = x_TV[-TOP:].topk(min(TOP, x_TV.shape[1]), dim=-1)
    return {"ids": best.indices.tolist(), "logprobs": [[round(x, 6) for x in row] for row in best.values.tolist()]}


def checked(certificate: Row, where: str) -> Row:
    """Return the certificate after checking everything that is read of it; raises a `UserError` for another file."""
    prompts, greedy, top = (cast("Any", certificate.get(name)) for name in ("prompts", "greedy", "top"))
    sound = all(isinstance(rows, list) for rows in (prompts, greedy, top))
    sound = sound and 0 < len(prompts) == len(greedy) == len(top)
    sound = sound and all(map(_are_ids, prompts)) and all(row == [] or _are_ids(row) for row in greedy)
    if not sound or not all(map(_is_top, top, prompts)):
        raise UserError("this is not a certificate", where=where, expected="what `qwenkit export` writes")
    return certificate


def _are_ids(row: Any) -> bool:
    return isinstance(row, list) and len(row) > 0 and all(type(id) is int and 0 <= id < 2**31 for id in row)


def _is_top(top: Any, prompt: list[int]) -> bool:
    """Return whether these are tokens and log-probabilities for the last positions of a prompt, as many for each."""
    rows, numbers = (top.get(name) for name in ("ids", "logprobs")) if isinstance(top, dict) else (None, None)
    if not isinstance(rows, list) or not isinstance(numbers, list) or not 0 < len(rows) == len(numbers) <= len(prompt):
        return False
    sizes = {len(row) if isinstance(row, list) else 0 for row in (*rows, *numbers)}
    if len(sizes) != 1 or sizes == {0}:
        return False
    return all(map(_are_ids, rows)) and all(_is_logprob(x) for row in numbers for x in row)


def _is_logprob(x: Any) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool) and -1e9 < x <= 1e-3


def recheck(certificate: Row, observed: Observed) -> Parity:
    """Return the distance of a model's present outputs from its folder's certificate; outputs that are not numbers are
    infinitely far."""
    dlogp = 0.0
    for x_TV, top in zip(observed.logprobs, certificate["top"], strict=True):
        wanted = torch.tensor(top["logprobs"])
        own = x_TV[-len(wanted) :].gather(1, torch.tensor(top["ids"]))
        dlogp = max(dlogp, (own - wanted).abs().nan_to_num(math.inf).max().item())
    positions = sum(len(top["ids"]) for top in certificate["top"])
    return Parity(positions, dlogp, float("nan"), float("nan"), agreement(certificate["greedy"], observed.greedy))
