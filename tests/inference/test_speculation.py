"""Guesses change the number of steps, and nothing else."""

from __future__ import annotations

import gc

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenkit.errors import UserError
from qwenkit.inference import DraftModel, Engine, PromptLookup, SamplingParams
from qwenkit.inference.sequence import Request, Sequence
from qwenkit.inference.speculation import Gain, Ngrams, Speculation
from qwenkit.model import ModelConfig, Transformer, init_weights
from qwenkit.prompt import Prompt

from .conftest import GREEDY, SHAPE, Bytes, make_prompts

CONFIG = ModelConfig(**SHAPE)  # type: ignore[arg-type]
PROMPTS = [*make_prompts(4, longest=60), [1, 2, 3, 4] * 12, [9, 8] * 20]
ASKED = {
    "greedy": GREEDY,
    "warm": SamplingParams.plain(max_tokens=30, seed=3, n=2, ignore_eos=True, logprobs=True),
    "cold": SamplingParams.plain(max_tokens=30, temperature=0.3, top_p=0.9, ignore_eos=True),
    "penalties": SamplingParams.plain(max_tokens=30, repetition_penalty=1.3, presence_penalty=0.5, temperature=0.2),
    "stops": SamplingParams.plain(max_tokens=30, temperature=0, stop=["a", "e"], min_tokens=4),
    "one": SamplingParams.plain(max_tokens=1),
}


def make(seed: int = 0) -> Transformer:
    return init_weights(Transformer(CONFIG), seed=seed, std=0.3).eval()


def speculations() -> dict[str, Speculation]:
    return {
        "lookup": PromptLookup(tokens=5, shortest=1),
        "the model itself": DraftModel(make(), tokens=3),
        "another model": DraftModel(make(5), tokens=3),
    }


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("name", speculations())
def test_ids_are_those_without(name: str, asked: str) -> None:
    model, params = make(), ASKED[asked]
    wanted = Engine(model, Bytes(), invariant=False).generate(PROMPTS, params)
    engine = Engine(model, Bytes(), invariant=False, speculation=speculations()[name])
    for output, same in zip(engine.generate(PROMPTS, params), wanted, strict=True):
        assert [s.ids for s in output.samples] == [s.ids for s in same.samples]
        assert [s.text for s in output.samples] == [s.text for s in same.samples]
        if params.logprobs:
            assert output.logprobs == pytest.approx(same.logprobs, abs=1e-4)
    assert engine.stats().kv_tokens_used == 0


def steps(engine: Engine, prompt: list[int]) -> int:
    engine.submit(prompt, GREEDY)
    count = 0
    while engine.has_work:
        engine.step()
        count += 1
    return count


def test_right_guesses_save_steps() -> None:
    """A model guesses its own greedy answers: of four tokens a step, all stand."""
    model = make()
    plain = steps(Engine(model, None), PROMPTS[0])
    engine = Engine(model, None, invariant=False, speculation=DraftModel(make(), tokens=3))
    assert plain == 20 and steps(engine, PROMPTS[0]) == 1 + 5
    assert engine.stats().tokens_guessed == 3 * 4 + 2, "no guess beyond the answer's length"


def test_few_blocks_leave_no_room_for_guesses() -> None:
    model = make()
    engine = Engine(model, None, invariant=False, kv_tokens=112, speculation=PromptLookup(shortest=1))
    wanted = Engine(model, None).generate(PROMPTS, GREEDY)
    assert [o.ids for o in engine.generate(PROMPTS, GREEDY)] == [o.ids for o in wanted]


def test_guesses_may_take_blocks_that_another_left_behind() -> None:
    """An aborted request's blocks are cleared before they are written, not after: wherever the block's edge is."""
    model, params = make(), SamplingParams.plain(temperature=0, max_tokens=40, ignore_eos=True)
    for length in range(8, 24):
        prompt = [1, 2, 3, 4] * 6
        engine = Engine(model, None, invariant=False, native=False, speculation=DraftModel(make(), tokens=5))
        kept = engine.submit(prompt[:length], params)
        left = engine.submit([9] * 60, params)
        engine.step()
        engine.abort(left)
        outputs = [delta.output for _ in range(60) for delta in engine.step() if delta.output is not None]
        (output,) = outputs
        assert (output.request, output.ids) == (kept, Engine(model, None).generate([prompt[:length]], params)[0].ids)


