r"""The final answer out of a solution: `final_number`, `final_formula`, `final_choices`, `final_yes_no`, `code_block`.

Each returns None where no answer is stated, which the caller counts: an answer that is not there is no wrong answer of
the model's knowledge but of its form. The last statement counts, as solutions correct themselves. `without_thoughts`
comes first where a model thinks aloud. Nothing is executed, and texts of more than a million characters are cut at
their beginning.

* numbers (GSM8K): after `####`, after `A:`, in the last `\boxed{}`, after "the answer is" or 答案是, else the
  last one
* formulas (MATH): the last `\boxed{}` with its nested braces, else what "the answer is" says up to the sentence's end
* choices (MMLU, C-Eval, Gaokao): 【答案】, 答案是, 故选, 选项, "the answer is", "(B) is correct", a letter
  that begins the answer alone; several letters are returned sorted; letters that only occur in a text are none
* code (HumanEval, MBPP): the last fenced block that defines `name`, else the last fenced block, else None
"""

from __future__ import annotations

import re

from qwenkit.chat.parse import parse_text

_LONGEST = 1_000_000

_NUMBER = re.compile(r"(?<![A-Za-z0-9_.])[-−]?[$¥￥€£]?\d[\d,]*(?:\.\d+)?(?:/\d+)?%?|(?<![A-Za-z0-9_.])[-−]?\.\d+")
_HASHES = re.compile(r"####[ \t]*([^\n]{1,200})")
_LABEL = re.compile(r"^A: ?([^\n]{1,200})", re.MULTILINE)
_STATED = re.compile(
    r"(?:(?:final |correct )?answer(?: to [^.:\n]{1,80})?(?: ?(?:is|are|would be|equals)"
    r"(?: equal to| therefore)?)? ?:?|"
    r"(?:最终|最后|正确)?(?:答案|结果)(?:应该|应当|应)?(?:是|为|等于)? ?[:：]?|【答案】|答[:：])[ \t*_]*"
    r"(?P<answer>[^\n]{1,300})",
    re.IGNORECASE,
)
_SENTENCE = re.compile(
    r"(?<!\d)\.(?=\s|$)|(?<=\d)\.(?=\s|$)|[。；！]|, (?:so|because|since|which)\b|，(?:所以|因为|故)"
)

_LETTERS = r"[A-J](?:(?: ?[,、和与及] ?| and |, and )?[A-J])*(?![A-Za-z'])"
_MARKED = rf"[\s*_:：(（\[“\"$]*(?:\\(?:boxed|text|textbf|mathrm)\{{\(?)*({_LETTERS})"
_CHOICE = re.compile(
    r"(?:【答案】|(?:答案|选项)(?:应该|应当|应)?(?:是|为|选)?(?:选项)?|(?<!不)选(?:择|项)?(?:的?是|为)?|"
    r"(?i:\b(?:answer|choice)(?: to [^.:\n]{1,80})?(?: is| would be| should be)?[ :]*(?:option|choice)?|"
    r"\b(?:choose|pick|select)(?: option| choice)?)|\\boxed\{)" + _MARKED
)
_CORRECT = re.compile(
    rf"({_LETTERS})[)）.]?(?i: is (?:the )?(?:correct|right|best))|"
    rf"({_LETTERS})(?:项|选项)?是?正确"
)
_ALONE = re.compile(rf"[\s*_(（\[【]*({_LETTERS})[\s*_)）\]】]*(?:[.:：、。)][^\n]*)?\s*")
_YES_NO = re.compile(
    r"\b(?P<yes>yes|true)\b|\b(?P<no>no|false)\b(?! (?:one|matter|doubt))|(?P<zh_no>不是|不对|不正确|错误|否|不能)|"
    r"(?P<zh_yes>是的|正确|对的|^是|^对)",
    re.IGNORECASE,
)
_FENCE = re.compile(
    r"^[ \t]*(`{3,}|~{3,})[ \t]*([\w+#.-]*)[^\n]*\n(.*?)(?:^[ \t]*\1[ \t]*$|\Z)", re.MULTILINE | re.DOTALL
)


def without_thoughts(text: str) -> str:
    """Return what follows a model's thoughts, or the text where there are none; nothing while it still thinks."""
    return parse_text(text).get("content", "")


def final_number(text: str) -> str | None:
    """Return the last number that is stated as the answer, or the last number of the text, without separators.

    >>> final_number("She sells 9 eggs for $2 each: $18 a day."), final_number("#### 1,234"), final_number("no idea")
    ('2', '1234', None)"""
    text = text[-_LONGEST:]
    stated = [_last(pattern, text) for pattern in (_HASHES, _LABEL)] + [_boxed(text), _last(_STATED, text)]
    for part in stated:
        if part and (numbers := _NUMBER.findall(part)):
            return _bare(numbers[0])
    numbers = _NUMBER.findall(text)
    return _bare(numbers[-1]) if numbers else None


def final_formula(text: str) -> str | None:
    r"""Return what the last `\\boxed{}` holds, else what is stated as the answer up to the end of the sentence."""
    text = text[-_LONGEST:]
    if boxed := _boxed(text):
        return boxed
    stated = _last(_HASHES, text) or _last(_STATED, text)
    part = _SENTENCE.split(stated, maxsplit=1)[0].strip(" *_") if stated else ""
    return part or None


def final_choices(text: str) -> str | None:
    """Return the letters of the choice that is stated last, sorted and without repetition, or None.

    >>> final_choices("故选：B。"), final_choices("A is tempting, but the answer is (C)."), final_choices("A dog.")
    ('B', 'C', None)"""
    text = text[-_LONGEST:]
    if alone := _ALONE.fullmatch(text):
        return _letters(alone[1])
    stated = [*_CHOICE.finditer(text)] or [*_CORRECT.finditer(text)]
    return _letters("".join(group or "" for group in stated[-1].groups())) if stated else None


def final_yes_no(text: str) -> bool | None:
    """Return whether an answer says yes, by its first word of the kind, or None."""
    match = _YES_NO.search(text[:_LONGEST])
    return None if not match else match.lastgroup in ("yes", "zh_yes")


def code_block(text: str, name: str = "") -> str | None:
    """Return the last fenced block that defines `name`, else the last fenced block, else None; a last fence may be
    open."""
    blocks = [match[3] for match in _FENCE.finditer(text[:_LONGEST])]
    defining = [
        block
        for block in blocks
        if name and re.search(rf"\b(?:def|class|fn|func|function) +{re.escape(name)}\b", block)
    ]
    return (defining or blocks or [None])[-1]


def _letters(text: str) -> str:
    return "".join(sorted({letter for letter in text if letter in "ABCDEFGHIJ"}))


def _last(pattern: re.Pattern[str], text: str) -> str | None:
    matches = pattern.findall(text)
    return matches[-1] if matches else None


def _bare(number: str) -> str:
    return re.sub("[,$¥￥€£]", "", number).replace("−", "-")


def _boxed(text: str) -> str | None:
    start = max(text.rfind("\\boxed{"), text.rfind("\\fbox{"))
    if start < 0:
        return None
    opening, level = text.index("{", start), 0
    for place in range(opening, len(text)):
        level += (text[place] == "{") - (text[place] == "}")
        if level == 0:
            return text[opening + 1 : place].strip() or None
    return None  # cut off
