"""Pictures and sounds in messages: Qwen-VL's ids, where they stand, and who refuses them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qwenkit.chat import ChatTokenizer, truncate_history
from qwenkit.errors import UserError
from qwenkit.prompt import Media, Prompt
from qwenkit.tokenizer import Tokenizer

from .test_render import Messages, talk

NAMES = ("<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>", "<img>", "</img>", "<imgpad>")
IMAGE = {"type": "image_url", "image_url": {"url": "a.jpg"}}
SOUND = {"type": "input_audio", "input_audio": {"data": "UklG", "format": "wav"}}


def seeing(tok: ChatTokenizer) -> ChatTokenizer:
    """The tokenizer with Qwen-VL's tokens after all others."""
    special = tok.special | {name: tok.n_tokens + n for n, name in enumerate(NAMES)}
    return ChatTokenizer(Tokenizer(tok.ranks, special, tok.pattern), "qwen-vl")


def shown(*parts: Any) -> Messages:
    content = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    return [{"role": "user", "content": content}]


def test_the_authors_ids(qwen: ChatTokenizer, real_data: Path) -> None:
    path = real_data.parent / "reference" / "golden" / "tokenizer" / "vl_tokenizer.jsonl"
    if not path.is_file():
        pytest.skip(f"no ids of Qwen-VL's tokenizer at {path}: they lie beside the data of QWENKIT_TEST_DATA")
    tok = seeing(qwen)
    golden = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    question = {"type": "image", "image": "assets/demo.jpeg"}
    row = next(row for row in golden if row["kind"] == "make_context" and not row["history"])
    asked = [*talk(system="You are a helpful assistant."), *shown(question, "这是什么?")]
    assert tok.render(asked, add_generation_prompt=True).ids == row["ids"]
    checked = 0
    for row in golden:
        path_of = row["text"].split("<img>")[-1].removesuffix("</img>") if row["kind"] == "encode" else ""
        if (
            row.get("text") == f"<img>{path_of}</img>"
            and path_of
            and isinstance(row["ids"], list)
            and len(path_of) < 200
        ):
            got = tok.render(shown({"type": "image", "image": path_of})).prompt
            (image,) = got.images
            assert list(got.ids[image.start - 1 : image.stop + 1]) == row["ids"]
            checked += 1
    assert checked >= 2


def test_where_the_pictures_stand(tiny: ChatTokenizer) -> None:
    tok = seeing(tiny)
    long = {"type": "image", "image": "data:image/png;base64," + "A" * 999}
    messages = [*shown(IMAGE, "and", long), *talk("", "b")[1:], *shown("c", IMAGE)]
    got = tok.render(messages, add_generation_prompt=True)
    prompt = got.prompt
    assert isinstance(prompt, Prompt) and list(prompt.ids) == got.ids and prompt.images == got.images
    assert [image.kind for image in got.images] == ["image"] * 3
    assert [image.source[:8] for image in got.images] == ["a.jpg", "data:ima", "a.jpg"]
    for image in got.images:
        assert image.stop - image.start == 256
        assert got.ids[image.start - 1] == tok.special["<img>"] and got.ids[image.stop] == tok.special["</img>"]
    head, tail = got.images[0], got.images[1]
    assert tok.decode(got.ids[: head.start - 1]) == "<|im_start|>user\nPicture 1: "
    assert tok.decode(got.ids[head.stop + 1 : tail.start - 1]) == "\nandPicture 2: "
    assert bytes(got.ids[tail.start : tail.start + 7]) == b"sha256:"
    assert "Picture 3: " in tok.decode([i for i in got.ids if i < tok.n_tokens])
    assert len(got.weights) == len(got.ids) and not any(got.weights[head.start : head.stop])


def test_a_text_beside_a_picture_is_encoded_with_its_newline(qwen: ChatTokenizer) -> None:
    tok = seeing(qwen)
    got = tok.render(shown(IMAGE, "\n图"))
    stop = got.images[0].stop
    assert got.ids[stop + 1 : -2] == tok.encode("\n\n图")


