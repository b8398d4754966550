"""The loss mask of a folder's own template: ids as served, answers and their ends trained, refused where unclear."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from qwenkit.chat import ChatTokenizer, load_tokenizer
from qwenkit.chat.foreign_template_mask import rendered
from qwenkit.chat.inspect import mask_text
from qwenkit.chat.traced import Traced
from qwenkit.errors import UserError
from qwenkit.tokenizer import chatml_template

from ..tokenizer.folders import LATER, MARKS, publish, theirs
from .test_render import Messages, chats, talk

TURN = "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
PROMPT = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
BRIEF = "{{ '<|im_start|>system\nYou answer briefly.<|im_end|>\n' }}"
DEFAULT_SYSTEM = (
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}" + BRIEF + "{% endif %}" + TURN + "{% endfor %}"
    + PROMPT
)  # fmt: skip
FORGETS = (
    "{% for m in messages %}{% set c = m.content %}{% if m.role == 'assistant' and not loop.last %}"
    "{% set c = c.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{{ '<|im_start|>' + m.role + '\n' + c + '<|im_end|>\n' }}{% endfor %}" + PROMPT
)
TAGS = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}{% generation %}"
    "{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}" + PROMPT
)
ENDED = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}{% generation %}"
    "{{ m.content + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}{% else %}{{ m.content + '<|im_end|>\n' }}{% endif %}"
    "{% endfor %}" + PROMPT
)
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "北京"}}}


def folder(place: Path, template: str, names: dict[str, bool] | None = None, **more: Any) -> ChatTokenizer:
    return load_tokenizer(publish(place, LATER if names is None else names, template, **more))


def trained(tok: ChatTokenizer, messages: Messages, mask: str = "assistant", **options: Any) -> str:
    got = tok.render(messages, mask=mask, **options)
    return tok.decode([i for i, weight in zip(got.ids, got.weights, strict=True) if weight])


def test_a_default_system_turn_is_shown_and_has_no_loss(tmp_path: Path) -> None:
    tok, other = folder(tmp_path, DEFAULT_SYSTEM), theirs(tmp_path)
    assert tok.style is None
    for messages in (talk("2+2?", "4"), talk("a", "b", "c", "\n\nd"), talk("a", "b", system="s"), talk("a", "", "b")):
        assert tok.render(messages).ids == other.apply_chat_template(messages, return_dict=False)
    assert trained(tok, talk("2+2?", "4", "why?", "so")) == "4<|im_end|>so<|im_end|>"
    # of the marks of all turns, the system's own turn is not one that anybody wrote
    marks = "<|im_start|><|im_end|>\n<|im_start|>4<|im_end|>\n"
    assert trained(tok, talk("2+2?", "4"), "qwen") == marks
    assert trained(tok, talk("2+2?", "4", system="s"), "qwen") == "<|im_start|><|im_end|>\n" + marks


def test_a_training_row_begins_with_the_prompt_and_counts_as_content(tmp_path: Path) -> None:
    tok = folder(tmp_path, DEFAULT_SYSTEM)
    prompt, row = tok.render(talk("a"), add_generation_prompt=True), tok.render(talk("a", "yes"), mask="assistant")
    assert row.ids[: len(prompt.ids)] == prompt.ids and not any(prompt.weights)
    assert mask_text(row, tok).endswith("⟦yes<|im_end|>⟧↵\n\n54 tokens, 4 trained, 3 of them assistant content")
    assert [i for span in row.spans for i in range(span.start, span.stop)] == list(range(len(row.ids)))
    assert tok.decode(tok.render(talk("a", "yes"), continue_final_message=True).ids).endswith("assistant\nyes")


@settings(max_examples=60, deadline=None)
@given(turns=chats)
def test_where_a_template_is_a_style_its_mask_is_the_styles(tiny: ChatTokenizer, turns: list[str]) -> None:
    """Also where people typed marks; one source of truth cannot drift from the other."""
    for mask in ("qwen", "assistant"):
        got = rendered(Traced(tiny, chatml_template(), talk(*turns, system="s"), None, {}, {}), mask)
        want = tiny.render(talk(*turns, system="s"), mask=mask, style="chatml")
        assert (got.ids, got.weights) == (want.ids, want.weights)


def test_tools_and_several_answers(tmp_path: Path) -> None:
    brief = "{% if messages[0].role != 'system' %}" + BRIEF + "{% endif %}"
    tok, other = folder(tmp_path, brief + chatml_template()), theirs(tmp_path)
    messages: Messages = [
        *talk("weather?"),
        {"role": "assistant", "content": "Looking.", "tool_calls": [CALL, CALL]},
        {"role": "tool", "content": "sunny"},
        {"role": "tool", "content": "rain"},
        *({"role": m["role"], "content": m["content"]} for m in talk("x", "Both.", "thanks", "Bye.")[1:]),
    ]
    wanted = other.apply_chat_template(messages, tools=[TOOL], return_dict=False)
    got = tok.render(messages, [TOOL], mask="assistant")
    call = '\n<tool_call>\n{"name": "weather", "arguments": {"city": "北京"}}\n</tool_call>'
    assert got.ids == wanted
    assert trained(tok, messages, tools=[TOOL]) == f"Looking.{call}{call}<|im_end|>Both.<|im_end|>Bye.<|im_end|>"
    same = tok.render(messages, [TOOL], style="chatml", mask="assistant")
    assert sum(got.weights) == sum(same.weights)


def test_answers_that_lose_their_thoughts_as_history_are_shown_and_not_trained(tmp_path: Path) -> None:
    tok, other = folder(tmp_path, FORGETS), theirs(tmp_path)
    messages = talk("a", "<think>\nx\n</think>\n\nb", "c", "<think>\ny\n</think>\n\nd")
    got = tok.render(messages, mask="assistant")
    assert got.ids == other.apply_chat_template(messages, return_dict=False) and got.untrained == (1,)
    assert trained(tok, messages) == "<think>\ny\n</think>\n\nd<|im_end|>"
    assert mask_text(got, tok).endswith("; message 1 not trained: the template shows it otherwise than it asks for it")
    plain = tok.render(talk("a", "b", "c", "d"))
    assert plain.untrained == () and trained(tok, talk("a", "b", "c", "d")) == "b<|im_end|>d<|im_end|>"


def test_an_answer_whose_thought_a_template_never_shows_is_refused(tmp_path: Path) -> None:
    """R1's takes it out of the last answer as well."""
    tok = folder(tmp_path, FORGETS.replace(" and not loop.last", ""))
    with pytest.raises(UserError, match="message 1, the template takes the thought out of this answer"):
        tok.render(talk("a", "<think>\nx\n</think>\n\nb"))
    messages = talk("a", "<think>\nx\n</think>\n\nb", "c", "d")
    assert tok.render(messages).untrained == (1,) and trained(tok, messages) == "d<|im_end|>"


