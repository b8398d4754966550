"""A step of one's own in the corpus: short documents are dropped, trackers are cut out of the text.

    steps = ["examples/my_step.py:step"]        # in the table of a `corpus` node

docs/data.md, "Write your own step", says what a document is and what a step may return.
"""

import re

from qwenkit.data import Drop

TRACKER = re.compile(r"[?&]utm_\w+=[^\s&]*")
FEWEST_WORDS = 5


def step(document: dict) -> dict | Drop:
    """Drop documents of fewer than five words; keep others, without the trackers in their links."""
    words = document["text"].split()
    if len(words) < FEWEST_WORDS:
        return Drop("few_words", detail=f"{len(words)} words")
    document["text"] = TRACKER.sub("", document["text"])
    return document
