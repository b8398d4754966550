"""From a prompt of the internal form to what the engine reads, and what its chat style adds to the sampling parameters.

    prompt = engine_prompt(request.prompts[0], tok, request.parse_special)      # for `EngineLoop.submit`
    params = engine_params(request, tok)

Names of special tokens in texts of users are text, unless a request says otherwise.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from qwenkit.chat.styles import STYLES, ReAct
from qwenkit.inference import Conversation, SamplingParams
from qwenkit.inference.grammar import tool_grammar
from qwenkit.inference.grammar_checks import tool_function
from qwenkit.serving.fields import refused
from qwenkit.serving.request import FillIn, GenerationRequest, PromptForm

if TYPE_CHECKING:
    from qwenkit.chat import ChatTokenizer

FILL_IN_TOKENS = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
)
"""The names of the tokens for filling in, of Qwen's code models and of older ones."""


def engine_prompt(
    prompt: PromptForm, tok: ChatTokenizer, parse_special: bool = False
) -> Conversation | str | tuple[int, ...]:
    """Return a prompt as the engine takes it; raises `Refused` for a gap that the model cannot fill in."""
    if isinstance(prompt, FillIn):
        return fill_in_ids(prompt, tok)
    if isinstance(prompt, Conversation) and prompt.thinking is False and not can_think(tok):
        return replace(prompt, thinking=None)  # it does not think anyhow
    if isinstance(prompt, str) and parse_special:
        return tuple(tok.encode(prompt, allowed_special="all"))
    return prompt


def can_think(tok: ChatTokenizer) -> bool:
    """Return whether a model can be asked to think, or not to."""
    if tok.style is not None:
        return STYLES[tok.style].think is not None
    return "enable_thinking" in (tok.chat_template or "")


def fill_in_ids(prompt: FillIn, tok: ChatTokenizer) -> tuple[int, ...]:
    """Return what stands before and after a gap, between the tokens that say so."""
    names = next((names for names in FILL_IN_TOKENS if all(name in tok.special for name in names)), None)
    if names is None:
        raise refused("suffix", "this model does not fill in: its vocabulary has no tokens for that",
                      "a prompt without a suffix, or a model with <|fim_prefix|>", "unsupported_field")  # fmt: skip
    before, after, middle = (tok.special[name] for name in names)
    return (before, *tok.encode(prompt.prefix), after, *tok.encode(prompt.suffix), middle)


def engine_params(request: GenerationRequest, tok: object) -> SamplingParams:
    """Return the sampling parameters. Where calls are written as ReAct's lines, an answer stops before a result; one
    that may call a tool and is bound to a JSON schema follows the schema or the tools' grammar.

    Raises a `UserError` where it is not known how the model writes calls."""
    params, form = request.params, react_form(tok)
    if request.tools and params.json_schema is not None:
        params = replace(params, json_schema=None, grammar=call_or_json(request, tok))
    if form is None or not request.tools:
        return params
    stops = params.stop or ()
    return replace(params, stop=(*stops, *(stop for stop in form.stop if stop not in stops)))


def call_or_json(request: GenerationRequest, tok: object) -> str:
    """Return the grammar of an answer that calls one of the request's tools, or is JSON of its schema."""
    calls = tool_grammar(tok, [tool_function(tool) for tool in request.tools])
    return f"start: call | answer\nanswer: %json {request.params.json_schema}\ncall: {calls.removeprefix('start: ')}"


def react_form(tok: object) -> ReAct | None:
    """Return how the chat style of a tokenizer writes ReAct's lines, or None where it does not."""
    style = STYLES.get(getattr(tok, "style", None) or "")
    return style.tools if style is not None and isinstance(style.tools, ReAct) else None
