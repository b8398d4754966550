"""Answers that are bound to a grammar, of a model that knows nothing: random logits must still give valid answers."""

from __future__ import annotations

import json
import re
import sys
import threading
from typing import Any

import jsonschema
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenkit.chat import ChatTokenizer, parse_text
from qwenkit.errors import UserError
from qwenkit.inference import Engine, SamplingParams
from qwenkit.inference.grammar import Grammars, GrammarState, tool_grammar, within_seconds
from qwenkit.inference.grammar_checks import MAX_VALUES, expansion
from qwenkit.inference.requests import RequestFactory
from qwenkit.inference.sampler import Sampler
from qwenkit.inference.sequence import Sequence
from qwenkit.model import ModelConfig, Transformer, init_weights
from qwenkit.tokenizer import Tokenizer

from .conftest import GREEDY, SHAPE, full_forward

_WORDS = ['{"', '":', '",', '"}', ", ", ": ", "[]", "{}", "tr", "ue", "true", "null", "12", "00", "-1", "\n\n", "ab",
          "é", "日", '\\"', "<th", "Ac"]  # fmt: skip
_RANKS = {bytes([b]): b for b in range(256)} | {word.encode(): 256 + i for i, word in enumerate(_WORDS)}
_FIRST = len(_RANKS)
_MARKS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>", "<tool_call>", "</tool_call>")
SPECIAL = {name: _FIRST + i for i, name in enumerate(_MARKS)}
SIZE = _FIRST + len(SPECIAL)
_VISIBLE = frozenset(_MARKS[3:])
PLAIN = Tokenizer(_RANKS, {name: id for name, id in SPECIAL.items() if "think" not in name},
                  vocab_size=SIZE, visible=_VISIBLE - {"<think>", "</think>"})  # fmt: skip
THINKING = Tokenizer(_RANKS, SPECIAL, vocab_size=SIZE, visible=_VISIBLE)
END, THINK, ENOUGH = SPECIAL["<|im_end|>"], SPECIAL["<think>"], SPECIAL["</think>"]
MODEL = init_weights(Transformer(ModelConfig(**{**SHAPE, "vocab_size": SIZE})), seed=0, std=0.3).eval()  # type: ignore[arg-type]
_AB = _RANKS[b"ab"]
_CLOSERS = [id for token, id in _RANKS.items() if token in (b'"', b"}", b"]", b'"}', b'",', b",", b":")]


def _request(params: SamplingParams, tok: Tokenizer = PLAIN, prompt: tuple[int, ...] = (65,)) -> Sequence:
    factory = RequestFactory(MODEL, tok, None, seed=0)
    return factory.make_request(prompt, factory.effective_params(params), 0, "prompt 0").sequences[0]


def _ended(sequence: Sequence, seed: int, bias: dict[int, float] | None = None) -> Sequence:
    """The answer of a model that knows nothing, except that marks which close something are likelier."""
    generator = torch.Generator().manual_seed(seed)
    while sequence.status != "finished":
        logits_1V = torch.randn(1, SIZE, generator=generator)
        logits_1V[:, _CLOSERS] += 3.0
        for id, value in (bias or {}).items():
            logits_1V[:, id] += value
        Sampler(SIZE).append_tokens([sequence], logits_1V)
    return sequence


def _params(**values: Any) -> SamplingParams:
    return SamplingParams.plain(**{"max_tokens": 150, "stop_token_ids": [END], **values})


def _text(sequence: Sequence, tok: Tokenizer = PLAIN) -> str:
    return sequence.to_sample(tok).text or ""


_LEAVES = st.sampled_from([
    {"type": "integer"}, {"type": "integer", "minimum": 3, "maximum": 40}, {"type": "number"}, {"type": "boolean"},
    {"type": "null"}, {"type": "string"}, {"type": "string", "maxLength": 4},
    {"enum": ["a", "ü日", 3, None, {"k": []}]}, {"type": "string", "pattern": "^[a-c]{2,3}$"},
    {"type": ["boolean", "null"]}, {"const": 'say "\\'},
])  # fmt: skip
_NAMES = st.lists(st.sampled_from(["a", "b", "é", 'q"', "long name"]), unique=True, max_size=3)


