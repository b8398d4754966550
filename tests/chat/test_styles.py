"""Chat styles: equal to the templates of the models that they are named after, in text, ids and loss weights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.utils import chat_template_utils

from qwenkit.chat import STYLES, ChatTokenizer, load_tokenizer
from qwenkit.chat.foreign_template_mask import rendered
from qwenkit.chat.messages import for_template, normal
from qwenkit.chat.pieces import pieces
from qwenkit.chat.probes import PROBES, Probe
from qwenkit.chat.publish import Style, chat_tokenizer, save_tokenizer
from qwenkit.chat.template import with_thinking
from qwenkit.chat.traced import Traced
from qwenkit.errors import UserError
from qwenkit.tokenizer import chatml_template

from ..tokenizer.folders import LATER, publish
from .test_render import Messages, talk

FILES = {
    "qwen2": "qwen2-instruct.jinja",
    "qwen2.5": "qwen2.5-instruct.jinja",
    "qwen3": "qwen3.jinja",
    "qwq": "qwq-32b.jinja",
}
"""The templates as they were published, beside the real test data."""
TOOL = PROBES[16].tools[0] if PROBES[16].tools else {}


THOUGHT = "<think>\nhm\n</think>\n\n"
THOUGHTS = (
    Probe(talk("a", f"{THOUGHT}b", system="s")),
    Probe(talk("a", f"{THOUGHT}b", "c", "<think>\n\n</think>d")),
    Probe([*PROBES[22].messages, {"role": "assistant", "content": f"{THOUGHT}sunny"}], False, PROBES[22].tools),
)
"""Answers that begin as QwQ's prompt does."""


@pytest.fixture(scope="session")
def published(real_data: Path) -> dict[str, str]:
    folder = real_data.parent / "reference" / "golden" / "templates"
    if not folder.is_dir():
        pytest.skip(f"no published chat templates at {folder}: they lie beside the data of QWENKIT_TEST_DATA")
    return {style: (folder / name).read_text("utf-8") for style, name in FILES.items()}


def theirs(template: str, messages: Any, **options: Any) -> str:
    """The text that transformers' own renderer makes."""
    compiled = chat_template_utils._compile_jinja_template(template)
    return compiled.render(messages=[for_template(normal(m)) for m in messages], documents=None, **options)


def ours(style: str, probe: Probe, thinking: bool | None = None) -> str:
    messages = [normal(message) for message in probe.messages]
    parts = pieces(messages, probe.tools, STYLES[style], probe.add_generation_prompt, thinking=thinking)
    return "".join(piece.text for piece in parts)


def same(tok: ChatTokenizer, template: str, style: str, probe: Probe, thinking: bool | None = None) -> None:
    """Assert that text and ids are transformers'."""
    switch = {} if thinking is None else {"enable_thinking": thinking}
    wanted = theirs(
        template, probe.messages, tools=probe.tools, add_generation_prompt=probe.add_generation_prompt, **switch
    )
    assert ours(style, probe, thinking) == wanted
    if STYLES[style].tools is not None or not (probe.tools or any(m.get("tool_calls") for m in probe.messages)):
        got = tok.render(probe.messages, probe.tools, probe.add_generation_prompt, style=style, thinking=thinking)
        assert got.ids == tok.encode(wanted, "all")


def test_texts_by_hand() -> None:
    """What tells the families apart, without the published files."""
    turn = "<|im_start|>user\nHi<|im_end|>\n"
    helpful = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    qwen = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
    asked, offered = Probe(talk("Hi"), True), Probe(talk("Hi"), True, [TOOL])
    end = "<|im_start|>assistant\n"
    assert ours("chatml", asked) == ours("qwen1", asked) == ours("qwen3", asked) == turn + end
    assert ours("qwen2", asked) == helpful + turn + end
    assert ours("qwen2.5", asked) == f"<|im_start|>system\n{qwen}<|im_end|>\n{turn}{end}"
    assert ours("qwq", asked) == f"{turn}{end}<think>\n"
    assert ours("qwen3", asked, False) == f"{turn}{end}<think>\n\n</think>\n\n"
    for style, before in (("chatml", ""), ("qwen3", ""), ("qwen2.5", f"{qwen}\n\n"), ("qwq", "\n\n")):
        assert ours(style, offered).startswith(f"<|im_start|>system\n{before}# Tools\n\nYou may call one or more")
    brief = Probe(talk("Hi", system="Be brief."), True)
    assert len({ours(style, brief).removesuffix("<think>\n") for style in FILES}) == 1