def guess(ids: list[int], count: int, lookup: PromptLookup) -> list[int]:
    """What is guessed to follow a text: a prompt of its first half and an answer of its second."""
    half = len(ids) // 2
    prompt = Prompt(tuple(ids[:half]))
    sequence = Sequence(Request(0, "text", prompt, GREEDY, 100, frozenset()), 0, None, ids=ids[half:])
    return lookup.propose([sequence], {sequence: count}).get(sequence, [])


def test_what_followed_before_is_the_guess() -> None:
    lookup = PromptLookup(tokens=3, longest=3, shortest=2)
    assert guess([1, 2, 3, 4, 5, 1, 2, 3], 3, lookup) == [4, 5, 1]
    assert guess([7, 2, 3, 4, 9, 2, 3, 5, 8, 2, 3], 2, lookup) == [5, 8], "the newest place"
    assert guess([1, 2, 3, 4], 3, lookup) == guess([1, 9, 1], 3, lookup) == guess([5], 3, lookup) == []
    assert guess([1, 2, 3, 1, 2], 0, lookup) == []


def scan(ids: list[int], longest: int, shortest: int) -> int:
    """Where what followed the last tokens begins, by looking at every place."""
    for size in range(min(longest, len(ids) - 1), shortest - 1, -1):
        for start in range(len(ids) - size - 1, -1, -1):
            if ids[start : start + size] == ids[-size:]:
                return start + size
    return len(ids)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=60), st.integers(1, 4), st.integers(0, 3), st.data())
def test_the_index_finds_what_a_scan_finds(ids: list[int], shortest: int, more: int, data: st.DataObject) -> None:
    """However many tokens are added at a time."""
    ngrams, at = Ngrams(shortest, shortest + more), 0
    while at < len(ids):
        step = data.draw(st.integers(1, len(ids) - at))
        ngrams.extend(ids[at : at + step])
        at += step
        assert ngrams.length == at and ngrams.followed() == scan(ids[:at], shortest + more, shortest)


def test_answers_that_are_done_leave_no_index() -> None:
    lookup = PromptLookup()
    assert guess([1, 2, 3, 1, 2], 3, lookup) == [3, 1, 2]
    gc.collect()
    assert not lookup._ngrams


def test_guessing_stops_where_it_loses_and_is_tried_again() -> None:
    for costs, share in (((1.0, 2.0), 0.9), ((2.0, 1.0), 0.2)):
        gain, guessed = Gain(), 0
        for _ in range(640):
            wanted = gain.wanted()
            guessed += wanted
            gain.note(wanted, costs[0] if wanted else costs[1], 1)
        assert guessed / 640 == pytest.approx(share, abs=0.1)


def test_a_draft_of_another_vocabulary_is_refused() -> None:
    small = ModelConfig(**{**SHAPE, "vocab_size": 300})  # type: ignore[arg-type]
    with pytest.raises(UserError) as caught:
        Engine(make(), None, invariant=False, speculation=DraftModel(Transformer(small)))
    assert str(caught.value) == (
        "the draft model has 300 words\n  expected: 264, as the model has\n"
        "  hint: take a smaller model of the same family, or name both tokenizers: DraftModel(model, tok=...)"
    )
    with pytest.raises(UserError, match="must not depend on a clock"):
        Engine(make(), None, speculation=PromptLookup())


class Named(Bytes):
    """A tokenizer with further special tokens, and perhaps other ranks."""

    def __init__(self, special: dict[str, int], ranks: str = "the same") -> None:
        super().__init__()
        self.special |= special
        self.n_tokens, self.ranks = 1 + max(self.special.values()), ranks


def of_size(vocab_size: int, seed: int = 0) -> Transformer:
    config = ModelConfig(**{**SHAPE, "vocab_size": vocab_size})  # type: ignore[arg-type]
    return init_weights(Transformer(config), seed=seed, std=0.3).eval()


