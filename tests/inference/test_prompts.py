"""Prompts as values: pictures on their way to `hidden`, and a model of text that refuses them by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from qwenkit.errors import Stopped, UserError
from qwenkit.inference import Engine, SamplingParams
from qwenkit.model import ModelConfig, Transformer, init_weights, save_model
from qwenkit.prompt import Media, Prompt

from .conftest import GREEDY, SHAPE, Bytes, completed, make_prompts

CONFIG = ModelConfig(**SHAPE)  # type: ignore[arg-type]
PAD = 263
CAT, DOG = (Media("image", f"{name}.png", 2, 5) for name in ("cat", "dog"))
WITH_CAT = Prompt((1, 2, PAD, PAD, PAD, 3), (CAT,))
PARAMS = SamplingParams.plain(temperature=0, max_tokens=8, logprobs=True, ignore_eos=True)


class Seeing(Transformer):
    """A picture is seen as vectors that its name is the seed of."""

    media_kinds = frozenset({"image"})

    def embed(self, ids_BT: Tensor, prompts: Sequence[Prompt] = ()) -> Tensor:
        x_BTD = super().embed(ids_BT)
        for b, prompt in enumerate(prompts):
            for media in prompt.images:
                x_BTD[b, media.start : media.stop] = picture(media).to(x_BTD)
        return x_BTD


def picture(media: Media) -> Tensor:
    """The vectors [N, D] of a picture."""
    draw = torch.Generator().manual_seed(sum(media.source.encode()))
    return torch.randn(media.stop - media.start, CONFIG.hidden_size, generator=draw)


@pytest.fixture(name="seeing", scope="module")
def _seeing() -> Seeing:
    return init_weights(Seeing(CONFIG), seed=0, std=0.3).eval()


def plain_answer(model: Transformer, prompt: Prompt, count: int) -> list[int]:
    """A greedy answer by one forward pass a token, the pictures put in by hand."""
    ids = list(prompt.ids)
    with torch.no_grad():
        for _ in range(count):
            x_1TD = model.model.embed_tokens(torch.tensor([ids]))
            for media in prompt.images:
                x_1TD[0, media.start : media.stop] = picture(media)
            ids.append(int(model.head(model.hidden(None, embeds_BTD=x_1TD))[0, -1].argmax()))
    return ids[len(prompt.ids) :]


def longer(count: int) -> Prompt:
    """A prompt of text with a picture in its middle."""
    (text,) = make_prompts(1, longest=2)
    ids = [*[(7 * i) % 256 for i in range(count)], *[PAD] * 40, *text]
    return Prompt(tuple(ids), (Media("image", "far.png", count, count + 40),))


PROMPTS = [WITH_CAT, WITH_CAT._replace(images=(DOG,)), Prompt(WITH_CAT.ids), longer(50), WITH_CAT]


@pytest.mark.parametrize("settings", [{}, {"max_batch": 2}, {"step_tokens": 32}], ids=str)
def test_pictures_reach_the_answers(seeing: Seeing, settings: dict[str, Any]) -> None:
    """Beside prompts of text, with equal ids and another picture or none, and in segments that cut a picture."""
    outputs = Engine(seeing, None, **settings).generate(PROMPTS, PARAMS)
    wanted = [plain_answer(seeing, prompt, 8) for prompt in PROMPTS]
    assert [output.ids for output in outputs] == wanted
    assert len({tuple(ids) for ids in wanted}) == 4
    assert [output.prompt_ids for output in outputs] == [list(prompt.ids) for prompt in PROMPTS]


@pytest.mark.parametrize("budget", [3, 20])
def test_pictures_may_be_cut_by_the_steps(seeing: Seeing, budget: int) -> None:
    engine = Engine(seeing, None, step_tokens=budget)
    wanted = [plain_answer(seeing, prompt, 8) for prompt in PROMPTS]
    assert [output.ids for output in engine.generate(PROMPTS, PARAMS)] == wanted


def test_every_way_of_asking_takes_a_prompt(seeing: Seeing) -> None:
    engine = Engine(seeing, Bytes())
    (output,) = engine.generate([WITH_CAT], PARAMS)
    assert "".join(engine.stream(WITH_CAT, PARAMS)) == output.text
    engine.submit(WITH_CAT, PARAMS)
    deltas = [delta for _ in range(8) for delta in engine.step()]
    assert deltas[-1].output is not None and deltas[-1].output.samples == output.samples
    assert engine.score([WITH_CAT], [output.ids])[0] == pytest.approx(output.logprobs, abs=1e-4)
    behind = engine.score([[9, 9]], [Prompt((*WITH_CAT.ids, *output.ids), WITH_CAT.images)])[0]
    whole = engine.score([Prompt((9, 9, *WITH_CAT.ids, *output.ids), (CAT._replace(start=4, stop=7),))])[0]
    assert behind == pytest.approx(whole[1:], abs=1e-4)
    assert behind[6:] != pytest.approx(engine.score([[9, 9, *WITH_CAT.ids]], [output.ids])[0], abs=1e-2)


class Blind(Seeing):
    """Finds no picture of this name, cannot decode that one, and counts what it looks at."""

    looked = 0

    def embed(self, ids_BT: Tensor, prompts: Sequence[Prompt] = ()) -> Tensor:
        for media in (media for prompt in prompts for media in prompt.images):
            self.looked += 1
            if media.source == "lost.png":
                raise FileNotFoundError(2, "No such file", media.source)
            if media.source == "torn.png":
                raise UserError("not an image", where=media.source)
            if media.source == "odd.png":
                raise ValueError("no such layer")
        return super().embed(ids_BT, prompts)


UNREADABLE = {
    "lost.png": (UserError, "its media cannot be read ([Errno 2] No such file: 'lost.png')"),
    "torn.png": (UserError, "torn.png: not an image"),
    "odd.png": (Stopped, "its media cannot be read (no such layer)"),
}


@pytest.mark.parametrize("source", UNREADABLE)
@pytest.mark.parametrize("settings", [{}, {"max_batch": 2}], ids=str)
def test_media_that_cannot_be_read_end_their_own_request(seeing: Seeing, source: str, settings: dict[str, Any]) -> None:
    blind = Blind(CONFIG).eval()
    blind.load_state_dict(seeing.state_dict())
    engine = Engine(blind, Bytes(), **settings)
    broken = WITH_CAT._replace(images=(CAT._replace(source=source),))
    good, bad, other = (engine.submit(p, replace(PARAMS, n=2)) for p in (WITH_CAT, broken, longer(50)))
    deltas = []
    while engine.has_work:
        deltas += engine.step()
    (fault,) = [delta for delta in deltas if delta.handle == bad]
    kind, message = UNREADABLE[source]
    where = f"request 1{', ' if source == 'torn.png' else ': '}"
    assert type(fault.error) is kind and str(fault.error) == where + message
    assert (fault.finish_reason, fault.ids, fault.output) == ("error", [], None)
    wanted = {good: plain_answer(seeing, WITH_CAT, 8), other: plain_answer(seeing, longer(50), 8)}
    assert completed(deltas) == wanted and engine.stats().kv_tokens_used == 0
    assert blind.looked == 3, "each request's media are embedded once"
    with pytest.raises(kind, match="prompt 1"):
        engine.generate([WITH_CAT, broken], PARAMS)
    assert engine.generate([WITH_CAT], PARAMS)[0].ids == wanted[good]


def test_a_prompt_of_text_is_its_ids(model: Transformer) -> None:
    engine = Engine(model, Bytes())
    assert engine.generate([Prompt((5, 6, 7))], GREEDY)[0].samples == engine.generate([[5, 6, 7]], GREEDY)[0].samples
    assert engine.score([Prompt((5, 6, 7))]) == engine.score([[5, 6, 7]])


REFUSED: dict[str, tuple[Callable[[Engine], Any], str]] = {
    "generate": (lambda engine: engine.generate([[1], WITH_CAT], PARAMS),
                 "prompt 1: an image (cat.png), which this model cannot read\n  expected: text"),
    "submit": (lambda engine: engine.submit(WITH_CAT, PARAMS),
               "request 0: an image (cat.png), which this model cannot read\n  expected: text"),
    "stream": (lambda engine: engine.stream(WITH_CAT, PARAMS),
               "prompt: an image (cat.png), which this model cannot read\n  expected: text"),
    "score": (lambda engine: engine.score([[1]], [WITH_CAT]),
              "continuation 0: an image (cat.png), which this model cannot read\n  expected: text"),
    "sound": (lambda engine: engine.score([Prompt((1, 2), (Media("audio", "data:audio/wav;base64,AAAA", 0, 1),))]),
              "prompt 0: a sound (data:audio/wav;base64,...), which this model cannot read\n  expected: text"),
    "no list": (lambda engine: engine.generate(WITH_CAT, PARAMS),  # type: ignore[arg-type]
                "prompts = Prompt(ids=(1...=2, stop=5),))\n"
        "  expected: a list of strings or of lists of token ids\n  hint: generate([prompt])"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_of_text_refuses_media(model: Transformer, name: str) -> None:
    call, message = REFUSED[name]
    with pytest.raises(UserError) as caught:
        call(Engine(model, Bytes()))
    assert str(caught.value) == message


def test_the_folder_is_named(model: Transformer, tmp_path: Path) -> None:
    save_model(model, tmp_path / "Qwen-Tiny")
    with pytest.raises(UserError) as caught:
        Engine(tmp_path / "Qwen-Tiny").generate([WITH_CAT], PARAMS)
    assert str(caught.value) == (
        "prompt 0: an image (cat.png), which the model Qwen-Tiny cannot read\n  expected: text"
    )


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ((CAT._replace(stop=7),), "prompt 0: an image (cat.png) at tokens 2 to 7\n  expected: a range inside 0 to 6"),
        ((CAT._replace(stop=2),), "prompt 0: an image (cat.png) at tokens 2 to 2\n  expected: a range inside 0 to 6"),
        ((CAT, DOG), "prompt 0: an image (dog.png) at tokens 2 to 5\n  expected: a range inside 5 to 6"),
        ((CAT._replace(kind="audio"),),
         "prompt 0: a sound (cat.png), which this model cannot read\n  expected: text, image"),
        (("cat.png",), "prompt 0: images: 'cat.png'\n  expected: Media(kind, source, start, stop)"),
    ],
)  # fmt: skip
def test_media_that_are_not_in_the_prompt(seeing: Seeing, images: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        Engine(seeing, None).generate([WITH_CAT._replace(images=images)], PARAMS)
    assert str(caught.value) == message