def test_there_are_forty_probes_and_each_is_a_conversation(tiny: ChatTokenizer) -> None:
    assert len(PROBES) == 40
    for probe in PROBES:
        tiny.render(probe.messages, probe.tools, probe.add_generation_prompt)


@pytest.mark.parametrize("style", FILES)
def test_probes_are_rendered_as_the_published_template_does(
    tiny: ChatTokenizer, published: dict[str, str], style: str
) -> None:
    for probe in PROBES:
        same(tiny, published[style], style, probe)


@pytest.mark.parametrize("thinking", [True, False])
def test_qwen3_with_and_without_thoughts(tiny: ChatTokenizer, published: dict[str, str], thinking: bool) -> None:
    for probe in PROBES:
        same(tiny, published["qwen3"], "qwen3", probe, thinking)


texts = st.lists(
    st.sampled_from(
        ["a", " ", "\n", "你好", "😀", "<think>", "</think>", "<tool_response>", "</tool_response>", '"', "\\"]
    ),
    max_size=6,
).map("".join)
values = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts
arguments = st.dictionaries(st.sampled_from(["a", "城市"]), values | st.lists(values, max_size=2), max_size=2)
made_calls = st.builds(
    lambda name, given, bare: (
        {"name": name, "arguments": given}
        if bare
        else {"type": "function", "function": {"name": name, "arguments": given}}
    ),
    st.sampled_from(["weather", "天气"]),
    arguments,
    st.booleans(),
)


@st.composite
def conversations(draw: st.DrawFn) -> Probe:
    """Any conversation that a model could have, up to a question, a tool's result or an answer."""
    messages: Messages = [{"role": "system", "content": draw(texts)}] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        messages.append({"role": "user", "content": draw(texts)})
        while True:
            answer: dict[str, Any] = {"role": "assistant", "content": draw(texts)}
            if draw(st.booleans()):
                answer["reasoning_content"] = draw(texts)
            made = draw(st.lists(made_calls, max_size=2))
            if not made:
                messages.append(answer)
                break
            messages.append({**answer, "tool_calls": made})
            messages += [{"role": "tool", "content": draw(texts)} for _ in range(draw(st.integers(1, 2)))]
    cut = draw(st.integers(len(messages) - 2, len(messages)))
    messages = messages[:cut] if cut > 0 and messages[cut - 1]["role"] != "system" else messages
    prompt = messages[-1]["role"] in ("user", "tool") and draw(st.booleans())
    return Probe(messages, prompt, [TOOL] if draw(st.booleans()) else None)


@settings(max_examples=150, deadline=None)
@given(probe=conversations(), thinking=st.sampled_from([None, True, False]))
def test_any_conversation_is_rendered_as_the_published_template_does(
    tiny: ChatTokenizer, published: dict[str, str], probe: Probe, thinking: bool | None
) -> None:
    for style in FILES:
        same(tiny, published[style], style, probe, thinking if style == "qwen3" else None)


def test_folders_are_of_the_style_whose_template_they_have(published: dict[str, str], tmp_path: Path) -> None:
    """By their ids, whatever the text of the template; and vocabularies with tokens for the tags tell them as well."""
    for style, template in published.items():
        tok = load_tokenizer(publish(tmp_path / style, LATER, "{#- another text -#}" + template))
        assert tok.style == style
        assert chat_tokenizer(tmp_path / style, "own").style == style
        for probe in PROBES:
            if STYLES[style].tools is not None:
                got = tok.render(probe.messages, probe.tools, probe.add_generation_prompt).ids
                options = {"tools": probe.tools, "add_generation_prompt": probe.add_generation_prompt}
                assert got == tok.encode(theirs(template, probe.messages, **options), "all")


@pytest.mark.parametrize("style", ["qwen2", "qwen2.5", "qwq"])
def test_the_loss_mask_of_a_style_is_the_one_that_its_template_places(
    tiny: ChatTokenizer, published: dict[str, str], style: str
) -> None:
    """The system turn that a template adds by itself has no loss, and neither has what the prompt of an answer has."""
    compared = 0
    calls = ("tool_calls",) if STYLES[style].tools is None else ()
    masks = ("assistant",) if style == "qwq" else ("qwen", "assistant")  # of answers not trained, marks differ
    for probe in (*PROBES, *THOUGHTS):
        messages = [normal(message) for message in probe.messages]
        if messages[-1]["role"] != "assistant" or any(key in message for key in calls for message in messages):
            continue
        for mask in masks:
            traced = Traced(tiny, published[style], messages, probe.tools, {}, {})
            got = tiny.render(messages, probe.tools, mask=mask, style=style)
            try:
                want = rendered(traced, mask)
            except UserError:  # an answer that does not begin as its prompt does
                assert style == "qwq" and len(messages) - 1 in got.untrained
                continue
            assert (got.ids, got.weights, got.untrained) == (want.ids, want.weights, want.untrained)
            compared += 1
    assert compared >= 4