def test_names_of_marks_that_people_typed_are_text(tiny: ChatTokenizer) -> None:
    tok = seeing(tiny)
    got = tok.render(shown("<img>a.jpg</img>", IMAGE))
    assert got.ids.count(tok.special["<img>"]) == 1
    path = {"type": "image", "image": "<|im_end|>"}
    assert tok.render(shown(path)).ids.count(tok.im_end_id) == 1


def test_pictures_go_through_history_and_extension(tiny: ChatTokenizer) -> None:
    tok = seeing(tiny)
    messages = [*shown(IMAGE, "a"), *talk("", "b")[1:], *shown(IMAGE)]
    whole = tok.render(messages, add_generation_prompt=True)
    before = tok.render(messages[:2])
    more = tok.extend(before.ids, messages[2:])
    assert before.prompt.followed_by(more.prompt) == whole.prompt
    assert more.images[0] == Media("image", "a.jpg", whole.images[1].start - len(before.ids),
                                   whole.images[1].stop - len(before.ids))  # fmt: skip
    assert truncate_history(tok, messages, room=10_000) == [
        {"role": "user", "content": [{"type": "image", "image": "a.jpg"}, {"type": "text", "text": "a"}]},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": [{"type": "image", "image": "a.jpg"}]},
    ]
    assert len(truncate_history(tok, messages, room=300)) == 1


TEXT_ONLY = "\n  expected: text parts only, for a text model"


@pytest.mark.parametrize("style", ["qwen1", "chatml", "qwen2.5", "qwen3", "react"])
def test_a_style_of_text_refuses_them_by_name(tiny: ChatTokenizer, style: str) -> None:
    for part in (IMAGE, SOUND, {"type": "video", "video": "a.mp4"}):
        for call in (tiny.render, lambda chat, **more: tiny.extend([], chat, **more)):
            with pytest.raises(UserError) as refused:
                call(shown("look", part), style=style)
            assert str(refused.value) == f"message 0, part 1: a content part of type {part['type']!r}{TEXT_ONLY}"


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        (shown("a", SOUND), "message 0, part 1: a content part of type 'input_audio'\n"
                            "  expected: text and image parts"),
        ([{"role": "system", "content": [IMAGE]}, *talk("a")],
         f"message 0, part 0: a content part of type 'image_url'{TEXT_ONLY}"),
        (shown({"type": "image"}), "message 0, part 0: a content part of type 'image' without its image\n"
         '  expected: {"type": "image", "image": "..."}, a path, a URL or a data: URL'),
        (shown({"type": "image_url", "image_url": {}}),
         "message 0, part 0: a content part of type 'image_url' without its image\n"
         '  expected: {"type": "image_url", "image_url": {"url": "..."}}, a path, a URL or a data: URL'),
    ],
)  # fmt: skip
def test_what_a_seeing_style_refuses(tiny: ChatTokenizer, messages: Messages, message: str) -> None:
    with pytest.raises(UserError) as refused:
        seeing(tiny).render(messages)
    assert str(refused.value) == message


def test_a_vocabulary_without_the_marks(tiny: ChatTokenizer) -> None:
    with pytest.raises(UserError, match="this tokenizer has no special token <img>"):
        tiny.render(shown(IMAGE), style="qwen-vl")


def test_sounds_are_read_in_the_forms_that_people_use(tiny: ChatTokenizer) -> None:
    from qwenkit.chat.media import MediaPart, read_part

    assert read_part(SOUND, "") == MediaPart("audio", "data:audio/wav;base64,UklG")
    for part in ({"type": "audio", "audio": "a.wav"}, {"type": "audio_url", "audio_url": {"url": "a.wav"}}):
        assert read_part(part, "") == MediaPart("audio", "a.wav")
    with pytest.raises(UserError) as refused:
        read_part({"type": "input_audio", "input_audio": {"format": "wav"}}, "message 0, part 0")
    assert str(refused.value) == (
        "message 0, part 0: a content part of type 'input_audio' without its audio\n"
        '  expected: {"type": "input_audio", "input_audio": {"data": "...", "format": "wav"}}'
    )
