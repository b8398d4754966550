"""Plain text for pretraining: facts, sums with written steps, word problems, dialogues, counting, reading passages.

    for row in texts(facts, seed, 60_000): row["text"]

The same world as the pages and chats, in the forms that small models learn from: several facts of one person side by
side, sums digit by digit with carry, lines to copy and pairs to look up (a third of all documents: without them a
model of a million parameters does not learn to copy from its context). Held-out summands and names never occur here
(`items` draws them by split).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from string import ascii_lowercase

from qwenkit.nano.chat import weighted
from qwenkit.nano.facts import LANGUAGES, RELATIONS, Facts, phrases, table, values
from qwenkit.nano.items import addition_steps, chosen_words, joined_steps, make, passing_name, summands
from qwenkit.nano.row_rng import RowRng, rows
from qwenkit.records import Row

LICENCE = "CC0-1.0"


def _space(language: str) -> str:
    return " " if language == "en" else ""


def biography(draw: RowRng, facts: Facts, language: str) -> str:
    """What is known of one person: all that can be asked for, in drawn order, and something besides."""
    who = draw.pick(facts.people)
    sentences = [facts.fact(draw, who, relation, language) for relation in draw.some(RELATIONS, 3)]
    extra = [facts.fact(draw, who, relation, language) for relation in draw.some(["year", "friend", "sibling"], 1)]
    return _space(language).join(sentences + extra)


def one_fact(draw: RowRng, facts: Facts, language: str) -> str:
    """Facts of different people, so that each is also met alone."""
    people = [draw.pick(facts.people) for _ in range(draw.integer(2, 4))]
    sentences = [facts.fact(draw, person, draw.pick(RELATIONS), language) for person in people]
    return _space(language).join(sentences)


def city(draw: RowRng, facts: Facts, language: str) -> str:
    """A city and one who lives there."""
    place = draw.pick(facts.cities)
    sentences = [facts.fact(draw, place, relation, language) for relation in draw.some(list(place.facts), 3)]
    living = [one for one in facts.people if one.facts["city"] == facts.cities.index(place)]
    return _space(language).join([*sentences, *(facts.fact(draw, one, "city", language) for one in living[:1])])


def sums(draw: RowRng, facts: Facts, language: str) -> str:
    """Three sums with their steps."""
    lines = []
    for _ in range(3):
        a, b = summands(draw, "train")
        answer = phrases("sum", language)["answer"].format(v=a + b)
        lines.append(f"{a}+{b}: {joined_steps(addition_steps(a, b), language)}{answer}")
    return "\n".join(lines)


def digits(draw: RowRng, facts: Facts, language: str) -> str:
    """The table of one-digit sums, from which the steps are made."""
    pairs = [(draw.integer(0, 9), draw.integer(0, 9), draw.integer(0, 1)) for _ in range(5)]
    return ", ".join(f"{a}+{b}+{c}={a + b + c}" if draw.chance(0.5) else f"{a}+{b}={a + b}" for a, b, c in pairs)


def problem(draw: RowRng, facts: Facts, language: str) -> str:
    """A word problem and its solution."""
    item = make("word", draw, facts, language)
    return _space(language).join([item.ask, item.steps + item.full])


def passage(draw: RowRng, facts: Facts, language: str) -> str:
    """A short text with a question and its answer behind it."""
    item = make("read", draw, facts, language)
    return f"{item.ask} {item.full}"


def counting(draw: RowRng, facts: Facts, language: str) -> str:
    start = draw.integer(0, 980)
    return (", " if language == "en" else "、").join(str(n) for n in range(start, start + draw.integer(5, 12)))


def dialogue(draw: RowRng, facts: Facts, language: str) -> str:
    """Two passing characters talk about somebody of the world."""
    a, b = (passing_name(draw, language, "train") for _ in range(2))
    item = make("fact", draw, facts, language)
    mark = ": " if language == "en" else "："
    return f"{a}{mark}{item.ask}\n{b}{mark}{item.full}"


def dictionary(draw: RowRng, facts: Facts, language: str) -> str:
    """Words in both languages, and opposites."""
    kind = draw.pick(["fruits", "pets", "jobs", "things", "colours", "cities"])
    pairs = draw.some(list(zip(values(kind, "en"), values(kind, "zh"))), 4)
    lines = [f"{en} = {zh}" if language == "en" else f"{zh} = {en}" for en, zh in pairs]
    a, b = (word[LANGUAGES.index(language)] for word in draw.pick(table("words")["opposites"]))
    return "\n".join([*lines, f"{a} <> {b}"])


def copied(draw: RowRng, facts: Facts, language: str) -> str:
    """A drawn line, twice or three times: the later lines can only be copied."""
    line = draw.pick([_words, _names, _names, _letters, _letters, _numbers])(draw, language)
    return "\n".join([line] * draw.integer(2, 3))


def _words(draw: RowRng, language: str) -> str:
    return _space(language).join(chosen_words(draw, language, "train", 4, 8))


def _names(draw: RowRng, language: str) -> str:
    names = [passing_name(draw, language, "train") for _ in range(draw.integer(2, 5))]
    return (", " if language == "en" else "、").join(names)


def _letters(draw: RowRng, language: str) -> str:
    """Letters or given-name characters in an order that nothing foretells (no surname: no name of a test)."""
    if language == "zh":
        return "".join(draw.pick(table("words")["givens"]) for _ in range(draw.integer(6, 16)))
    return " ".join("".join(draw.some(ascii_lowercase, 3)) for _ in range(draw.integer(2, 6)))


def _numbers(draw: RowRng, language: str) -> str:
    return " ".join(str(draw.integer(10, 99)) for _ in range(draw.integer(3, 8)))


def lookup(draw: RowRng, facts: Facts, language: str) -> str:
    """Names with a word each, and then the same pairs in another order: what reading a passage needs, and no more."""
    names = list(dict.fromkeys(passing_name(draw, language, "train") for _ in range(draw.integer(3, 5))))
    pairs = list(zip(names, draw.some(values(draw.pick(["jobs", "cities", "pets"]), language), len(names))))
    mark = " " if language == "en" else ""
    return "\n".join(", ".join(f"{name}:{mark}{word}" for name, word in draw.some(pairs, len(pairs))) for _ in range(3))


KINDS: dict[str, tuple[float, Callable[[RowRng, Facts, str], str]]] = {
    "person": (0.14, biography), "fact": (0.08, one_fact), "city": (0.03, city), "sums": (0.07, sums),
    "digits": (0.01, digits), "problem": (0.07, problem), "passage": (0.12, passage), "counting": (0.01, counting),
    "dialogue": (0.05, dialogue), "dictionary": (0.02, dictionary), "copied": (0.24, copied), "lookup": (0.16, lookup),
}  # fmt: skip


def texts(facts: Facts, seed: int, count: int) -> Iterator[Row]:
    """Documents of plain text."""
    shares = {kind: share for kind, (share, _) in KINDS.items()}
    for number, draw in enumerate(rows(seed, "text", count)):
        kind, language = weighted(draw, shares), draw.pick(LANGUAGES)
        yield {
            "id": f"text-{number:06d}", "text": KINDS[kind][1](draw, facts, language), "source": "text",
            "licence": LICENCE, "language": language, "task": kind,
        }  # fmt: skip
