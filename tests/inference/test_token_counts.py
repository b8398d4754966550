"""The tokens that penalties change."""

from __future__ import annotations

from collections import Counter

import torch
from hypothesis import given
from hypothesis import strategies as st

from qwenkit.inference.token_counts import TokenCounts

IDS = st.lists(st.integers(0, 300), max_size=400)


@given(IDS, IDS)
def test_counts_are_those_of_the_answer(prompt: list[int], answer: list[int]) -> None:
    counts = TokenCounts(prompt)
    for id in answer:
        counts.push(id)
    ids_N, counts_N = counts.tensors(torch.device("cpu"))
    assert ids_N.tolist() == list(dict.fromkeys([*prompt, *answer]))
    assert dict(zip(ids_N.tolist(), counts_N.tolist())) == {**dict.fromkeys(prompt, 0), **Counter(answer)}
