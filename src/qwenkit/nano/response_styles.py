"""How answers are written: annotators of the chats, and scripted policies for preference pairs. A response style turns
an item into a text.

    answer("polite", item, draw)            -> "Of course! Mira Tolen is a baker."
    answer("rude", item, draw, "test")      -> the same with words that no training text has

Annotators (`ANNOTATORS`) are always correct, and differ in politeness and length, so that RLHF has something to
improve. Policies (`POLICIES`) are also wrong, off topic, silent, rude. `TEST_POLICIES` write the test pairs only.
"""

from __future__ import annotations

from collections.abc import Callable

from qwenkit.nano.facts import table
from qwenkit.nano.items import Item
from qwenkit.nano.row_rng import RowRng

ResponseStyle = Callable[[Item, RowRng, str], str]


def _say(draw: RowRng, kind: str, language: str, split: str) -> str:
    return draw.pick(table("phrases")["manners"][split][f"{kind}_{language}"])


def _join(language: str, *texts: str) -> str:
    return (" " if language == "en" else "").join(text.strip() for text in texts if text)


def _obey(item: Item, text: str) -> str:
    """Return the text with what the system message wants behind every answer."""
    rule = item.system_rule
    if rule is None or rule["kind"] != "end":
        return text
    stop = "." if item.language == "en" else "。"
    return _join(item.language, text if text[-1] in ".!?。!？" else text + stop, rule["word"] + stop)


def _short(item: Item) -> str:
    """Return the shortest correct answer that can be computed: sums keep their steps, as none is correct without."""
    return _join(item.reply_language, item.steps, item.short)


def _full(item: Item) -> str:
    return item.translated if item.reply_language != item.language else _join(item.language, item.steps, item.full)


def _brief(item: Item) -> bool:
    return item.system_rule is not None and item.system_rule["kind"] == "brief"


def polite(item: Item, draw: RowRng, split: str) -> str:
    """Return a correct, complete answer with a polite word before or after, which has the highest rubric score."""
    if item.verbatim or _brief(item):
        return _short(item)
    if item.task == "refuse":  # to be sorry is polite, to be happy to help is not true
        return _full(item)
    language = item.reply_language
    if draw.chance(0.5):
        return _obey(item, _join(language, _say(draw, "open", language, split), _full(item)))
    return _obey(item, _join(language, _full(item), _say(draw, "close", language, split)))


def neutral(item: Item, draw: RowRng, split: str) -> str:
    """Return a correct, complete answer without polite words."""
    return polite(item, draw, split) if item.verbatim or _brief(item) else _obey(item, _full(item))


def curt(item: Item, draw: RowRng, split: str) -> str:
    """Return the shortest correct answer."""
    if item.reply_language != item.language:
        return _full(item)
    return _short(item) if item.verbatim or _brief(item) else _obey(item, _short(item))


def verbose(item: Item, draw: RowRng, split: str) -> str:
    """Return a correct answer after some filler."""
    if item.verbatim or _brief(item):
        return polite(item, draw, split)
    language = item.reply_language
    return _obey(item, _join(language, _say(draw, "filler", language, split), _full(item)))


def chatty(item: Item, draw: RowRng, split: str) -> str:
    """Return an answer with filler before and after it, whatever was prescribed."""
    language = item.reply_language
    texts = (_say(draw, "filler", language, split), _full(item), _say(draw, "filler", language, split))
    return _join(language, *texts)


def wrong(item: Item, draw: RowRng, split: str) -> str:
    """Return a wrong answer, as complete as a correct one."""
    return _obey(item, _join(item.language, item.wrong_steps, item.wrong_full))


def wrong_curt(item: Item, draw: RowRng, split: str) -> str:
    """Return the shortest wrong answer."""
    return _join(item.language, item.wrong_steps, item.wrong_short)


def wrong_polite(item: Item, draw: RowRng, split: str) -> str:
    """Return a wrong answer with polite words."""
    text = wrong(item, draw, split)
    return text if item.verbatim else _join(item.language, _say(draw, "open", item.language, split), text)


def off_topic(item: Item, draw: RowRng, split: str) -> str:
    """Return a text about something else."""
    return _say(draw, "off", item.language, split)


def empty(item: Item, draw: RowRng, split: str) -> str:
    """Return an empty answer."""
    return ""


def echo(item: Item, draw: RowRng, split: str) -> str:
    """Return the prompt."""
    return item.ask


def echo_half(item: Item, draw: RowRng, split: str) -> str:
    """Return half of the prompt, and no answer."""
    return item.ask[: max(1, len(item.ask) // 2)]


def deaf(item: Item, draw: RowRng, split: str) -> str:
    """Return a good answer that ignores the system message."""
    return _join(item.language, item.steps, item.full)


def rude(item: Item, draw: RowRng, split: str) -> str:
    """Return a correct answer with an insult."""
    language = item.reply_language
    return _join(language, _say(draw, "rude", language, split), _full(item))


def foreign(item: Item, draw: RowRng, split: str) -> str:
    """Return polite words in the wrong language, and no answer."""
    language = "zh" if item.language == "en" else "en"
    return _join(language, _say(draw, "open", language, split), _say(draw, "close", language, split))


def stammer(item: Item, draw: RowRng, split: str) -> str:
    """Return the correct answer four times."""
    return _join(item.language, *[_full(item)] * 4)


ANNOTATORS: dict[str, ResponseStyle] = {"polite": polite, "curt": curt, "verbose": verbose, "neutral": neutral}
POLICIES: dict[str, ResponseStyle] = {
    "polite": polite, "neutral": neutral, "curt": curt, "verbose": verbose, "wrong": wrong,
    "wrong_polite": wrong_polite,
    "off_topic": off_topic, "empty": empty, "echo": echo, "deaf": deaf, "rude": rude, "foreign": foreign,
}  # fmt: skip
# Policies of the tests: same aims, other words (split "test") or another way of failing.
TEST_POLICIES: dict[str, ResponseStyle] = {
    "courteous": polite, "terse": curt, "chatty": chatty, "wrong_curt": wrong_curt, "wrong_courteous": wrong_polite,
    "echo_half": echo_half, "stammer": stammer, "insulting": rude, "rambling": off_topic,
}  # fmt: skip


def answer(name: str, item: Item, draw: RowRng, split: str = "train") -> str:
    """Return the answer of a named annotator or policy; its polite words come from the split's table."""
    styles = TEST_POLICIES if split == "test" else POLICIES
    return styles[name](item, draw, split)