def _objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return _NAMES.flatmap(lambda names: st.fixed_dictionaries({
        "type": st.just("object"),
        "properties": st.fixed_dictionaries(dict.fromkeys(names, inner)),
        "required": st.just(names[:2]),
        "additionalProperties": st.sampled_from([False, {"type": "integer"}]),
    }))  # fmt: skip


_SCHEMAS = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(
        _objects(inner),
        st.fixed_dictionaries({"type": st.just("array"), "items": inner, "minItems": st.integers(0, 1),
                               "maxItems": st.integers(1, 3)}),
        st.fixed_dictionaries({"anyOf": st.lists(inner, min_size=1, max_size=3)}),
    ),
    max_leaves=5,
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(_SCHEMAS, st.integers(0, 10**6))
def test_every_answer_under_a_schema_fits_it(schema: dict[str, Any], seed: int) -> None:
    sequence = _ended(_request(_params(json_schema=schema, repetition_penalty=1.1, presence_penalty=0.5)), seed)
    if sequence.finish_reason == "stop":
        jsonschema.validate(json.loads(_text(sequence)), schema)
    else:
        assert sequence.finish_reason == "length" and len(sequence.ids) == 150


def test_most_answers_come_to_their_end() -> None:
    """So the property above is not one of answers that were cut."""
    schema = {"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
              "required": ["name", "age"], "additionalProperties": False}  # fmt: skip
    ended = [_ended(_request(_params(json_schema=schema, seed=seed)), seed) for seed in range(20)]
    texts = [_text(sequence) for sequence in ended if sequence.finish_reason == "stop"]
    assert len(texts) >= 15 and all(list(json.loads(text)) == ["name", "age"] for text in texts)


def test_any_object() -> None:
    for seed in range(5):
        sequence = _ended(_request(_params(json_schema=True)), seed)
        assert sequence.finish_reason == "length" or isinstance(json.loads(_text(sequence)), dict)


@pytest.mark.parametrize("pattern", ["[0-9]{4}-[0-9]{2}", "(ab|é)+", "日?x{3}"])
def test_an_answer_matches_its_expression(pattern: str) -> None:
    for seed in range(10):
        sequence = _ended(_request(_params(regex=pattern)), seed, {END: 2.0})
        assert sequence.finish_reason == "stop" and re.fullmatch(pattern, _text(sequence))


def test_an_answer_follows_its_grammar() -> None:
    grammar = 'start: sum\nsum: NUMBER ("+" NUMBER)*\nNUMBER: /[1-9][0-9]?/\n'
    for seed in range(10):
        sequence = _ended(_request(_params(grammar=grammar)), seed, {END: 2.0})
        assert sequence.finish_reason == "stop" and re.fullmatch(r"[1-9]\d?(\+[1-9]\d?)*", _text(sequence))


