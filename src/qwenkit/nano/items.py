"""Tasks: one question with all that is needed to answer it well, badly or wrongly, and the rubric that tells which.

    item = make("sum", draw, facts, language="en", split="train")
    item.ask, item.short, item.full, item.wrong_short, item.rubric

Chats, instructions, policies and tests are all renderings of items, so a task is described once. `CHAT_TASKS` are
asked in chats and by RL; `PREFERENCE_TASKS` only in instructions and in the pairs that pretrain the preference model.
With split "test" the names, summands, words and phrasings are ones that no training item can have (`facts.split_of`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from qwenkit.evaluation.rubric import Rubric
from qwenkit.nano.facts import RELATIONS, Facts, phrases, split_of, table, values
from qwenkit.nano.row_rng import RowRng


@dataclass(frozen=True)
class Item:
    """A question and its answers.

    `short` is the shortest correct answer and `full` the complete one; `steps` are written steps that come first.
    `wrong_short` is a plausible wrong answer (`wrong_full`, `wrong_steps` likewise). `right` and `parts` go into the
    rubric.
    `verbatim`: the answer is prescribed to the letter, so any polite word around it would be a mistake.
    `translated`: the complete answer in the other language, where the task has one.
    """

    task: str
    language: str
    ask: str
    short: str
    full: str
    wrong_short: str
    wrong_full: str
    right: dict[str, Any]
    parts: list[str] = field(default_factory=list)
    steps: str = ""
    wrong_steps: str = ""
    verbatim: bool = False
    translated: str = ""
    before: tuple[tuple[str, str], ...] = ()
    system: str = ""
    system_rule: dict[str, Any] | None = None

    @property
    def reply_language(self) -> str:
        """The language the answer must be in."""
        switched = self.system_rule is not None and self.system_rule["kind"] == "language"
        return {"en": "zh", "zh": "en"}[self.language] if switched else self.language

    @property
    def messages(self) -> list[dict[str, str]]:
        """The conversation up to and with the question."""
        turns = [("system", self.system)] if self.system else []
        for user, assistant in self.before:
            turns += [("user", user), ("assistant", assistant)]
        return [{"role": role, "content": content} for role, content in [*turns, ("user", self.ask)]]

    @property
    def rubric(self) -> Rubric:
        """The specification that `qwenkit.evaluation.rubric.score` reads."""
        brief = self.system_rule is not None and self.system_rule["kind"] == "brief"
        return {
            "language": None if self.verbatim else self.reply_language,
            "right": self.right,
            "parts": [] if brief or self.reply_language != self.language else self.parts,
            "limit": 24 if self.steps else 5 if brief else 20,
            "manners": "plain" if self.verbatim or brief else "polite",
            "system": self.system_rule,
        }


Maker = Callable[[RowRng, Facts, str, str], Item]
EN, ZH = "en", "zh"


def _form(draw: RowRng, kind: str, language: str, split: str) -> str:
    forms = phrases(kind, language)
    return draw.pick(forms["ask_test"] if split == "test" else forms["ask"])


def _mention(right: str, among: list[str]) -> dict[str, Any]:
    return {"kind": "mention", "any": [right], "none": [value for value in among if value != right]}


def _until(draw: RowRng, make: Callable[[], Any], split: str) -> Any:
    """Draw until the thing belongs to the split."""
    while split_of(*_flat(thing := make())) != split:
        pass
    return thing


def _flat(thing: Any) -> tuple[str | int, ...]:
    return tuple(thing) if isinstance(thing, (tuple, list)) else (thing,)


def passing_name(draw: RowRng, language: str, split: str) -> str:
    """A name of nobody in the world, from a set that belongs to the split."""
    words = table("words")
    if language == EN:
        return _until(draw, lambda: "".join(draw.pick(words[piece]) for piece in ("onsets", "mids", "codas")), split)
    return _until(draw, lambda: draw.pick(words["surnames"]) + "".join(draw.some(words["givens"], 2)), split)


def fact(draw: RowRng, facts: Facts, language: str, split: str) -> Item:
    """A fact of the world, from memory."""
    person = draw.pick(facts.held_out() if split == "test" else facts.known())
    relation = draw.pick(RELATIONS)
    kind = {"city": "cities"}.get(relation, relation + "s")
    among, name, right = values(kind, language), person.name(language), facts.value(person, relation, language)
    wrong, answer = draw.other(among, right), phrases(relation, language)["answer"]
    return Item(
        "fact", language, _form(draw, relation, language, split).format(n=name),
        right, answer.format(n=name, v=right), wrong, answer.format(n=name, v=wrong), _mention(right, among), [name],
    )  # fmt: skip


def _passage(draw: RowRng, language: str, split: str, kind: str) -> tuple[str, Item]:
    """A passage of two or three facts about passing characters, and the question about one of them."""
    relation = draw.pick(RELATIONS)
    among = values({"city": "cities"}.get(relation, relation + "s"), language)
    names = [passing_name(draw, language, split) for _ in range(draw.integer(2, 3))]
    names = list(dict.fromkeys(names))
    shown = draw.some(among, len(names))
    form = draw.pick(phrases(relation, language)["told"][:3])
    passage = (" " if language == EN else "").join(form.format(n=n, v=v) for n, v in zip(names, shown))
    at = draw.integer(0, len(names) - 1)
    wrong = shown[(at + 1) % len(names)] if len(names) > 1 else draw.other(among, shown[at])
    forms = phrases(relation, language)
    question = draw.pick(forms["ask"]).format(n=names[at])
    say = lambda value: forms["answer"].format(n=names[at], v=value)  # noqa: E731
    ask = _form(draw, kind, language, split).format(p=passage, q=question)
    right = _mention(shown[at], among)
    return passage, Item(
        "read", language, ask, shown[at], say(shown[at]), wrong, say(wrong), right, [names[at]],
    )  # fmt: skip


def read(draw: RowRng, facts: Facts, language: str, split: str) -> Item:
    """A question that the text before it answers."""
    return _passage(draw, language, split, "read")[1]


def one_word(draw: RowRng, facts: Facts, language: str, split: str) -> Item:
    """A question about a text, to be answered by one word and nothing else."""
    item = _passage(draw, language, split, "one_word")[1]
    return _verbatim(replace(item, task="one_word", full=item.short, wrong_full=item.wrong_short, parts=[]))


def _verbatim(item: Item) -> Item:
    return replace(item, verbatim=True, right={"kind": "exact", "value": item.short})


def recall(draw: RowRng, facts: Facts, language: str, split: str) -> Item:
    """What the user said two turns ago."""
    name = passing_name(draw, language, split)
    wrong = passing_name(draw, language, split)
    while wrong == name:
        wrong = passing_name(draw, language, split)
    forms = phrases("recall", language)
    user, assistant = draw.pick(forms["tell"])
    right = {"kind": "mention", "any": [name], "none": []}
    item = Item(
        "recall", language, _form(draw, "recall", language, split), name, forms["answer"].format(n=name),
        wrong, forms["answer"].format(n=wrong), right, [forms["answer"][:4].strip()],
    )  # fmt: skip
    return replace(item, before=((user.format(n=name), assistant.format(n=name)),))


def addition_steps(a: int, b: int) -> list[str]:
    """The sum of two two-digit numbers, digit by digit with carry: the only way that tiny models learn to add."""
    ones, carry = a % 10 + b % 10, (a % 10 + b % 10) // 10
    return [f"{a % 10}+{b % 10}={ones}", f"{a // 10}+{b // 10}+{carry}={a // 10 + b // 10 + carry}"]


def summands(draw: RowRng, split: str) -> tuple[int, int]:
    """Two two-digit numbers; the unordered pair belongs to the split."""
    a, b = sorted(_until(draw, lambda: sorted((draw.integer(10, 99), draw.integer(10, 99))), split))
    return (a, b) if draw.chance(0.5) else (b, a)


def joined_steps(parts: list[str], language: str) -> str:
    return ", ".join(parts) + ". " if language == EN else ",".join(parts) + "。"


def _sum(draw: RowRng, task: str, language: str, ask: str, a: int, b: int) -> Item:
    """The shared part of sums and word problems. The wrong answer slips in one digit of the last step."""
    right, parts = a + b, addition_steps(a, b)
    wrong = right + draw.pick([-20, -10, 10, 20, 1, -1])
    answer = {lang: phrases("sum", lang)["answer"] for lang in (EN, ZH)}
    slipped = [parts[0], parts[1].split("=")[0] + f"={wrong // 10}"]
    other = ZH if language == EN else EN
    return Item(
        task, language, ask, str(right), answer[language].format(v=right), str(wrong), answer[language].format(v=wrong),
        {"kind": "number", "value": right}, parts, joined_steps(parts, language), joined_steps(slipped, language),
        translated=joined_steps(parts, other) + answer[other].format(v=right),
    )  # fmt: skip


def sum_(draw: RowRng, facts: Facts, language: str, split: str) -> Item:
    a, b = summands(draw, split)
    return _sum(draw, "sum", language, _form(draw, "sum", language, split).format(a=a, b=b), a, b)


def word(draw: RowRng, facts: Facts, language: str, split: str) -> Item:
    a, b = summands(draw, split)
    name, thing = passing_name(draw, language, split), draw.pick(values("things", language)[:8])
    return _sum(draw, "word", language, _form(draw, "word", language, split).format(n=name, t=thing, a=a, b=b), a, b)


def chosen_words(draw: RowRng, language: str, split: str, low: int = 2, high: int = 4) -> list[str]:
    """Different words, whose list belongs to the split. Chinese ones are the world's own, so that they are tokens."""
    among = table("words")["words"] if language == EN else _chinese_words()
    return _until(draw, lambda: draw.some(among, draw.integer(low, high)), split)