def test_the_style_qwen3_does_so_too(tmp_path: Path) -> None:
    tok = ChatTokenizer(folder(tmp_path, chatml_template()), "qwen3")
    messages = talk("a", "<think>\nx\n</think>\n\nb", "c", "<think>\ny\n</think>\n\nd", "e", "f")
    got = tok.render(messages, mask="assistant")
    assert got.untrained == (1, 3)
    assert trained(tok, messages) == "<think>\n\n</think>\n\nf<|im_end|>"


@pytest.mark.parametrize(
    ("template", "difference"),
    [
        (DEFAULT_SYSTEM + "{{ '<think>\n' if add_generation_prompt }}",
         r"message 1, token \d+: the prompt of this answer has 259 '<think>', the whole chat has 98 'b'"),
        ("{{ messages | length }}" + DEFAULT_SYSTEM,
         "message 1, token 0: the prompt of this answer has 49 '1', the whole chat has 50 '2'"),
        ("{{ raise_exception('no answers') if messages[-1].role == 'user' }}" + DEFAULT_SYSTEM,
         "message 1, the chat template refuses this conversation: no answers"),
    ],
)  # fmt: skip
def test_where_prefixes_do_not_agree_training_is_refused(tmp_path: Path, template: str, difference: str) -> None:
    tok = folder(tmp_path, template)
    with pytest.raises(UserError, match=difference) as refused:
        tok.render(talk("a", "b"))
    assert "none of the styles known here" in str(refused.value) and 'style = "chatml"' in str(refused.value)
    assert trained(tok, talk("a", "b"), style="chatml") == "b<|im_end|>"
    assert not any(
        tok.render([*talk("a"), {"role": "assistant", "content": "b", "train": False}], mask="assistant").weights
    )


def test_generation_tags_say_what_is_trained(tmp_path: Path) -> None:
    for n, template in enumerate((TAGS, ENDED)):
        tok, other = folder(tmp_path / str(n), template), theirs(tmp_path / str(n))
        assert trained(tok, talk("a", "b<|im_end|>")) == "b<|im_end|><|im_end|>"
        messages = talk("a", "<|im_end|>b", "c", "d")
        assert tok.render(talk("a", "b")).ids == other.apply_chat_template(talk("a", "b"), return_dict=False)
        assert trained(tok, messages).startswith("<|im_end|>b<|im_end|>")
        assert trained(tok, talk("a", "b"), "qwen").endswith("<|im_start|>b<|im_end|>\n")
        messages[1]["weight"], messages[3]["weight"] = 0, 0.5
        assert trained(tok, messages) == "d<|im_end|>"


