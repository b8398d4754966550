"""The punctuation that ends a sentence or separates its clauses, in all scripts: the one table of it.

    ENDS, PAUSES, CLOSING     signs, to be put into a class of a pattern: f"[{ENDS}]"
    without_ends(text)        whether it is written in a script that ends its sentences by spaces

The table follows Unicode's properties Sentence_Terminal and Terminal_Punctuation (of the planes in common use), and
adds what is missing there: ellipses, the Greek question mark, Tibetan strokes, the danda of other keyboards.
"""

from __future__ import annotations

import re

STOPS = ".!?"
"""The ASCII full stops, which also occur in numbers and abbreviations."""
WIDE = "。！？．｡"
"""The full stops of Chinese and Japanese, which no space follows."""
OTHER = (
    "\u0589\u055c\u055e\u061d-\u061f\u06d4"  # Armenian; Arabic and Urdu
    "\u0700-\u0702\u07f9\u0837\u0839\u083d\u083e"  # Syriac, NKo, Samaritan
    "\u0964\u0965\u0df4"  # the dandas of India, Sinhala
    "\u0f08\u0f0d-\u0f12\u104a\u104b\u17d4\u17d5\u17da\u0e5a\u0e5b"  # Tibetan, Burmese, Khmer, old Thai
    "\u1362\u1367\u1368\u166e\u1735\u1736\u1803\u1809\u1944\u1945"  # Ethiopic, Canadian, Philippine, Mongolian, Limbu
    "\u1aa8-\u1aab\u1b4e\u1b4f\u1b5a\u1b5b\u1b5e\u1b5f\u1b7d-\u1b7f\u1c3b\u1c3c\u1c7e\u1c7f"  # Lanna, Bali, Sunda
    "\u203c\u203d\u2047-\u2049\u2cf9-\u2cfb\u2e2e\u2e3c\u2e53\u2e54\u037e\u05c3"  # doubled ones, Coptic, Greek, Hebrew
    "\ua4ff\ua60e\ua60f\ua6f3\ua6f7\ua876\ua877\ua8ce\ua8cf\ua92f\ua9c8\ua9c9\uaa5d-\uaa5f\uaaf0\uaaf1\uabeb"
    "\ufe12\ufe15\ufe16\ufe52\ufe56\ufe57"
)
"""The full stops of all other scripts."""
ENDS = STOPS + WIDE + OTHER + "…"
PAUSES = (
    ",;:\u060c\u061b\u055d\u0387\u0703-\u070a\u07f8\u1363-\u1366\u17d6\u1802\u1804\u1805\u1808\ua4fe\ua60d\ua6f4-\ua6f6"
    "，；：、､﹐﹑﹔﹕"
)
CLOSING = r"\"'”’»›」』)）\]】"
_TERMINAL = re.compile(rf"[{STOPS}{WIDE}{OTHER}\"”」』]")
_WITHOUT = re.compile("[\u0e00-\u0e59\u0e80-\u0eff]")  # Thai and Lao


def without_ends(text: str) -> bool:
    """Return whether most letters of a text belong to scripts in which a space ends a sentence."""
    count = 0 if text.isascii() else len(_WITHOUT.findall(text))
    return count > 0 and 2 * count > sum(map(str.isalpha, text))


def ends_sentence(line: str) -> bool:
    """Return whether a line ends with the end of a sentence, or with a quotation mark."""
    return _TERMINAL.match(line[-1:]) is not None