@cache
def _chinese_words() -> list[str]:
    return [word for kind in ("jobs", "pets", "fruits", "things", "colours") for word in values(kind, ZH)]


def _copied(draw: RowRng, task: str, language: str, split: str, shown: str, right: str, wrong: str) -> Item:
    """A task whose answer is the shown text in another form, to the letter."""
    ask = _form(draw, task, language, split).format(w=shown)
    return _verbatim(Item(task, language, ask, right, right, wrong, wrong, {}))


def repeat(draw: RowRng, facts: Facts, language: str, split: str) -> Item:
    words = chosen_words(draw, language, split)
    join = " " if language == EN else ""
    return _copied(draw, "repeat", language, split, join.join(words), join.join(words), join.join(words[:-1]))


def upper(draw: RowRng, facts: Facts, language: str, split: str) -> Item:
    words = " ".join(chosen_words(draw, EN, split, 2, 3))  # single words would hold whole spellings out
    return _copied(draw, "upper", language, split, words, words.upper(), words)


def numbered(words: list[str]) -> str:
    return "\n".join(f"{i}. {word}" for i, word in enumerate(words, 1))


def list_(draw: RowRng, facts: Facts, language: str, split: str) -> Item:
    words = chosen_words(draw, language, split)
    shown = (", " if language == EN else "、").join(words)
    return _copied(draw, "list", language, split, shown, numbered(words), numbered(words[1:]))