def test_a_template_without_a_prompt_of_its_own(tmp_path: Path) -> None:
    """An answer that follows the question at once is one; where a heading comes before it, no prompt ends with that."""
    turn = "{{ '[INST] ' + m.content + ' [/INST]' if m.role == 'user' else ' ' + m.content + eos_token }}"
    every = "{% for m in messages %}" + turn + "{% endfor %}"
    tok = folder(tmp_path / "a", every, MARKS, eos_token="<|endoftext|>")
    assert trained(tok, talk("a", "b", "c", "d")) == " b<|endoftext|> d<|endoftext|>"
    tok = folder(tmp_path / "b", every.replace("else ' '", "else 'A: '"), MARKS, eos_token="<|endoftext|>")
    with pytest.raises(UserError, match="the template has no prompt for an answer"):
        tok.render(talk("a", "b"))


# ---- how much a turn is trained -------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", [None, DEFAULT_SYSTEM, TAGS])
@pytest.mark.parametrize(
    ("told", "weights"),
    [({"weight": 0}, (0, 1)), ({"train": False}, (0, 1)), ({"weight": 0.5}, (0.5, 1)), ({"train": True}, (1, 1)),
     ({"weight": None, "train": None}, (1, 1)), ({"weight": 2.0, "train": True}, (2, 1))],
)  # fmt: skip
def test_an_answers_own_weight(tmp_path: Path, template: str | None, told: dict[str, Any], weights: Any) -> None:
    tok = folder(tmp_path, template or chatml_template())
    messages = talk("a", "b", "c", "d")
    plain = {mask: tok.render(messages, mask=mask) for mask in ("qwen", "assistant")}
    messages[1] |= told
    messages[0] |= {"weight": 0, "train": False}  # means nothing in a question
    for mask, before in plain.items():
        got = tok.render(messages, mask=mask)
        first, second = (
            next(i for i, t in enumerate(got.ids) if t == ord(sign) and before.weights[i]) for sign in "bd"
        )
        assert got.ids == before.ids
        assert (got.weights[first], got.weights[first + 1]) == (weights[0], weights[0])
        assert (got.weights[second], got.weights[second + 1]) == (weights[1], weights[1])
        if mask == "qwen":
            opens = max(i for i in range(first) if got.ids[i] == tok.im_start_id)
            assert got.weights[opens] == weights[0] and got.weights[0 if template is None else opens] in (1, weights[0])


def test_the_keys_of_training_never_reach_a_template(tmp_path: Path) -> None:
    keys = "{% for m in messages %}{{ m.keys() | list | sort | join(',') }};{% endfor %}"
    tok = folder(tmp_path, keys)
    messages = [*talk("a"), {"role": "assistant", "content": "b", "weight": 1, "train": True}, *talk("c")]
    assert tok.decode(tok.render(messages, add_generation_prompt=True).ids) == "content,role;" * 3


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"weight": "1"}, "message 1: weight is a string"),
        ({"weight": True}, "message 1: weight is true or false"),
        ({"weight": -1}, "message 1: weight = -1"),
        ({"weight": float("nan")}, "message 1: weight = nan"),
        ({"train": 0}, "message 1: train is a number"),
        ({"train": True, "weight": 0}, "message 1: weight = 0 and train = true"),
        ({"weights": 0}, "message 1: unknown key 'weights'"),
        ({"tool_call": []}, "message 1: unknown key 'tool_call'"),
        ({"reasoning_content": 1}, "message 1: reasoning_content is a number"),
        ({"function_call": {}}, "message 1: a tool call without a name"),
    ],
)
def test_odd_keys_are_refused(tiny: ChatTokenizer, told: dict[str, Any], message: str) -> None:
    messages = talk("a", "b")
    messages[1] |= told
    with pytest.raises(UserError) as refused:
        tiny.render(messages)
    assert str(refused.value).startswith(message)


def test_other_names_of_the_same(tiny: ChatTokenizer) -> None:
    call = {"name": "weather", "arguments": '{"city": "北京"}'}
    plain: Messages = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "ab"},
        {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": call}]},
        {"role": "tool", "content": "x"},
        {"role": "assistant", "content": "y"},
    ]
    older: Messages = [
        {"role": "developer", "content": [{"type": "text", "text": "s"}]},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": "me"},
        {"role": "assistant", "content": None, "function_call": call, "refusal": None},
        {"role": "function", "name": "weather", "content": "x"},
        {"role": "assistant", "content": "y", "tool_calls": None},
    ]
    assert tiny.render(older).ids == tiny.render(plain).ids
    thinks = [
        [*talk("a"), {"role": "assistant", "content": "b", key: "t"}]
        for key in ("reasoning_content", "thinking", "reasoning")
    ]
    assert len({tuple(tiny.render(messages, style="qwen3").ids) for messages in thinks}) == 1
