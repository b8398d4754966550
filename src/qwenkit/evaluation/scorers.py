"""What an answer to an item is worth: scorers by name, and the extractors that find an answer in what was written.

    scored = score(item, Response(logprobs=(-3.1, -2.0, -4.4, -5.0), tokens=(1, 1, 1, 1)))
    scored.components["right"], scored.answer
    scored = score(item, Response(text="... The answer is 18"))

`EXTRACTORS` is a table from name to function, (text) -> answer, to which others are added; a task file names one.
Nothing here knows a model, and programs run in the sandbox alone. An item without a verdict (no compiler for its
language, no judge) has no components and a reason: it is not run, and never counted as wrong.
"""

from __future__ import annotations

import ast
import math
import re
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from qwenkit.errors import Stopped, UserError, refuse_unnamed
from qwenkit.evaluation.answers import answers_equal
from qwenkit.evaluation.ifeval import follows
from qwenkit.evaluation.task_items import TaskItem
from qwenkit.evaluation.task_template import boxed, fill
from qwenkit.sandbox import Problem, Verdict, run_tests

Judge = Callable[[Problem, str], Verdict]
"""What runs a program with its tests."""


@dataclass(frozen=True)
class Response:
    """What a model did with an item; log-probabilities are in nats."""

    text: str = ""
    """What was written."""
    logprobs: Sequence[float] = ()
    """The sum of each continuation's log-probabilities; for the kind `perplexity` that of the whole text."""
    tokens: Sequence[int] = ()
    """How many tokens each continuation has."""
    greedy: bool = False
    """For the kind `greedy`: whether each token of the target was the model's first choice."""


@dataclass(frozen=True)
class Scored:
    """What an item's answer is worth."""

    components: dict[str, float] = field(default_factory=dict)
    """`right` and other scores from 0 to 1; for `perplexity` nats, bytes and tokens."""
    answer: str = ""
    """The choice that was taken, or what was extracted."""
    reason: str = ""
    """Why there is no verdict, or why a program failed."""


def score(item: TaskItem, response: Response, judge: Judge = run_tests) -> Scored:
    """Return what a response is worth. Raises `Stopped` where a log-probability is not finite."""
    ask = item.ask
    if not all(map(math.isfinite, response.logprobs)):
        raise Stopped("the model gives log-probabilities that are not finite", where=f"{item.task}, item {item.id}")
    if ask.kind == "choices":
        return _choices(item, response)
    if ask.kind == "greedy":
        return Scored({"right": float(response.greedy)}, item.choices[0] if response.greedy else "")
    if ask.kind == "perplexity":
        return _perplexity(item, response)
    if ask.kind == "answers":
        return Scored({}, response.text, "it needs a judge")
    if ask.scorer in ("tests", "arguments"):
        return _tests(item, response.text, judge)
    if ask.scorer == "ifeval":
        return _ifeval(item, response.text)
    answer = extract(ask.extract, response.text)
    golds = item.gold if isinstance(item.gold, tuple) else (item.gold,)
    right = answer is not None and any(SCORERS[ask.scorer](answer, str(gold)) for gold in golds)
    return Scored({"right": float(right), "found": float(answer is not None)}, answer or "")


def _choices(item: TaskItem, response: Response) -> Scored:
    """Score the choice of the highest log-probability: their sum, and per character, byte and token."""
    sums, choices = list(response.logprobs), item.choices
    if len(sums) != len(choices) or len(response.tokens) != len(choices):
        raise UserError(f"{len(sums)} log-probabilities for {len(choices)} choices", where=f"item {item.id}")
    divisors = {
        "raw": [1] * len(sums),
        "char": [max(1, len(choice)) for choice in choices],
        "byte": [max(1, len(choice.encode())) for choice in choices],
        "token": [max(1, count) for count in response.tokens],
    }
    options = item.contexts or choices
    golds = {options[gold] for gold in (item.gold if isinstance(item.gold, tuple) else (item.gold,))
             if isinstance(gold, int)}  # fmt: skip
    components: dict[str, float] = {}
    taken = 0
    for name, lengths in divisors.items():
        best = max(range(len(sums)), key=lambda index, lengths=lengths: sums[index] / lengths[index])
        components[f"right_{name}"] = float(options[best] in golds)
        if name == item.ask.by:
            taken = best
    return Scored({"right": components[f"right_{item.ask.by}"], **components}, options[taken])


def _perplexity(item: TaskItem, response: Response) -> Scored:
    size = len(item.prompt.encode())
    return Scored({"nats": -sum(response.logprobs), "bytes": float(size), "tokens": float(sum(response.tokens))})


def _tests(item: TaskItem, text: str, judge: Judge) -> Scored:
    """Run the program with its tests. A completion that is a code block is taken out of it; where that holds the whole
    program, it stands for the whole."""
    language = fill(item.ask.language, item.row)
    completion, is_block = code_block(text)
    if item.ask.scorer == "arguments":
        completion = arguments(completion)
        if completion is None:
            return Scored({"right": 0.0}, text, "not the arguments of a call")
    parts = {**item.row, "completion": completion}
    program = fill(item.ask.program, parts)
    if is_block and item.messages and "{completion}" in item.ask.program:
        program = _before(item, language) + completion
    tests = fill(item.ask.tests, parts)
    if language == "typescript":
        return Scored({}, completion, "the sandbox does not know typescript")
    verdict = judge(Problem(tests, language=language), program)
    if verdict.state == "not run":
        return Scored({}, completion, verdict.reason)
    return Scored({"right": float(verdict.passed)}, completion, "" if verdict.passed else verdict.reason)