def test_an_answer_ends_exactly_where_its_grammar_may() -> None:
    """The stop token is by far the likeliest, and comes at the first place where it may; `min_tokens` moves that."""
    for least in (0, 1, 5):
        sequence = _ended(_request(_params(regex="a(bb)*", min_tokens=least)), 0, {END: 100.0, _AB: -100.0})
        assert _text(sequence) == "a" + "bb" * -(-max(0, least - 1) // 2) and sequence.ids[-1] == END


def test_where_nothing_can_follow_the_answer_ends() -> None:
    """Also without a stop token, and before `min_tokens`."""
    sequence = _ended(_request(_params(regex="xy", ignore_eos=True, stop_token_ids=[], min_tokens=9)), 0)
    assert (sequence.ids, sequence.finish_reason) == ([ord("x"), ord("y")], "stop")


def test_biases_and_bad_words_work_within_the_grammar() -> None:
    for seed in range(5):
        params = _params(regex="[abc]{6}", logit_bias={ord("a"): 50, ord("z"): 100, _AB: -100}, bad_words=["aa"])
        assert re.fullmatch("(a[bc]){3}", _text(_ended(_request(params), seed)))


def test_what_forbids_every_token_of_a_grammar_ends_the_request() -> None:
    sequence = _ended(_request(_params(regex="aaaa", bad_words=["aa"])), 0)
    assert str(sequence.request.error) == (
        "prompt 0: no token may follow\n  hint: what is asked for forbids every token at this point"
    )


_TOOLS = [
    {"type": "function", "function": {"name": "add", "parameters": {
        "type": "object", "properties": {"n": {"$ref": "#/$defs/small"}}, "required": ["n"],
        "additionalProperties": False, "$defs": {"small": {"type": "integer", "maximum": 9, "minimum": 0}}}}},
    {"name": "now"},
]  # fmt: skip


@pytest.mark.parametrize("style", ["chatml", "react", "qwen3"])
def test_an_answer_is_a_call_of_one_of_the_tools(style: str) -> None:
    names = set()
    tok = ChatTokenizer(PLAIN, style)
    for seed in range(20):
        params = _params(tools=_TOOLS, seed=seed, max_tokens=300)
        sequence = _ended(_request(params, tok), seed, {10: 5.0})
        if sequence.finish_reason == "length":
            continue
        (call,) = parse_text(_text(sequence, tok), _TOOLS).get("tool_calls", [])
        names.add(call["function"]["name"])
        assert call["function"]["name"] == "now" or 0 <= call["function"]["arguments"]["n"] <= 9
    assert names == {"add", "now"}


def test_tags_of_calls_are_the_special_tokens_of_a_vocabulary() -> None:
    text = tool_grammar(ChatTokenizer(PLAIN, "chatml"), [{"name": "now", "parameters": {}}])
    assert f'start: <[{SPECIAL["<tool_call>"]}]> "\\n"' in text
    bare = Tokenizer(_RANKS, {"<|im_end|>": _FIRST})
    assert 'start: "<tool_call>\\n"' in tool_grammar(ChatTokenizer(bare, "chatml"), [{"name": "now", "parameters": {}}])


def test_tools_need_a_style_that_has_calls() -> None:
    with pytest.raises(UserError) as caught:
        _request(_params(tools=_TOOLS), ChatTokenizer(PLAIN, "qwen2"))
    assert str(caught.value) == (
        "sampling parameters: tools, and how the chat style qwen2 writes calls is not known\n  expected: a chat style "
        "that has calls: qwen1, chatml, qwen2.5, qwen3, qwq, react, qwen-vl\n  hint: or use json_schema"
    )


def _thought(prompt: tuple[int, ...], bias: dict[int, float], seed: int = 0, **values: Any) -> list[int]:
    params = _params(regex="[0-9]{3}", max_tokens=60, **values)
    return _ended(_request(params, THINKING, prompt), seed, bias).ids


def test_thoughts_are_free_and_the_rest_is_bound() -> None:
    """A thought that the model begins, one that the prompt opens, and a prompt that says there is none."""
    turn = SPECIAL["<|im_start|>"]
    for seed in range(5):
        ids = _thought((turn, 65), {THINK: 100, ENOUGH: 101, END: 3}, seed)
        assert ids[0] == THINK and END not in ids[:-1]
        end = ids.index(ENOUGH)
        assert re.fullmatch("\n\n[0-9]{3}", THINKING.decode(ids[end + 1 :])) or len(ids) == 60
        ids = _thought((turn, 65, THINK), {ENOUGH: 5}, seed)
        assert re.fullmatch("\n\n[0-9]{3}", THINKING.decode(ids[ids.index(ENOUGH) + 1 :]))
        assert re.fullmatch("[0-9]{3}", THINKING.decode(_thought((turn, THINK, ENOUGH), {THINK: 100}, seed)))
        assert re.fullmatch("[0-9]{3}", THINKING.decode(_thought((turn, 65), {THINK: -100}, seed)))


def test_a_budget_leads_from_the_thought_to_the_grammar() -> None:
    ids = _thought((SPECIAL["<|im_start|>"], THINK), {ENOUGH: -100}, thinking_budget=4)
    assert re.fullmatch("\n</think>\n\n[0-9]{3}", THINKING.decode(ids[4:]))


def test_a_batch_with_and_without_grammars() -> None:
    engine = Engine(MODEL, PLAIN)
    bound = SamplingParams.plain(temperature=0, max_tokens=30, regex="[ab]{5}")
    outputs = engine.generate([[1, 2], [1, 2], [3]], [GREEDY, bound, bound])
    assert outputs[0].ids == full_forward(MODEL, [1, 2], 20)
    assert [re.fullmatch("[ab]{5}", output.text or "") is not None for output in outputs[1:]] == [True, True]
    assert outputs[1].logprobs == pytest.approx(engine.score([[1, 2]], [outputs[1].ids])[0], abs=1e-4)


def test_samples_of_one_request_have_their_own_places() -> None:
    output = Engine(MODEL, PLAIN).generate([[1]], _params(regex="[a-z]{8}", n=3))[0]
    assert len({sample.text for sample in output.samples}) == 3
    assert all(re.fullmatch("[a-z]{8}", sample.text or "") for sample in output.samples)


# ---- what is refused ------------------------------------------------------------------------------------------------


def _deep(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


_FLATTER = "json_schema is nested more than 64 deep\n  expected: a flatter one, or `$ref` to its parts"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"json_schema": _deep(2000)}, _FLATTER),
        ({"json_schema": '{"items":' * 2000 + "{}" + "}" * 2000}, _FLATTER),
        ({"json_schema": {"enum": [f"word {i}" for i in range(50_000)]}},
         f"json_schema of more than {MAX_VALUES:,} values\n  expected: fewer alternatives, or a regex"),
        ({"json_schema": {"const": "x" * 300_000}}, "json_schema of 300,013 characters\n  expected: at most 200,000"),
        ({"json_schema": '"' + "x" * 300_000}, "json_schema of 300,001 characters\n  expected: at most 200,000"),
        ({"regex": "a" * 20_001}, "regex of 20,001 characters\n  expected: at most 20,000"),
        ({"tools": [{"name": "f", "parameters": _deep(100)}]},
         "tools is nested more than 64 deep\n  expected: a flatter one, or `$ref` to its parts"),
    ],
    ids=["deep", "deep text", "enums", "long", "long text", "long regex", "deep tools"],
)  # fmt: skip
def test_what_is_too_large_is_refused_before_it_is_compiled(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        SamplingParams(**values)
    assert str(caught.value) == message


_COUNTS = "with repetitions that stand for more than 100,000 characters\n  expected: smaller counts"


@pytest.mark.parametrize(
    "pattern", ["((((a{1,100}){1,100}){1,100}){1,100})", "(.{0,500}){500}x", "(a{1000}b{1000}){1000}"]
)
def test_expressions_that_stand_for_too_much_are_refused(pattern: str) -> None:
    with pytest.raises(UserError) as caught:
        SamplingParams(regex=pattern)
    assert str(caught.value) == f"regex {_COUNTS}"
    for schema in ({"items": {"pattern": pattern}}, {"patternProperties": {pattern: True}}):
        with pytest.raises(UserError) as caught:
            SamplingParams(json_schema=schema)
        assert str(caught.value) == f"json_schema {_COUNTS}"


@pytest.mark.parametrize(
    ("pattern", "size"),
    [("abc", 3), ("a{3}b", 4), ("(ab){2,5}", 10), ("(a{2}|[)(]{3}){4}", 24), (r"\({3}", 3), ("a{,3}", 5), (")))(((", 3),
     ("x{2}{3}", 6), ("a{2,}", 2), ("{7}", 0), ("[]{9}", 9)],
)  # fmt: skip
def test_how_much_an_expression_stands_for(pattern: str, size: int) -> None:
    assert expansion(pattern) == size


@given(st.text("ab()[]{}\\,0123456789|+*", max_size=60))
def test_every_text_stands_for_something(text: str) -> None:
    assert expansion(text) >= 0


@pytest.mark.parametrize("pattern", ["(a+)+b", "(a|aa)+b", "(x+x+)+y", "(a|b)*a(a|b){12}"])
def test_expressions_that_only_a_backtracking_matcher_fears_are_followed(pattern: str) -> None:
    sequence = _ended(_request(_params(regex=pattern)), 0, {ord("b"): 3.0, ord("y"): 3.0, END: 3.0})
    assert sequence.finish_reason == "length" or re.fullmatch(pattern, _text(sequence))


@pytest.mark.parametrize(
    ("values", "name"),
    [({"regex": "("}, "regex"), ({"regex": "(?=a)b"}, "regex"), ({"grammar": "start: missing"}, "grammar"),
     ({"json_schema": {"type": "strange"}}, "json_schema"), ({"json_schema": {"$ref": "#/nowhere"}}, "json_schema")],
    ids=["regex", "lookahead", "grammar", "type", "reference"],
)  # fmt: skip
def test_what_cannot_be_compiled_is_refused_with_the_reason(values: dict[str, Any], name: str) -> None:
    with pytest.raises(UserError) as caught:
        _request(_params(**values))
    lines = str(caught.value).splitlines()
    assert lines[0] == f"sampling parameters: {name} cannot be followed"
    assert lines[1] == "  expected: one that llguidance compiles" and len(lines[2]) > len("  hint: ")


def test_compiling_has_a_limit() -> None:
    release = threading.Event()
    try:
        with pytest.raises(UserError) as caught:
            within_seconds(lambda: release.wait(60), 0.05, "regex")
    finally:
        release.set()
    assert str(caught.value) == (
        "sampling parameters: regex takes longer than 0.05 s to compile\n  expected: a simpler one"
    )
    with pytest.raises(UserError) as caught:
        within_seconds(lambda: 1 // 0, 5, "regex")
    assert "regex cannot be followed (integer division" in str(caught.value)


class _Stuck:
    """A matcher whose next mask costs too much."""

    def compute_bitmask(self) -> bytes:
        return bytes(64)

    def is_error(self) -> bool:
        return True

    def deep_copy(self) -> _Stuck:
        return self

    def get_error(self) -> str:
        return "step_lexer_fuel exceeded\nand more"

    def is_stopped(self) -> bool:
        return False


def test_a_state_that_is_too_complex_ends_the_request() -> None:
    sequence = _request(_params(regex="a+"))
    sequence.grammar = GrammarState(_Stuck(), PLAIN.n_tokens)  # type: ignore[arg-type]
    _ended(sequence, 0)
    assert str(sequence.request.error) == (
        "prompt 0: its grammar is too complex at this point\n  expected: a simpler one\n"
        "  hint: step_lexer_fuel exceeded"
    )


def test_a_grammar_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    grammars = Grammars(PLAIN)
    assert grammars.start(SamplingParams.plain()) is None
    first = grammars.start(SamplingParams.plain(regex="[ac][bc]"))
    assert first is not None
    first.push(ord("a"))
    monkeypatch.setattr("qwenkit.inference.grammar.within_seconds", None)
    second = grammars.start(SamplingParams.plain(regex="[ac][bc]"))
    assert second is not None
    assert [bool(state.allowed()[ord("a")]) for state in (first, second)] == [False, True]


def test_the_package_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(UserError) as caught:
        _request(_params(regex="a"))
    assert str(caught.value) == (
        "sampling parameters: regex needs the package `llguidance`, which is not installed\n"
        "  hint: pip install 'qwenkit[grammar]'"
    )


def test_a_grammar_needs_a_tokenizer() -> None:
    with pytest.raises(UserError) as caught:
        Engine(MODEL).generate([[1]], _params(json_schema=True))
    assert str(caught.value) == (
        "sampling parameters: json_schema needs a tokenizer that shows its tokens\n"
        "  expected: Engine(model, load_tokenizer(path))"
    )
