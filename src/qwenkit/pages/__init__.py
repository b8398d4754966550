"""HTML pages of the package: one maker, one frame (`base.html`) and one style sheet (`base.css`) for all of them.

    page("tokenizer/tokens.html", texts=[...]) -> str

A template lies beside the code that fills it, extends `pages/base.html` and brings only its own few rules. Every page
is one file that asks nobody for anything, is escaped, and is dark where the reader's screen is.
"""

from qwenkit.pages.maker import page

__all__ = ["page"]
