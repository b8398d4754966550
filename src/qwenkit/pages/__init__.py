"""HTML pages of the package: one maker, one frame (`base.html`) and one style sheet (`base.css`) for all of them.

    page("tokenizer/tokens.html", texts=[...]) -> str

A template lies beside the code that fills it, extends `pages/base.html` and adds only a few rules of its own. Every
page is one self-contained file, is escaped, and follows the reader's dark mode.
"""

from qwenkit.pages.maker import page

__all__ = ["page"]
