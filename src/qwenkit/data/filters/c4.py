"""The rules of C4 with their published thresholds (Raffel et al. 2020, "Exploring the Limits of Transfer Learning with
a Unified Text-to-Text Transformer", section 2.2): lines that end as sentences, words, lorem ipsum, braces, scripts.

Five words a line and three sentences, no line that ends in `...` or has a word of more than 1000 characters, as in the
authors' code (editions of the paper have other numbers). C4 cuts lines out; here the document is judged by what it
would leave. Quotes, and full stops of other scripts (`sentences`), end a sentence too. `c4_bad_words` needs the list
(`offensive_words`), which is not ours to give; without one it is left out.
"""

from __future__ import annotations

import re
from math import inf

from qwenkit.data.filters.rules import Rule, TextView
from qwenkit.data.filters.word_list import WordLists
from qwenkit.data.sentences import OTHER, STOPS, WIDE, ends_sentence

_SENTENCE = re.compile(rf"(?<![{STOPS}])[{STOPS}]+(?:\s|[\"”']|$)|[{WIDE}{OTHER}]+")
_CITATION = re.compile(r"\[(?:\d*|edit|citation needed)\]")
_POLICY = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
_RAFFEL = "Raffel et al. 2020"


def sentences_kept(view: TextView) -> float:
    """Sentences in the lines that C4 would keep: those of five words that end a sentence and speak of no script or
    policy."""
    lines = (_CITATION.sub("", line).rstrip() for line in view.lines)
    return sum(len(_SENTENCE.findall(line)) for line in lines if _c4_keeps(line, view.unspaced))


def _c4_keeps(line: str, unspaced: bool) -> bool:
    low, words = line.lower(), line.split()
    long_enough = len(line) >= 10 if unspaced else len(words) >= 5 and max(map(len, words)) <= 1000
    whole = ends_sentence(line) and not line.endswith("...")
    return whole and long_enough and "javascript" not in low and not any(part in low for part in _POLICY)


def bad_words(view: TextView, lists: WordLists | None = None) -> float:
    """Return how many different words of the list of the text's language it holds; C4 drops a page that holds one."""
    return len(lists.counts(view.text, view.language)) if lists else 0.0


def lorem_ipsum(view: TextView) -> float:
    """Return 1 where the text holds "lorem ipsum", else 0 (C4: Raffel et al. 2020)."""
    return float("lorem ipsum" in view.text.lower())


def braces(view: TextView) -> float:
    """Return 1 where the text holds a curly bracket, which C4 takes for code, else 0 (Raffel et al. 2020)."""
    return float("{" in view.text)


C4_RULES: tuple[Rule, ...] = (
    Rule("c4_sentences", sentences_kept, 3, inf, _RAFFEL),
    Rule("c4_lorem_ipsum", lorem_ipsum, 0, 0, _RAFFEL),
    Rule("c4_braces", braces, 0, 0, _RAFFEL),
    Rule("c4_bad_words", bad_words, 0, 0, _RAFFEL),
)
