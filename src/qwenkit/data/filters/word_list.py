"""Lists of words that a text should not contain, by language: a user's own files, searched fast at any length.

    lists = read_lists(Path("badwords"))      {"en": ("word", "two words"), "zh": (...)}; "" is for every language
    WordLists(lists).counts(text, "en")       how often each listed word that the text holds stands in it

A word or phrase counts between borders of words; those of scripts without spaces, and of the lists of Japanese, Thai
and Chinese, anywhere, as in C4. A list is looked up by one part of each entry (its longest word, or its first two
characters), and only entries whose part the text holds are searched for: time grows with the text, not with the list.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from qwenkit.data.text_units import is_unspaced
from qwenkit.errors import UserError

Lists = dict[str, tuple[str, ...]]
_ANYWHERE = ("ja", "th", "zh")
_COMMON = {"ja": ("sm", "グロ", "女の子"), "zh": ("性",)}  # parts of everyday words, which C4 takes out of these lists
_WORD = re.compile(r"\w+")
_LANGUAGE = re.compile(r"([a-z]{2,3})(?:-[\w-]+)?(?:\.txt)?")  # en, zh.txt, fr-CA-u-sd-caqc


def read_lists(path: Path) -> Lists:
    """Return the words of a file, or of a folder with one file for each language, by language code; "" is for every
    language.

    A file has one word or phrase a line, and `#` begins a comment. Files of a folder are named by language (`en`,
    `zh.txt`); README and LICENSE are ignored. Raises a `UserError` for other files, and for lists without words."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    by_language: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for file in files:
        match = _LANGUAGE.fullmatch(file.name)
        if path.is_dir() and (file.name.startswith(".") or file.stem.isupper()):
            continue
        if path.is_dir() and not match:
            raise UserError("not a list of words", where=str(file), expected="files named by a language: en, zh.txt")
        by_language[match[1] if match else ""].update(dict.fromkeys(_lines(file)))
    lists = {language: tuple(words) for language, words in by_language.items() if words}
    if not lists:
        raise UserError("no words in this list", where=str(path), expected="one word or phrase a line")
    return lists


def _lines(file: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError("not UTF-8", where=str(file), expected="one word or phrase a line") from error
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


class WordLists:
    """Lists of words by language, indexed for searching."""

    def __init__(self, lists: Mapping[str, Sequence[str]]) -> None:
        """Index the words of each list."""
        self._between: dict[str, dict[str, list[str]]] = {}  # language -> longest word -> entries between borders
        self._anywhere: dict[str, dict[str, list[str]]] = {}  # language -> first two characters -> entries
        for language, words in lists.items():
            between, anywhere = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
            for word in dict.fromkeys(map(_plain, words)):
                if word in _COMMON.get(language, ()):
                    continue
                if language in _ANYWHERE or is_unspaced(word):
                    anywhere[word[:2]].append(word)
                else:
                    between[max(_WORD.findall(word), key=len, default="")].append(word)
            self._between[language], self._anywhere[language] = between, anywhere

    def counts(self, text: str, language: str) -> list[int]:
        """Return how often each entry of the language's list, or of the list for all, occurs in a text; zeros are left
        out."""
        plain = _plain(text)
        words = {"", *_WORD.findall(plain)}
        pairs = {*plain, *map("".join, pairwise(plain))} if self._anywhere_in(language) else set()
        counts = []
        for name in {"", language} & self._between.keys():
            between, anywhere = self._between[name], self._anywhere[name]
            entries = [entry for part in words & between.keys() for entry in between[part]]
            counts += [len(re.findall(rf"(?<!\w){re.escape(entry)}(?!\w)", plain)) for entry in entries]
            counts += [plain.count(entry) for part in pairs & anywhere.keys() for entry in anywhere[part]]
        return sorted(filter(None, counts))

    def _anywhere_in(self, language: str) -> bool:
        return any(self._anywhere.get(name) for name in ("", language))


def _plain(text: str) -> str:
    """Return lower case, with every run of white space as one space: a phrase may continue on the next line."""
    return " ".join(text.lower().split())