def _before(item: TaskItem, language: str) -> str:
    """Return what a whole program in Python may need of the prompt, its imports and other functions: a prompt that is a
    program by itself, as a function with only a docstring is."""
    head = fill(item.ask.program, {**item.row, "completion": ""})
    try:
        ast.parse(head if language == "python" else "(")
    except SyntaxError:
        return ""
    return f"{head}\n"


def arguments(text: str) -> str | None:
    """Return the arguments at the beginning of a text, without the bracket that closes their call; None where it does
    not begin with arguments and nothing but them. A text such as `1) or (1` is not the arguments of a call."""
    line = text.strip().partition("\n")[0][:10_000]
    line = line.removeprefix("f(") if line.startswith("f(") else line
    for candidate in (line, line.rstrip().removesuffix(")")):
        try:
            call = ast.parse(f"f({candidate})", mode="eval").body
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            continue
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name):
            return candidate
    return None


def _ifeval(item: TaskItem, text: str) -> Scored:
    """Score an answer by the rules of its instructions: as it is, and with the tolerance of the published script."""
    names, arguments = item.row["instruction_id_list"], item.row["kwargs"]
    strict = [follows(name, given, text) for name, given in zip(names, arguments, strict=True)]
    loose = [follows(name, given, text, loose=True) for name, given in zip(names, arguments, strict=True)]
    return Scored(
        {
            "right": float(all(strict)), "right_loose": float(all(loose)),
            "instructions": sum(strict) / len(strict), "instructions_loose": sum(loose) / len(loose),
        },
        text,
    )  # fmt: skip


_BLOCK = re.compile(r"```[ \t]*[\w+#-]*[ \t]*\n(.*?)(?:\n```|```|\Z)", re.DOTALL)


def code_block(text: str) -> tuple[str, bool]:
    """Return (the first code block of an answer, True), or (the text as it is, False)."""
    match = _BLOCK.search(text)
    return (match[1], True) if match else (text, False)


_NUMBER = re.compile(r"[-−]?\$?\d[\d,]*(?:\.\d+)?(?:\s*/\s*\d+)?%?")
_LETTERS = re.compile(r"[A-G]")
_ANSWER = re.compile(r"(?:答案|故选|[Aa]nswer)[^A-G]{0,12}")
_CONCLUSION = re.compile(r"answer is:?\s*(.*)", re.IGNORECASE)
_FINAL = re.compile(r"[Ff]inal [Aa]nswer(?: is)?:?(?: The final answer is)?\s*\$?(.+?)\$?\.?(?: I hope it is correct\.?)?\s*$", re.MULTILINE)  # fmt: skip # noqa: E501
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def _number(text: str) -> str | None:
    numbers = _NUMBER.findall(text)
    return numbers[-1].replace(",", "").replace("$", "").replace("−", "-") if numbers else None


def _hashes(text: str) -> str | None:
    _, mark, rest = text.partition("####")
    return _number(rest.strip().partition("\n")[0]) if mark else None


def _math(text: str) -> str | None:
    try:
        return boxed(text)
    except ValueError:
        finals = _FINAL.findall(text)
        return finals[-1].strip() if finals else (text.strip().split("\n")[0].strip(" $.") or None)


def _solution(text: str) -> str | None:
    try:
        return boxed(text)
    except ValueError:
        return _number(text)


def _letters(text: str) -> str | None:
    marks = list(_ANSWER.finditer(text))
    return "".join(_LETTERS.findall(text[marks[-1].end() :] if marks else text)) or None


def _conclusion(text: str) -> str | None:
    answers = _CONCLUSION.findall(text)
    return answers[-1].strip().rstrip(".") if answers else None


EXTRACTORS: dict[str, Callable[[str], str | None]] = {
    "": lambda text: text.strip(),
    "line": lambda text: text.strip().split("\n")[0].strip(),
    "number": _number,
    "hashes": _hashes,
    "math": _math,
    "solution": _solution,
    "letters": _letters,
    "conclusion": _conclusion,
}
"""How an answer is found in what was written; None where there is none."""


def extract(name: str, text: str) -> str | None:
    """Return the answer in a text, by the extractor of a name; None where there is none."""
    refuse_unnamed("extractor", [name], EXTRACTORS)
    return EXTRACTORS[name](text)


def _plain(text: str) -> str:
    """Return a text without case, articles, punctuation and blanks, as questions to be answered from memory compare."""
    text = _ARTICLES.sub(" ", text.lower())
    return " ".join(text.translate(str.maketrans("", "", string.punctuation)).split())


def _exact(answer: str, gold: str) -> bool:
    return _plain(answer) == _plain(gold) if _plain(gold) else answer.strip() == gold.strip()


def _near(answer: str, gold: str) -> bool:
    """Whether two numbers differ by a thousandth at most, absolutely or of the correct one."""
    try:
        value, wanted = float(answer.rstrip("%")), float(gold.replace(",", ""))
    except ValueError:
        return answers_equal(answer, gold)
    return abs(value - wanted) <= 1e-3 * max(1.0, abs(wanted)) if "." in gold else value == wanted


def _literal(answer: str, gold: str) -> bool:
    """Whether two Python literals are equal; nothing is evaluated."""
    try:
        values = [ast.literal_eval(text.strip()) for text in (answer, gold) if len(text) < 10_000]
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return answer.strip() == gold.strip()
    return len(values) == 2 and type(values[0]) is type(values[1]) and values[0] == values[1]


SCORERS: dict[str, Callable[[str, str], bool]] = {
    "exact": _exact,
    "answer": answers_equal,
    "number": _near,
    "letters": lambda answer, gold: answer == gold,
    "literal": _literal,
}
"""Whether an extracted answer is the correct one, (answer, gold) -> bool, by name."""
NAMES = (*SCORERS, "tests", "arguments", "ifeval", "perplexity", "none", "")
