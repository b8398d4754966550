"""A small model, a byte tokenizer, prompts, and what the plain forward pass answers to them."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator

import pytest
import torch

from qwenkit.inference import Conversation, Delta, Engine, Output, SamplingParams
from qwenkit.inference.requests import PromptLike
from qwenkit.model import ModelConfig, Transformer, init_weights
from qwenkit.platform import torch_threads
from qwenkit.prompt import Prompt


class Bytes:
    """A byte tokenizer with two special tokens, and what the engine asks of one."""

    eot_id, im_end_id, n_tokens = 256, 257, 258

    def __init__(self) -> None:
        self.special = {"<|endoftext|>": 256, "<|im_end|>": 257}

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = False) -> str:
        names = {id: b"" if skip_special_tokens else name.encode() for name, id in self.special.items()}
        return b"".join(names.get(id, bytes([id % 256])) for id in ids).decode(errors="replace")

    def stream(self, skip_special_tokens: bool = False) -> _Stream:
        return _Stream(skip_special_tokens)

    def render(
        self, messages: list[dict[str, str]], tools: list[str] | None = None, add_generation_prompt: bool = False
    ) -> _Rendered:
        assert add_generation_prompt
        texts = [*(tools or ()), *(message["content"] for message in messages)]
        return _Rendered([id for text in texts for id in [*text.encode(), 257]])


class _Rendered:
    def __init__(self, ids: list[int]) -> None:
        self.ids, self.prompt = ids, Prompt(tuple(ids))


class _Stream:
    """Whole characters only."""

    def __init__(self, skip_special_tokens: bool) -> None:
        self.skip = skip_special_tokens
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, id: int) -> str:
        return self.decoder.decode(Bytes().decode([id], self.skip).encode() if id >= 256 else bytes([id]))

    def flush(self) -> str:
        return self.decoder.decode(b"", final=True)


SHAPE = dict(vocab_size=264, hidden_size=32, intermediate_size=80, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=200)  # fmt: skip
GREEDY = SamplingParams.plain(temperature=0.0, max_tokens=20, logprobs=True, ignore_eos=True)


@pytest.fixture(scope="module", name="model")
def _model() -> Transformer:
    return init_weights(Transformer(ModelConfig(**SHAPE)), seed=0, std=0.3).eval()  # type: ignore[arg-type]


def make_prompts(count: int, seed: int = 0, longest: int = 90) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest, (count,), generator=generator).tolist()
    return [torch.randint(0, 256, (length,), generator=generator).tolist() for length in lengths]


def completed(deltas: Iterable[Delta]) -> dict[int, list[int]]:
    """The ids of the first answers of the requests that these deltas complete, by handle."""
    outputs = (delta.output for delta in deltas)
    return {output.request: output.ids for output in outputs if output is not None}


def full_forward(model: Transformer, prompt: list[int], count: int) -> list[int]:
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(count):
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Compute with one thread, where bits do not depend on what else is in a batch; another test may have left two."""
    with torch_threads(1):
        yield


def alone(model: Transformer, number: int, asked: PromptLike | Conversation, params: SamplingParams) -> Output:
    """What a request gets where it has the engine to itself; `number` is that of its draws."""
    engine = Engine(model, Bytes())
    if isinstance(asked, Conversation):
        return engine.chat([asked.messages], params, rng_ids=[number])[0]
    return engine.generate([asked], params, rng_ids=[number])[0]