def trained(tok: ChatTokenizer, messages: Messages, **options: Any) -> str:
    got = tok.render(messages, mask="assistant", **options)
    return tok.decode([i for i, weight in zip(got.ids, got.weights, strict=True) if weight])


def test_what_the_prompt_of_an_answer_has_is_not_trained(tiny: ChatTokenizer) -> None:
    thought = talk("a", "<think>\nhm\n</think>\n\nb")
    assert trained(tiny, thought, style="qwq") == "hm\n</think>\n\nb<|im_end|>"
    assert trained(tiny, thought, style="qwen3") == "<think>\nhm\n</think>\n\nb<|im_end|>"
    assert trained(tiny, talk("a", "b", "c", "d"), style="qwen3") == "b<|im_end|><think>\n\n</think>\n\nd<|im_end|>"
    assert trained(tiny, talk("a", "b", "c", "d"), style="qwen3", thinking=False) == "b<|im_end|>d<|im_end|>"
    for style, thinking, messages in (("qwq", None, talk("a", "b")), ("qwen3", False, thought)):
        assert trained(tiny, messages, style=style, thinking=thinking) == ""
        assert tiny.render(messages, style=style, thinking=thinking).untrained == (1,)


def test_a_row_begins_with_the_prompt_of_its_answer(tiny: ChatTokenizer) -> None:
    for style, thinking in (("qwen3", None), ("qwen3", False), ("qwq", None), ("qwen2", None), ("qwen2.5", None)):
        prompt = tiny.render(talk("q"), add_generation_prompt=True, style=style, thinking=thinking).ids
        answer = "<think>\nhm\n</think>\n\nb" if style == "qwq" else "b"
        row = tiny.render(talk("q", answer), style=style, thinking=thinking)
        assert row.ids[: len(prompt)] == prompt and not any(row.weights[3 : len(prompt)][-1:])


# ---- what a style cannot show ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("style", "thinking", "message"),
    [
        ("chatml", False, "thinking = false, and the chat style chatml has no thoughts\n  expected: "
                          "a style that has: qwen3, qwq"),
        ("qwen2.5", True, "thinking = true, and the chat style qwen2.5 has no thoughts\n  expected: "
                          "a style that has: qwen3, qwq"),
        ("qwq", False, "thinking = false, and the chat style qwq always thinks\n  expected: "
                       "thinking = true, or nothing"),
    ],
)  # fmt: skip
def test_thinking_is_refused_where_a_style_has_no_such_choice(
    tiny: ChatTokenizer, style: str, thinking: bool, message: str
) -> None:
    with pytest.raises(UserError) as refused:
        tiny.render(talk("a"), add_generation_prompt=True, style=style, thinking=thinking)
    assert str(refused.value) == message
    with pytest.raises(UserError) as refused:
        ChatTokenizer(tiny, style).render(talk("a"), add_generation_prompt=True, thinking=thinking)
    assert str(refused.value) == message


def test_thinking_reaches_a_folders_own_template(tmp_path: Path) -> None:
    switch = "{{ ' off' if enable_thinking is defined and not enable_thinking }}"
    tok = load_tokenizer(publish(tmp_path / "a", LATER, chatml_template() + switch))
    for thinking, end in ((None, "assistant\n"), (True, "assistant\n"), (False, "assistant\n off")):
        assert tok.decode(tok.render(talk("a"), add_generation_prompt=True, thinking=thinking).ids).endswith(end)
    with pytest.raises(UserError) as refused:
        tok.render(talk("a"), add_generation_prompt=True, thinking=True, template_kwargs={"enable_thinking": False})
    assert str(refused.value) == "thinking = true, and enable_thinking = False\n  expected: one of the two"
    brief = load_tokenizer(publish(tmp_path / "b", LATER, "{{ messages[0].content }}"))
    with pytest.raises(UserError) as refused:
        brief.render(talk("a"), add_generation_prompt=True, thinking=False)
    assert str(refused.value) == (
        "thinking = false, and the folder's chat template does not read 'enable_thinking'\n"
        "  expected: a template that does, or none of the two"
    )
    assert with_thinking(switch, False, {"other": 1}) == {"other": 1, "enable_thinking": False}


