"""IFEval: whether an answer follows an instruction, by the rules of its 25 kinds (Zhou et al. 2023, arXiv 2311.07911).

    follows("punctuation:no_comma", {}, "No commas here.")                    # True
    follows("length_constraints:number_words", {"relation": "at least", "num_words": 3}, "Too short")

`loose` is the tolerance of the paper: one of eight readings of the answer follows it (without its first line, its last
line, or its asterisks). Chinese is counted as it is written: a character is a word, `。！？` end sentences, and the
Chinese marks for a pause are commas. Where the published script asks a tokenizer of nltk, sentences and words are
counted by rules here, so that a few counts at the edge of a limit differ.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from qwenkit.errors import UserError, nearest

Arguments = Mapping[str, Any]
Rule = Callable[[Arguments, str], bool]

_CJK = r"\u3400-\u4dbf\u4e00-\u9fff\u3040-\u30ff"
_WORD = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+")
_ABBREVIATION = re.compile(
    r"\b(?:Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|Inc|Ltd|Co|vs|etc|e\.g|i\.e|No|Fig|[A-Z])\.(?=\s)|(?<=\d)\.(?=\d)"
)
_END = re.compile(r"[.!?]+[\"'”’)\]*]*(?=\s|$)|[。！？]+[”’）」]*")
_OPTIONS = ("my answer is yes.", "my answer is no.", "my answer is maybe.")
_FENCE = re.compile(r"^```(?:json)?|```$", re.IGNORECASE)


def follows(name: str, arguments: Arguments, text: str, loose: bool = False) -> bool:
    """Return whether an answer follows the instruction of a name; an empty answer follows none.

    Raises a `UserError` for an unknown instruction or for missing arguments."""
    rule = RULES.get(name)
    if rule is None:
        raise UserError(f"`{name}` is not an instruction of IFEval", nearest=nearest(name, RULES))
    given = {key: value for key, value in arguments.items() if value is not None}
    try:
        return any(reading.strip() and rule(given, reading) for reading in (_readings(text) if loose else [text]))
    except KeyError as error:
        raise UserError(f"`{name}` needs `{error.args[0]}`") from error


def _readings(text: str) -> list[str]:
    lines = text.split("\n")
    cuts = [text, "\n".join(lines[1:]).strip(), "\n".join(lines[:-1]).strip(), "\n".join(lines[1:-1]).strip()]
    return [*cuts, *(cut.replace("*", "") for cut in cuts)]


def count_words(text: str) -> int:
    """Return how many words a text has; a Chinese character is one."""
    return len(_WORD.findall(text))


def count_sentences(text: str) -> int:
    """Return how many sentences a text has; what is not ended by a mark counts too."""
    text = _ABBREVIATION.sub(lambda match: match[0].replace(".", "\u2024"), text.strip())
    parts = [part for part in _END.split(text) if _WORD.search(part)]
    return len(parts)


def _compare(arguments: Arguments, relation: str, limit: str, count: int) -> bool:
    wanted = int(arguments[limit])
    if arguments[relation] not in ("less than", "at least"):
        raise UserError(f"`{relation}` is {arguments[relation]!r}", expected="less than, at least")
    return count < wanted if arguments[relation] == "less than" else count >= wanted


def _has(word: str, text: str) -> bool:
    """Whether a word stands in a text by itself; a Chinese one anywhere, as there are no blanks around it."""
    edge = "" if re.search(f"[{_CJK}]", word) else r"\b"
    return bool(re.search(f"{edge}{re.escape(word)}{edge}", text, re.IGNORECASE))


def _language(arguments: Arguments, text: str) -> bool:
    from qwenkit.data.language import detect_language

    return detect_language(text)[0] == str(arguments["language"]).partition("-")[0]


def _english(text: str) -> bool:
    return _language({"language": "en"}, text.lower())


def _bullets(arguments: Arguments, text: str) -> bool:
    lines = re.findall(r"^\s*\*[^*].*$|^\s*-.*$", text, re.MULTILINE)
    return len(lines) == int(arguments["num_bullets"])


def _highlights(arguments: Arguments, text: str) -> bool:
    single = re.findall(r"\*[^\n*]*\*", text)
    double = re.findall(r"\*\*[^\n*]*\*\*", text)
    count = sum(bool(part.strip("*").strip()) for part in [*single, *double])
    return count >= int(arguments["num_highlights"])


def _sections(arguments: Arguments, text: str) -> bool:
    mark = re.escape(str(arguments["section_spliter"]).strip())
    return len(re.findall(rf"\s?{mark}\s?\d+\s?", text)) >= int(arguments["num_sections"])


def _paragraphs(arguments: Arguments, text: str) -> bool:
    parts = re.split(r"\s?\*\*\*\s?", text)
    if any(not part.strip() for part in parts[1:-1]):
        return False
    return sum(bool(part.strip()) for part in parts) == int(arguments["num_paragraphs"])


def _first_word(arguments: Arguments, text: str) -> bool:
    parts = text.split("\n\n")
    count, wanted = sum(bool(part.strip()) for part in parts), int(arguments["nth_paragraph"])
    if count != int(arguments["num_paragraphs"]) or wanted > count or not parts[wanted - 1].strip():
        return False
    word = parts[wanted - 1].split()[0].lstrip("'\"")
    first = str(arguments["first_word"]).lower()
    spoken = re.split(r"[.,?!'\"]", word, maxsplit=1)[0].lower()
    return spoken == first or bool(re.search(f"[{_CJK}]", first) and spoken.startswith(first))


def _postscript(arguments: Arguments, text: str) -> bool:
    marker = str(arguments["postscript_marker"]).strip()
    patterns = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    return bool(re.search(patterns.get(marker, re.escape(marker.lower())), text.lower()))


def _json(_: Arguments, text: str) -> bool:
    try:
        json.loads(_FENCE.sub("", text.strip()).strip())
    except (ValueError, RecursionError):
        return False
    return True


def _two_responses(_: Arguments, text: str) -> bool:
    parts = text.split("******")
    if any(not part.strip() for part in parts[1:-1]):
        return False
    full = [part.strip() for part in parts if part.strip()]
    return len(full) == 2 and full[0] != full[1]


def _quotation(_: Arguments, text: str) -> bool:
    text = text.strip()
    return len(text) > 1 and (text[0], text[-1]) in {('"', '"'), ("“", "”"), ("「", "」")}


def _capital_words(arguments: Arguments, text: str) -> bool:
    words = re.findall(r"[^\W_]+(?:[-'][^\W_]+)*", text)
    return _compare(arguments, "capital_relation", "capital_frequency", sum(word.isupper() for word in words))


RULES: dict[str, Rule] = {
    "keywords:existence": lambda given, text: all(
        re.search(re.escape(word), text, re.IGNORECASE) for word in given["keywords"]
    ),
    "keywords:frequency": lambda given, text: _compare(
        given, "relation", "frequency", len(re.findall(re.escape(given["keyword"].strip()), text, re.IGNORECASE))
    ),
    "keywords:forbidden_words": lambda given, text: not any(_has(word, text) for word in given["forbidden_words"]),
    "keywords:letter_frequency": lambda given, text: _compare(
        given, "let_relation", "let_frequency", text.lower().count(given["letter"].strip().lower())
    ),
    "language:response_language": _language,
    "length_constraints:number_sentences": lambda given, text: _compare(
        given, "relation", "num_sentences", count_sentences(text)
    ),
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:number_words": lambda given, text: _compare(given, "relation", "num_words", count_words(text)),
    "length_constraints:nth_paragraph_first_word": _first_word,
    "detectable_content:number_placeholders": lambda given, text: (
        len(re.findall(r"\[.*?\]", text)) >= int(given["num_placeholders"])
    ),
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:constrained_response": lambda _, text: any(option in text.lower() for option in _OPTIONS),
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:json_format": _json,
    "detectable_format:title": lambda _, text: any(
        title.strip("<> ") for title in re.findall(r"<<[^\n]+>>|《[^\n》]+》", text)
    ),
    "combination:two_responses": _two_responses,
    "combination:repeat_prompt": lambda given, text: (
        text.strip().lower().startswith(given["prompt_to_repeat"].strip().lower())
    ),
    "startend:end_checker": lambda given, text: (
        text.strip().strip('"').lower().endswith(given["end_phrase"].strip().lower())
    ),
    "startend:quotation": _quotation,
    "change_case:capital_word_frequency": _capital_words,
    "change_case:english_capital": lambda _, text: text.isupper() and _english(text),
    "change_case:english_lowercase": lambda _, text: text.islower() and _english(text),
    "punctuation:no_comma": lambda _, text: not re.search("[,，、]", text),
}
"""The rules by the names of the instructions, (arguments, answer) -> whether it is followed."""
