"""Turns after ids that were sampled: equal to the whole rendering, nothing given is rendered anew, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenkit.chat import STYLES, ChatTokenizer, load_tokenizer
from qwenkit.chat.probes import PROBES, Probe
from qwenkit.errors import UserError
from qwenkit.tokenizer import chatml_template

from ..tokenizer.folders import LATER, publish
from .test_foreign_template_mask import DEFAULT_SYSTEM, TAGS
from .test_react import ASKED, TOOL
from .test_render import Messages, talk
from .test_styles import conversations

KEPT = [name for name, style in STYLES.items() if style.history == "kept" and name != "react"]


def cuts(messages: Messages) -> list[tuple[int, int]]:
    """Every answer that another turn follows: how many messages there are with it, and with what follows it."""
    answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    return [(i + 1, j) for i, j in zip(answers, [*answers[1:], len(messages)]) if i + 1 < j]


@settings(max_examples=60, deadline=None)
@given(probe=conversations(), style=st.sampled_from(KEPT))
def test_the_result_is_the_rendering_of_the_whole(tiny: ChatTokenizer, probe: Probe, style: str) -> None:
    """Whether the ids end with the end of a turn, with its newline too, or without it."""
    if STYLES[style].tools is None and (probe.tools or any("tool_calls" in m for m in probe.messages)):
        return
    for answered, asked in cuts(probe.messages):
        before = tiny.render(probe.messages[:answered], probe.tools, style=style).ids
        messages = probe.messages[answered:asked]
        whole = tiny.render(probe.messages[:asked], probe.tools, add_generation_prompt=True, style=style)
        said = before[:-2][-1:] != tiny.render(talk("x"), add_generation_prompt=True).ids[-1:]
        for ids in (before, before[:-1], *([before[:-2]] if said else [])):
            more = tiny.extend(ids, messages, style=style)
            assert [*ids, *more.ids] == whole.ids
            assert not any(more.weights) and len(more.weights) == len(more.ids)
            assert [i for span in more.spans for i in range(span.start, span.stop)] == list(range(len(more.ids)))


@pytest.mark.parametrize(("style", "thinking", "prompt"), [
    ("qwen3", None, ""), ("qwen3", False, "<think>\n\n</think>\n\n"), ("qwq", None, "<think>\n"),
])  # fmt: skip
def test_thoughts_stay_where_they_were_sampled(
    tiny: ChatTokenizer, style: str, thinking: bool | None, prompt: str
) -> None:
    """A new rendering would take them out; results of tools come before the next question, so there both agree."""
    begun = tiny.render(talk("q"), add_generation_prompt=True, style=style).ids
    ids = [*begun, *tiny.encode("<think>\nhm\n</think>\n\nyes"), tiny.im_end_id]
    more = tiny.extend(ids, talk("why?"), style=style, thinking=thinking)
    assert tiny.decode(more.ids) == f"\n<|im_start|>user\nwhy?<|im_end|>\n<|im_start|>assistant\n{prompt}"
    turns = [*talk("q"), PROBES[34].messages[1], {"role": "tool", "content": "sunny"}]
    whole = tiny.render(turns, add_generation_prompt=True, style="qwen3").ids
    answer = tiny.render(turns[:2], style="qwen3").ids
    assert [*answer, *tiny.extend(answer, turns[2:], style="qwen3").ids] == whole


def test_another_spelling_of_a_text_stays(tiny: ChatTokenizer) -> None:
    letters = [tiny.encode(sign)[0] for sign in "hello"]
    prompt = tiny.render(talk("q"), add_generation_prompt=True).ids
    ids = [*prompt, *letters, tiny.im_end_id]
    longer = [*ids, *tiny.extend(ids, talk("more")).ids]
    whole = tiny.render(talk("q", "hello", "more"), add_generation_prompt=True).ids
    assert longer != whole and tiny.decode(longer) == tiny.decode(whole)
    assert tiny.parse(longer[len(prompt) :]) == {"role": "assistant", "content": "hello"}


def test_an_answer_that_another_token_ended_gets_its_end(tiny: ChatTokenizer) -> None:
    prompt = tiny.render(talk("q"), add_generation_prompt=True).ids
    ids = [*prompt, *tiny.encode("a"), tiny.eot_id]
    assert tiny.decode(tiny.extend(ids, talk("b"), add_generation_prompt=False).ids) == (
        "<|im_end|>\n<|im_start|>user\nb<|im_end|>\n"
    )
    padding = tiny.vocab_size - 1  # a row without a meaning, which an untrained model may choose
    assert tiny.extend([*prompt, padding, tiny.im_end_id], talk("b")).ids


def test_react_goes_on_inside_the_answer(tiny: ChatTokenizer) -> None:
    prompt = tiny.render(talk("Paris?"), [TOOL], add_generation_prompt=True, style="react").ids
    whole = tiny.render(ASKED, [TOOL], add_generation_prompt=True, style="react").ids
    lines = 'Thought: I look it up.\nAction: weather\nAction Input: {"city": "Paris"}'
    for end in ("\nObservation:", "\nObserv", "\n", ""):
        ids = [*prompt, *tiny.encode(lines + end)]
        longer = [*ids, *tiny.extend(ids, ASKED[2:], style="react").ids]
        assert tiny.decode(longer) == tiny.decode(whole)
    final = [*prompt, *tiny.encode("Thought: I now know the final answer.\nFinal Answer: x"), tiny.im_end_id]
    later = tiny.render(talk("Paris?", "x", "y"), [TOOL], add_generation_prompt=True, style="react").ids
    assert [*final, *tiny.extend(final, talk("y"), style="react").ids] == later


FOREIGN = {
    "a default system turn": DEFAULT_SYSTEM,
    "tags": TAGS,
    "tools": "{% if messages[0].role != 'system' %}<|im_start|>system\nBe brief.<|im_end|>\n{% endif %}"
    + chatml_template(),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_folders_own_template_goes_on_too(tmp_path: Path, name: str) -> None:
    tok = load_tokenizer(publish(tmp_path, LATER, FOREIGN[name]))
    assert tok.style is None
    chats: list[Messages] = [talk("a", "b", "<|im_end|> c"), talk("a", "\nb", "", system="s")]
    for chat in (*chats, *([PROBES[22].messages, PROBES[23].messages] if name == "tools" else [])):
        answered, asked = cuts(chat)[-1]
        before = tok.render(chat[:answered], add_generation_prompt=False).ids
        whole = tok.render(chat[:asked], add_generation_prompt=True).ids
        for ids in (before, before[:-1], before[:-2]):
            assert [*ids, *tok.extend(ids, chat[answered:asked]).ids] == whole


def test_a_template_without_chatml_goes_on_too(tmp_path: Path) -> None:
    names = {"<eos>": True, "<｜User｜>": False, "<｜Assistant｜>": False}
    template = (
        "{% for m in messages %}{{ '<｜User｜>' if m.role == 'user' else '<｜Assistant｜>' }}{{ m.content }}"
        "{{ eos_token if m.role == 'assistant' }}{% endfor %}{{ '<｜Assistant｜>' if add_generation_prompt }}"
    )
    tok = load_tokenizer(publish(tmp_path / "a", names, template, eos_token="<eos>", pad_token="<eos>"))
    whole = tok.render(talk("a", "b", "<eos>"), add_generation_prompt=True).ids
    before = tok.render(talk("a", "b")).ids
    for ids in (before, before[:-1]):
        assert [*ids, *tok.extend(ids, talk("<eos>")).ids] == whole
    endless = load_tokenizer(publish(tmp_path / "b", names, "{% for m in messages %}{{ m.content }}{% endfor %}"))
    with pytest.raises(UserError, match="the chat template does not show where an answer ends"):
        endless.extend([65], talk("b"))


def refused(tok: ChatTokenizer, text: str, messages: Messages, **options: Any) -> str:
    with pytest.raises(UserError) as error:
        tok.extend(tok.encode(text, "all"), messages, **options)
    return str(error.value)


ANSWER = "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("hello", {}, "no turn begins in these ids\n  expected: the ids of a chat: a prompt, and the answer to it"),
        (ANSWER[:-1], {}, "token 6: the ids end inside the header of a turn\n"
                          "  expected: <|im_start|>assistant, a newline, and an answer"),
        (ANSWER + "b<|im_start|>", {}, "token 11: the ids end inside the header of a turn\n"
                                       "  expected: <|im_start|>assistant, a newline, and an answer"),
        (ANSWER, {}, "token 10: the ids end with the prompt of an answer\n  expected: the answer, which was sampled"),
        (ANSWER + "<think>\n", {"style": "qwq"}, "token 17: the ids end with the prompt of an answer\n"
                                                 "  expected: the answer, which was sampled"),
        ("<|im_start|>user\nq<|im_end|>\n", {}, "token 0: the ids end with a turn of user\n"
                                                "  expected: an answer of the assistant"),
        ("<|im_start|>user\nq", {}, "token 0: the ids end with a turn of user\n  expected: an answer of the assistant"),
        (ANSWER + "b<|im_end|>\nc", {}, "token 12: text after the end of a turn\n"
                                        "  expected: ids that end with <|im_end|>, or a newline after it"),
        (ANSWER + "<think>\nb", {"style": "qwen3"}, "token 18: the ids end inside a thought\n"
                                                    "  expected: </think> and an answer"),
    ],
)  # fmt: skip
def test_ids_that_no_turn_can_follow_are_refused(
    tiny: ChatTokenizer, text: str, options: dict[str, Any], message: str
) -> None:
    assert refused(tiny, text, talk("x"), **options) == message


def test_only_questions_and_results_follow_an_answer(tiny: ChatTokenizer) -> None:
    answered = ANSWER + "b<|im_end|>"
    assert refused(tiny, answered, []) == ("no messages to go on with\n  expected: a user's turn, or results of tools")
    assert refused(tiny, answered, [*talk("a"), *talk("b", "c")[1:]]) == (
        "message 1: a turn of assistant after ids that end with an answer\n  expected: user or tool"
    )
    assert refused(tiny, answered, [*talk("a"), *talk("b")]) == "message 1: user after user\n  expected: assistant"
    result = [{"role": "tool", "content": "x"}]
    assert refused(tiny, answered, result, style="react").endswith(
        "the answer's turn has ended, and with ReAct's tools a result stands inside it\n"
        "  expected: ids that stop at 'Observation:', without <|im_end|>"
    )


@pytest.mark.parametrize(("ids", "message"), [
    (lambda ids, n: [*ids, n], "is not a token\n  expected: token ids from 0 to "),
    (lambda ids, n: [*ids, -1], "-1 is not a token"),
    (lambda ids, n: [True, *ids], "id 0: True is not a token"),
    (lambda ids, n: [*ids, 1.0], "1.0 is not a token"),
    (lambda ids, n: None, "ids = None\n  expected: a list of token ids"),
    (lambda ids, n: "hello", "ids = 'hello'\n  expected: a list of token ids"),
])  # fmt: skip
def test_what_is_no_token_is_refused(tiny: ChatTokenizer, ids: Any, message: str) -> None:
    before = tiny.render(talk("a", "b")).ids
    with pytest.raises(UserError) as caught:
        tiny.extend(ids(before, tiny.vocab_size), talk("c"))
    assert message in caught.value.text()


@pytest.mark.parametrize("thinking", ["no", "yes", 1, 0.0])
def test_thinking_is_a_choice_and_no_text(tiny: ChatTokenizer, thinking: Any) -> None:
    with pytest.raises(UserError, match="expected: True, False, or None: as the style does"):
        tiny.render(talk("a"), add_generation_prompt=True, style="qwen3", thinking=thinking)