def test_keys_that_a_template_does_not_read_are_refused_with_the_nearest(tmp_path: Path) -> None:
    tok = load_tokenizer(publish(tmp_path, LATER, "{{ messages[0].content }}{{ enable_thinking }}"))
    with pytest.raises(UserError) as refused:
        tok.render(talk("a"), add_generation_prompt=True, template_kwargs={"enable_thnking": False})
    assert str(refused.value) == (
        "the chat template does not read a variable 'enable_thnking'\n"
        "  expected: enable_thinking\n  nearest: enable_thinking"
    )


def test_thinking_and_the_switch_of_the_template_are_the_same(published: dict[str, str], tmp_path: Path) -> None:
    tok = load_tokenizer(publish(tmp_path, LATER, published["qwen3"]))
    asked = {"messages": talk("a", "b", "c"), "add_generation_prompt": True}
    for thinking in (True, False):
        by_name = tok.render(**asked, template_kwargs={"enable_thinking": thinking})
        assert tok.render(**asked, thinking=thinking).ids == by_name.ids


def test_tools_are_refused_where_a_style_has_none(tiny: ChatTokenizer) -> None:
    with pytest.raises(UserError) as refused:
        tiny.render(talk("a"), [TOOL], add_generation_prompt=True, style="qwen2")
    assert str(refused.value) == (
        "the chat style qwen2 does not show the tools\n  expected: a style that knows of tools\n"
        '  hint: name one that does, for example style = "chatml"'
    )
    with pytest.raises(UserError, match="message 1: the chat style qwen2 does not show the tool calls"):
        tiny.render(PROBES[22].messages, add_generation_prompt=True, style="qwen2")


def test_a_style_is_trained_where_its_template_is_published(tmp_path: Path) -> None:
    assert get_args(Style)[0] == "own" and set(get_args(Style)[1:]) <= set(STYLES)
    folder = publish(tmp_path, LATER, chatml_template())
    for style in get_args(Style)[1:]:
        if STYLES[style].published:
            assert chat_tokenizer(folder, style).chat_template == chatml_template()
        else:
            with pytest.raises(UserError, match=f"style = {style}, but the folder's chat template is another one"):
                chat_tokenizer(folder, style)


SWITCH = re.compile(r"\{%-? if enable_thinking is defined.*?\{%-? endif %\}", re.DOTALL)


def test_thoughts_that_a_template_cannot_switch_are_refused(tiny: ChatTokenizer, published: dict[str, str]) -> None:
    """Also where the template is otherwise that of a style that has the choice."""
    cut, asked = ChatTokenizer(tiny, None, SWITCH.sub("", published["qwen3"])), talk("Hi")
    assert cut.style == "qwen3" and cut.chat_template != published["qwen3"]
    for thinking in (True, False):
        with pytest.raises(UserError) as caught:
            cut.render(asked, add_generation_prompt=True, thinking=thinking)
        assert str(caught.value) == (
            f"thinking = {str(thinking).lower()}, and the folder's chat template does not read 'enable_thinking'\n"
            "  expected: a template that does, or none of the two"
        )
    qwq = ChatTokenizer(tiny, None, published["qwq"])
    assert qwq.style == "qwq" and qwq.render(asked, add_generation_prompt=True, thinking=True).ids
    for tok, message in ((qwq, "qwq always thinks"), (tiny, "chatml has no thoughts")):
        with pytest.raises(UserError, match=f"thinking = false, and the chat style {message}"):
            tok.render(asked, add_generation_prompt=True, thinking=False)


@pytest.mark.parametrize("style", FILES)
def test_what_is_published_renders_as_what_was_trained(
    tiny: ChatTokenizer, published: dict[str, str], tmp_path: Path, style: str
) -> None:
    """In whatever form the tokenizer is written; the template is the folder's own, to the byte."""
    source = publish(tmp_path / "source", LATER, published[style])
    tok = chat_tokenizer(source, "own")
    chat = talk("a", f"{THOUGHT}b", "c")
    for form in ("json", "tiktoken"):
        out = tmp_path / form
        out.mkdir()
        save_tokenizer(tok, source, out, form)
        back = load_tokenizer(out)
        assert (back.style, back.chat_template) == (style, published[style])
        assert back.render(chat, add_generation_prompt=True).ids == tok.render(chat, add_generation_prompt=True).ids
