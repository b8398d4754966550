"""The rules of FineWeb with their published thresholds (Penedo et al. 2024, "The FineWeb Datasets", section 3.6).

0.01 for the characters of repeated lines, as in the authors' code (the paper's text has 0.1). Words are those of
`text_units`, where the code counts signs of punctuation too, so `fineweb_lines_per_word` is a little stricter.
"""

from __future__ import annotations

from qwenkit.data.filters.rules import Rule, TextView, length, line_share, ratio, repeated_line_characters
from qwenkit.data.sentences import ends_sentence

_PENEDO = "Penedo et al. 2024"


def closed_lines(view: TextView) -> float:
    """Return the share of lines that end a sentence, 0 to 1 (FineWeb: Penedo et al. 2024)."""
    return line_share(view, ends_sentence)


def short_lines(view: TextView) -> float:
    """Return the share of lines of at most 30 characters (15 in scripts without spaces, where a character says twice as
    much)."""
    limit = 15 if view.unspaced else 30
    return line_share(view, lambda line: len(line) <= limit)


def lines_per_word(view: TextView) -> float:
    """Return the line breaks per word (FineWeb: Penedo et al. 2024)."""
    return ratio(view.text.count("\n"), length(view))


FINEWEB_RULES: tuple[Rule, ...] = (
    Rule("fineweb_closed_lines", closed_lines, 0.12, 1, _PENEDO),
    Rule("fineweb_short_lines", short_lines, 0, 0.67, _PENEDO),
    Rule("fineweb_repeated_line_characters", repeated_line_characters, 0, 0.01, _PENEDO),
    Rule("fineweb_lines_per_word", lines_per_word, 0, 0.3, _PENEDO),
)
