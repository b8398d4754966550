"""The engine against the full forward, and every request against itself in other company."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from qwenkit.errors import UserError
from qwenkit.inference import Engine, SamplingParams
from qwenkit.model import ModelConfig, Transformer, init_weights, save_model
from qwenkit.platform import torch_threads

from .conftest import GREEDY, SHAPE, Bytes, completed, full_forward, make_prompts


def test_greedy_ids_are_those_of_thefull_forward(model: Transformer) -> None:
    prompts = make_prompts(11)
    outputs = Engine(model, None, max_batch=4).generate(prompts, GREEDY)
    assert [output.ids for output in outputs] == [full_forward(model, prompt, 20) for prompt in prompts]
    assert [output.prompt_ids for output in outputs] == prompts
    assert {output.finish_reason for output in outputs} == {"length"}


NANO = dict(vocab_size=4096, hidden_size=128, intermediate_size=352, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=256)  # fmt: skip


@pytest.fixture
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """So many threads for torch, for one test."""
    with torch_threads(request.param):
        yield request.param


@pytest.mark.parametrize("shape", [SHAPE, NANO], ids=["small", "nano"])
@pytest.mark.parametrize(
    ("dtype", "threads"),
    [(torch.float32, 1), (torch.float32, 2), (torch.bfloat16, 1)],
    ids=["fp32", "fp32-2", "bf16"],
    indirect=["threads"],
)
def test_a_request_does_not_notice_its_company(shape: dict[str, int], dtype: torch.dtype, threads: int) -> None:
    """Same ids alone, in small batches and all at once, and with one thread the same bits of logprobs.

    With two, how a matrix product is divided among them depends on the rows of the batch, and with it the order of its
    sums. A sum of K products of size 0.1 on average then differs by at most K eps K 0.1, the head's and each layer's.
    """
    model = init_weights(Transformer(ModelConfig(**shape)), seed=0, std=0.3).to(dtype).eval()  # type: ignore[arg-type]
    prompts, params = make_prompts(13), SamplingParams.plain(max_tokens=12, top_p=0.9, logprobs=True, n=3, seed=5)
    crowd = Engine(model, None).generate(prompts, params)
    few = Engine(model, None, max_batch=5).generate(prompts[::-1], params, rng_ids=range(12, -1, -1))[::-1]
    engine = Engine(model, None)
    alone = [engine.generate([prompt], params, rng_ids=[i])[0] for i, prompt in enumerate(prompts)]
    terms = shape["intermediate_size"]
    bound = 0.0 if threads == 1 else terms * terms * 0.1 * torch.finfo(torch.float32).eps
    for one, two, three in zip(crowd, few, alone):
        assert [s.ids for s in one.samples] == [s.ids for s in two.samples] == [s.ids for s in three.samples]
        for sample, *others in zip(one.samples, two.samples, three.samples):
            for other in others:
                assert sample.logprobs == pytest.approx(other.logprobs, abs=bound, rel=0)
        assert len({tuple(s.ids) for s in one.samples}) == 3


def test_draws_follow_seed_and_request(model: Transformer) -> None:
    engine, params = Engine(model, None), SamplingParams.plain(max_tokens=12)
    same = engine.generate([[1, 2]], params)[0].ids
    assert engine.generate([[1, 2]], params)[0].ids == same
    assert engine.generate([[1, 2]], params, rng_ids=[7])[0].ids != same
    assert engine.generate([[1, 2]], SamplingParams.plain(max_tokens=12, seed=1))[0].ids != same


def test_samples_follow_the_models_distribution(model: Transformer) -> None:
    count = 4000
    drawn = Engine(model, None).generate([[5, 6, 7]] * count, SamplingParams.plain(max_tokens=1))
    seen = torch.bincount(torch.tensor([output.ids[0] for output in drawn]), minlength=264) / count
    with torch.no_grad():
        wanted = model(torch.tensor([[5, 6, 7]]))[0, -1].softmax(-1)
    assert (seen - wanted).abs().max() < 5 * (0.25 / count) ** 0.5


def test_logprobs_are_the_models_own_and_score_agrees(model: Transformer) -> None:
    engine, prompts = Engine(model, None), make_prompts(6)
    params = SamplingParams.plain(max_tokens=15, temperature=0.5, top_k=5, repetition_penalty=1.3, logprobs=True)
    outputs = engine.generate(prompts, params)
    scores = engine.score(prompts, [output.ids for output in outputs])
    whole = engine.score([[*prompt, *output.ids] for prompt, output in zip(prompts, outputs)])
    for output, given, row in zip(outputs, scores, whole):
        assert output.logprobs == pytest.approx(given, abs=1e-4)
        assert row[-len(given) :] == pytest.approx(given, abs=1e-4) and len(row) == len(output.prompt_ids) + 14


def test_stops(model: Transformer) -> None:
    engine = Engine(model, None)
    ids = engine.generate([[9, 8, 7]], GREEDY)[0].ids
    stop = next(id for i, id in enumerate(ids) if i > 3 and id not in ids[:i])
    output = engine.generate([[9, 8, 7]], SamplingParams.plain(temperature=0, max_tokens=20, stop_token_ids=[stop]))[0]
    assert output.finish_reason == "stop" and output.ids == ids[: ids.index(stop) + 1]


def test_stop_text_is_cut_off_and_streaming_adds_up_to_the_text(model: Transformer) -> None:
    engine, params = Engine(model, Bytes()), SamplingParams.plain(max_tokens=60, ignore_eos=True, temperature=1.5)
    whole = engine.generate(["你好 hello"], params)[0].text
    assert whole is not None and "".join(engine.stream("你好 hello", params)) == whole
    stop = whole[10:12]
    halted = SamplingParams.plain(max_tokens=60, ignore_eos=True, temperature=1.5, stop=[stop])
    output = engine.generate(["你好 hello"], halted)[0]
    assert output.finish_reason == "stop" and output.text == whole[: whole.index(stop)]
    assert "".join(engine.stream("你好 hello", halted)) == output.text


def test_chat_ends_with_its_turn(model: Transformer) -> None:
    engine = Engine(model, Bytes())
    params = SamplingParams.plain(max_tokens=100, temperature=2.0, n=8)
    (output,) = engine.chat([[{"role": "user", "content": "hi"}]], params)
    stopped = [sample for sample in output.samples if sample.finish_reason == "stop"]
    assert stopped and all(sample.ids[-1] in (256, 257) for sample in stopped)
    assert all(id < 258 for sample in output.samples for id in sample.ids), "rows that pad the vocabulary are not drawn"


def test_requests_one_at_a_time(model: Transformer) -> None:
    engine, prompts = Engine(model, None, max_batch=2), make_prompts(5)
    handles = [engine.submit(prompt, GREEDY) for prompt in prompts]
    engine.step()
    engine.abort(handles[1])
    engine.abort(handles[4])
    engine.abort(999)
    between = engine.generate([prompts[1]], GREEDY)[0]
    done = {}
    while len(done) < 3:
        done.update(completed(engine.step()))
    assert done == {handles[i]: full_forward(model, prompts[i], 20) for i in (0, 2, 3)}
    assert between.ids == full_forward(model, prompts[1], 20) and engine.step() == []


def test_new_weights_raise_the_version_and_take_effect(model: Transformer) -> None:
    own = init_weights(Transformer(model.config), seed=9, std=0.3)
    engine = Engine(own, None)
    before = engine.generate([[1, 2, 3]], GREEDY)[0]
    engine.update_weights(model.state_dict())
    after = engine.generate([[1, 2, 3]], GREEDY)[0]
    assert (before.version, after.version) == (0, 1) and after.ids == full_forward(model, [1, 2, 3], 20) != before.ids
    engine.submit([1], GREEDY)
    with pytest.raises(UserError, match="are pending"):
        engine.update_weights()


def test_a_model_in_training_is_put_back_and_writes_without_dropout(model: Transformer) -> None:
    config = ModelConfig(**SHAPE, dropout=0.5)  # type: ignore[arg-type]
    training = Transformer(config).train()
    training.load_state_dict(model.state_dict())
    assert Engine(training, None).generate([[4, 5]], GREEDY)[0].ids == full_forward(model, [4, 5], 20)
    assert training.training


def test_a_folder_brings_its_settings(model: Transformer, tmp_path: Path) -> None:
    save_model(model, tmp_path)
    (tmp_path / "generation_config.json").write_text(
        '{"do_sample": false, "max_new_tokens": 6, "eos_token_id": [3, 4]}'
    )
    engine = Engine(tmp_path, None)
    assert engine.generate([[1, 2, 3]])[0].ids == full_forward(model, [1, 2, 3], 6)
    assert engine.eos_ids == {3, 4}


def test_edges(model: Transformer) -> None:
    engine = Engine(model, None)
    assert engine.generate([], GREEDY) == []
    nothing = engine.generate([[1] * 200], SamplingParams.plain(max_tokens=0))[0]
    assert (nothing.ids, nothing.finish_reason) == ([], "length")
    assert len(engine.generate([[1] * 190], SamplingParams.plain(temperature=0))[0].ids) == 10
    assert engine.score([[1]]) == [[]]
    for prompt, message in (
        ([], "prompt 0: empty"),
        ([1] * 200, "at most 199"),
        ([264], "token id 264"),
        ("hi", "tokenizer"),
    ):
        with pytest.raises(UserError, match=message):
            engine.generate([prompt], GREEDY)
    with pytest.raises(UserError, match="2 sampling parameters for 1"):
        engine.generate([[1]], [GREEDY, GREEDY])


def test_more_requests_may_come_than_the_cache_has_room_for(model: Transformer) -> None:
    """They wait, and the last ones are put back while others run: every answer is as ever."""
    engine, prompts = Engine(model, None, kv_tokens=176), make_prompts(12, seed=3, longest=20)
    first = engine.submit(prompts[0], GREEDY)
    engine.step()
    handles = [first, *(engine.submit(prompt, GREEDY) for prompt in [*prompts[1:], [3] * 150])]
    done = {}
    while len(done) < len(handles):
        done.update(completed(engine.step()))
    assert [done[handle] for handle in handles] == [full_forward(model, prompt, 20) for prompt in [*prompts, [3] * 150]]
    assert engine.stats().preemptions > 0 and engine.stats().kv_tokens_used == 0


@pytest.mark.parametrize("extended", [False, True])
def test_prompts_read_in_pieces_give_the_same(extended: bool) -> None:
    """Nothing ahead is seen, and the rotation is that of the whole prompt."""
    from qwenkit.model import ModelConfig, Transformer, init_weights
    from qwenkit.model.config import ContextExtension

    extension = ContextExtension(seq_length=16, dynamic_ntk=True, logn=True) if extended else None
    config = ModelConfig(**{**SHAPE, "num_key_value_heads": None}, extension=extension,  # type: ignore[arg-type]
                         windows=(8, None))  # fmt: skip
    model = init_weights(Transformer(config), seed=0, std=0.3).eval()
    prompts = [[(7 * i + n) % config.vocab_size for i in range(length)] for n, length in enumerate((90, 33, 5, 64))]
    params = SamplingParams.plain(temperature=0, max_tokens=12, logprobs=True, ignore_eos=True)
    whole = Engine(model).generate(prompts, params)
    for pieces in (1, 32, 40):
        for a, b in zip(whole, Engine(model, step_tokens=pieces).generate(prompts, params), strict=True):
            assert a.ids == b.ids
            assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)
    for output, prompt in zip(whole, prompts, strict=True):
        assert Engine(model).score([prompt])[0] == pytest.approx(Engine(model).score([*prompts, prompt])[-1], abs=1e-4)
        assert output.logprobs is not None


def test_a_cache_of_8_bits_does_not_see_padding_or_company(model: Transformer) -> None:
    """Each row's span is its own: prompts of other lengths beside it change nothing but the last bits."""
    prompts = make_prompts(9)
    engine = Engine(model, None, kv_cache="int8")
    crowd = engine.generate(prompts, GREEDY)
    alone = [Engine(model, None, kv_cache="int8").generate([prompt], GREEDY)[0] for prompt in prompts]
    assert [output.ids for output in crowd] == [output.ids for output in alone]
    assert engine.runner.cache.keys[0].tensors[0].dtype == torch.uint8
    with pytest.raises(UserError, match="kv_cache = 'int3'"):
        Engine(model, None, kv_cache="int3")
