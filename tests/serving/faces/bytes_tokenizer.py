"""A tokenizer of bytes, with the tokens around thoughts, and the engine's deltas of a text."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from qwenkit.inference import Delta, Output, Sample, SamplingParams
from qwenkit.inference.detokenizer import IncrementalDetokenizer
from qwenkit.tokenizer.core import TextStream


class BytesTokenizer:
    """One token for each byte; `style` and what is special are the test's."""

    vocab_size = n_tokens = 262

    def __init__(self, style: str | None = "chatml", thinks: bool = True, chat_template: str | None = None) -> None:
        self.style, self.chat_template = style, chat_template
        names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *(["<think>", "</think>"] if thinks else [])]
        self.special = {name: 256 + number for number, name in enumerate(names)}

    def encode(self, text: str, allowed_special: str = "") -> list[int]:
        if allowed_special != "all":
            return list(text.encode())
        for name, id in self.special.items():
            if name in text:
                before, after = text.split(name, 1)
                return [*self.encode(before, "all"), id, *self.encode(after, "all")]
        return list(text.encode())

    def encode_ordinary(self, text: str) -> list[int]:
        return list(text.encode())

    def tokens(self) -> dict[int, bytes]:
        return {id: bytes([id]) for id in range(256)}

    def decode_bytes(self, ids: Iterable[int], skip: bool = False, unknown: bytes | None = None) -> bytes:
        names = {id: name.encode() for name, id in self.special.items()}
        hidden = {id for name, id in self.special.items() if skip and name.startswith("<|")}
        return b"".join(bytes([id]) if id < 256 else names[id] for id in ids if id not in hidden)

    def decode(self, ids: Iterable[int]) -> str:
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def stream(self, skip: bool = False) -> TextStream:
        return TextStream(self, skip)  # type: ignore[arg-type]


def deltas(
    tok: Any, text: str, params: SamplingParams, cuts: Sequence[int] = (), reason: str = "stop", sample: int = 0
) -> Iterator[Delta]:
    """Yield what the engine gives of an answer with this text: its tokens, cut at these places, and its end."""
    ids = [*tok.encode(text, "all"), *([258] if reason == "stop" else [])]
    places = sorted({cut % len(ids) for cut in cuts} | {0, len(ids)}) if ids else [0, 0]
    detokenizer, shown = IncrementalDetokenizer(tok, params), 0
    for start, stop in itertools.pairwise(places):
        ended = any([detokenizer.push(id) for id in ids[start:stop] if id != 258])
        last = ended or stop == len(ids)
        if last:
            detokenizer.finish()
        logprobs = [-0.5] * (stop - start) if params.logprobs else None
        new, shown = detokenizer.text[shown : detokenizer.settled], max(shown, detokenizer.settled)
        delta = Delta(0, sample, ids[start:stop], new, logprobs, reason if last else None)  # type: ignore[arg-type]
        if last:
            answer = Sample(ids, detokenizer.text, None, reason)  # type: ignore[arg-type]
            delta.output = Output(0, [1, 2], [answer], 0, num_cached_tokens=1)
        yield delta
        if ended:
            return