def test_tables_that_are_filled_up_to_another_size_are_of_the_same_vocabulary() -> None:
    """A larger table and a smaller one, and tokens that only one of both knows: the ids are those without a guess."""
    more, prompts = {"<tool>": 258, "<think>": 259}, [[5, 259, 6, 5], [258] * 9, [3, 4] * 9]
    model, tok = of_size(264), Named(more)
    wanted = [output.ids for output in Engine(model, tok, invariant=False).generate(prompts, GREEDY)]
    for vocab_size, own in ((320, Named(more)), (258, Bytes()), (272, Named({"<tool>": 258}))):
        own.ranks = "the same"  # type: ignore[union-attr]
        draft = DraftModel(of_size(vocab_size), tokens=3, tok=own)
        engine = Engine(model, tok, invariant=False, speculation=draft)
        assert [output.ids for output in engine.generate(prompts, GREEDY)] == wanted
        assert engine.stats().tokens_guessed > 0


def test_a_token_that_only_the_draft_has_is_never_guessed() -> None:
    small, large = of_size(260), of_size(320)
    with torch.no_grad():
        large.lm_head.weight[260:] *= 100  # so the likeliest of all is one of them
    sequence = Sequence(Request(0, "text", Prompt((1, 2, 3)), GREEDY, 100, frozenset()), 0, None, ids=[4])
    assert min(DraftModel(large, tokens=3).propose([sequence], {sequence: 3})[sequence]) >= 260
    draft = DraftModel(large, tokens=3, tok=Bytes())
    Engine(small, Bytes(), invariant=False, speculation=draft)
    guesses = draft.propose([sequence], {sequence: 3})[sequence]
    assert len(guesses) == 3 and max(guesses) < Bytes.n_tokens


@pytest.mark.parametrize(
    ("tok", "difference"),
    [
        (Named({"<tool>": 259}), "<tool> is token 259, and not 258"),
        (Named({"<other>": 258}), "<other> is token 258, and not <tool>"),
        (Named({"<tool>": 258}, ranks="others"), "its tokens are others"),
    ],
)
def test_a_draft_whose_tokens_mean_something_else_is_refused(tok: Named, difference: str) -> None:
    with pytest.raises(UserError) as caught:
        Engine(make(), Named({"<tool>": 258}), invariant=False, speculation=DraftModel(make(), tok=tok))
    assert str(caught.value) == (
        f"the draft model has another vocabulary: {difference}\n  hint: take a smaller model of the same family"
    )


def test_a_guess_looks_only_at_what_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the answer is: the tokens that are asked for, and those that are read."""
    looked: list[int] = []
    tokens = Sequence.tokens

    def counting(sequence: Sequence, start: int, stop: int) -> tuple[int, ...]:
        looked.append(stop - start)
        return tokens(sequence, start, stop)

    draft = DraftModel(make(), tokens=3)
    sequence = Sequence(Request(0, "text", Prompt((1, 2, 3) * 10), GREEDY, 100, frozenset()), 0, None, ids=[4])
    first = draft.propose([sequence], {sequence: 3})[sequence]
    monkeypatch.setattr(Sequence, "tokens", counting)
    for right in (3, 2, 1, 0):  # of the guesses, how many were right
        sequence.ids += [*first[:right], (first[right] + 1) % 250 if right < 3 else 7]
        looked.clear()
        guess = draft.propose([sequence], {sequence: 3})[sequence]
        assert sum(looked) <= 2 * 3 + 2
        fresh = DraftModel(make(), tokens=3).propose([sequence], {sequence: 3})[sequence]
        assert guess == fresh, "what was wrong is read again"
        first = guess


def test_a_draft_forgets_answers_that_are_done() -> None:
    draft = DraftModel(make(5), tokens=2)
    engine = Engine(make(), None, invariant=False, speculation=draft)
    engine.generate(PROMPTS[:3], GREEDY)
    engine.generate(PROMPTS[3:], GREEDY)
    draft.propose([], {})
    assert draft.pool.num_used == 0 and torch.is_grad_enabled()