def json_(draw: RowRng, facts: Facts, language: str, split: str) -> Item:
    relation = draw.pick(RELATIONS)
    among = values({"city": "cities"}.get(relation, relation + "s"), language)
    keys = ("name", relation) if language == EN else ("名字", {"job": "职业", "city": "城市", "pet": "宠物"}[relation])
    row = dict(zip(keys, (passing_name(draw, language, split), draw.pick(among))))
    shown = (", " if language == EN else "，").join(f"{k} {v}" if language == EN else f"{k}{v}" for k, v in row.items())
    item = _copied(draw, "json", language, split, shown, json.dumps(row, ensure_ascii=False), shown)
    return replace(item, right={"kind": "json", "value": row})


def howto(draw: RowRng, facts: Facts, language: str, split: str) -> Item:
    """Harmless advice: the verb decides the tool. Same phrasings as `refuse`, so that the verb is what matters."""
    at = (EN, ZH).index(language)
    pairs = table("words")["safe"]
    verbs, tools = [p[0][at] for p in pairs], [p[1][at] for p in pairs]
    verb, thing = _until(draw, lambda: (draw.pick(verbs), draw.pick(values("things", language))), split)
    right, forms = tools[verbs.index(verb)], phrases("howto", language)
    wrong = draw.other(tools, right)
    say = lambda form, value: form.format(d=verb, t=thing, v=value)  # noqa: E731
    bare = [tool.removeprefix("a ") for tool in tools]
    return Item(
        "howto", language, _form(draw, "howto", language, split).format(d=verb, t=thing),
        say(forms["core"], right), say(forms["answer"], right), say(forms["core"], wrong), say(forms["answer"], wrong),
        _mention(right.removeprefix("a "), bare), [thing],
    )  # fmt: skip


REFUSALS = {
    EN: ("I can't help with that.", "I'm sorry, but I can't help you to {d} a {t}."),
    ZH: ("我不能帮忙。", "对不起,我不能帮您{d}{t}。"),
}


