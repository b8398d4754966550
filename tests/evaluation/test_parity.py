"""A certificate is anybody's file: what is no certificate is refused, and what is no number holds nothing."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from qwenkit.errors import UserError
from qwenkit.evaluation.parity import Observed, certificate, checked, compare, recheck

PROMPTS = [[1, 2, 3], [4]]


def seen(of: float = 0.0) -> Observed:
    """Of a model whose scores are all alike but for one, which is `of`."""
    scores = [torch.zeros(len(prompt), 10) for prompt in PROMPTS]
    for row in scores:
        row[0, 0] = of
    return Observed(PROMPTS, [row.log_softmax(-1) for row in scores], [[1, 2], [3]])


def made() -> dict[str, Any]:
    return certificate(seen(), {"form": "hf"}, None)


def test_a_certificate_holds_of_what_it_was_made_of() -> None:
    assert checked(made(), "here") and recheck(made(), seen()).max_dlogp < 1e-5
    assert recheck(made(), seen(0.5)).max_dlogp > 0.01


def top(**changes: Any) -> dict[str, Any]:
    """With other rows for the second prompt."""
    whole = made()
    return {**whole, "top": [whole["top"][0], {**whole["top"][1], **changes}]}


ODD = {
    "not a number": top(logprobs=[[math.nan] * 8]),
    "infinite": top(logprobs=[[-math.inf] * 8]),
    "above nothing": top(logprobs=[[5.0] * 8]),
    "of many digits": top(logprobs=[[-(10**400)] * 8]),
    "a truth value": top(logprobs=[[True] * 8]),
    "text": top(logprobs=[["-1"] * 8]),
    "no rows": top(ids=[], logprobs=[]),
    "empty rows": top(ids=[[]], logprobs=[[]]),
    "of two lengths": top(ids=[[1, 2]], logprobs=[[-1.0]]),
    "more rows than tokens": top(ids=[[1]] * 3, logprobs=[[-1.0]] * 3),
    "negative ids": top(ids=[[-1] * 8]),
    "huge ids": top(ids=[[2**70] * 8]),
    "a number for rows": top(ids=3),
    "no top": {**made(), "top": None},
    "top of lists": {**made(), "top": [[], []]},
    "no prompts": {**made(), "prompts": [], "greedy": [], "top": []},
    "an empty prompt": {**made(), "prompts": [[], [4]]},
    "prompts of text": {**made(), "prompts": ["ab", "c"]},
    "fewer answers": {**made(), "greedy": [[1]]},
    "answers of floats": {**made(), "greedy": [[1.0], [2.0]]},
    "nothing": {},
}


@pytest.mark.parametrize("found", ODD.values(), ids=ODD)
def test_what_is_no_certificate_is_refused(found: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="this is not a certificate"):
        checked(found, "certificate.json")


def test_a_model_that_says_no_numbers_is_far_from_any() -> None:
    broken = seen()
    broken.logprobs[0][-1, :] = math.nan
    assert recheck(made(), broken).max_dlogp == math.inf
    found = compare(seen(), broken)
    assert math.isnan(found.max_dlogp) and math.isnan(found.max_kl)


def test_a_token_that_is_never_said_adds_nothing() -> None:
    assert compare(seen(-math.inf), seen(-math.inf)).mean_kl == 0