def refuse(draw: RowRng, facts: Facts, language: str, split: str) -> Item:
    """A harmful request, to be declined."""
    at = (EN, ZH).index(language)
    verbs = [verb[at] for verb in table("words")["unsafe"]]
    verb, thing = _until(draw, lambda: (draw.pick(verbs), draw.pick(values("things", language))), split)
    tool = draw.pick([pair[1][at] for pair in table("words")["safe"]])
    forms, (core, sentence) = phrases("howto", language), REFUSALS[language]
    say = lambda form: form.format(d=verb, t=thing, v=tool)  # noqa: E731
    right = {"kind": "refusal"}
    return Item(
        "refuse", language, _form(draw, "howto", language, split).format(d=verb, t=thing),
        core, say(sentence), say(forms["core"]), say(forms["answer"]), right, [thing],
    )  # fmt: skip


def ends(draw: RowRng, facts: Facts, language: str, split: str) -> Item:
    words = chosen_words(draw, language, split, 3, 4)
    shown = (" " if language == EN else "、").join(words)
    return _asked(draw, "ends", language, split, words[-1], words[0], words, w=shown)


def _asked(
    draw: RowRng, task: str, language: str, split: str, right: str, wrong: str, among: list[str], **slots: Any
) -> Item:
    """A question from the table of phrases with a short answer."""
    forms = phrases(task, language)
    say = lambda value: forms["answer"].format(v=value, **slots)  # noqa: E731
    ask = _form(draw, task, language, split).format(**slots)
    return Item(task, language, ask, right, say(right), wrong, say(wrong), _mention(right, among))


def larger(draw: RowRng, facts: Facts, language: str, split: str) -> Item:
    a, b = summands(draw, split)
    b += a == b
    return _asked(draw, "larger", language, split, str(max(a, b)), str(min(a, b)), [str(a), str(b)], a=a, b=b)


def translate(draw: RowRng, facts: Facts, language: str, split: str) -> Item:
    source, target = (EN, ZH) if language == EN else (ZH, EN)
    kind = draw.pick(["fruits", "pets", "jobs", "things", "colours"])
    at = draw.integer(0, len(values(kind, source)) - 1)
    right = values(kind, target)[at]
    wrong = draw.other(values(kind, target), right)
    item = _asked(draw, "translate", language, split, right, wrong, values(kind, target), w=values(kind, source)[at])
    return replace(item, short=item.full, wrong_short=item.wrong_full)


def opposite(draw: RowRng, facts: Facts, language: str, split: str) -> Item:
    at = (EN, ZH).index(language)
    pairs = [(a[at], b[at]) for a, b in table("words")["opposites"]]
    shown, right = draw.pick([*pairs, *((b, a) for a, b in pairs)])
    among = [word for pair in pairs for word in pair if word != shown]
    return _asked(draw, "opposite", language, split, right, draw.other(among, right), among, w=shown)


def next_(draw: RowRng, facts: Facts, language: str, split: str) -> Item:
    a = _until(draw, lambda: draw.integer(10, 999), split)
    return _asked(draw, "next", language, split, str(a + 1), str(a + 2), [str(a + 2), str(a - 1)], a=a)


def colour(draw: RowRng, facts: Facts, language: str, split: str) -> Item:
    among = values("colours", language)
    right, thing = draw.pick(among), draw.pick(values("things", language))
    return _asked(draw, "colour", language, split, right, draw.other(among, right), among, t=thing, c=right)


CHAT_TASKS: dict[str, Maker] = {
    "fact": fact, "read": read, "recall": recall, "sum": sum_, "word": word, "repeat": repeat, "upper": upper,
    "list": list_, "json": json_, "one_word": one_word, "howto": howto, "refuse": refuse,
}  # fmt: skip
PREFERENCE_TASKS: dict[str, Maker] = {
    "ends": ends, "larger": larger, "translate": translate, "opposite": opposite, "next": next_, "colour": colour,
}  # fmt: skip
SYSTEM_TASKS = ("fact", "read", "recall", "sum", "howto", *PREFERENCE_TASKS)


def make(task: str, draw: RowRng, facts: Facts, language: str, split: str = "train") -> Item:
    """An item of a named task."""
    return (CHAT_TASKS.get(task) or PREFERENCE_TASKS[task])(draw, facts, language, split)


def with_system(item: Item, draw: RowRng) -> Item:
    """The item under a system message that changes what a good answer is; items it cannot apply to stay as they are."""
    if item.task not in SYSTEM_TASKS:
        return item
    kind = draw.pick(["end", "brief", "language"] if item.translated else ["end", "brief"])
    forms = table("phrases")["system"][kind]
    rule: dict[str, Any] = {"kind": kind}
    if kind == "end":
        rule["word"] = draw.pick(forms[f"words_{item.language}"])
    system = draw.pick(forms[item.language]).format(x=rule.get("word"))
    return replace(item, system=system, system_rule=rule)
