"""Pictures inside a text, as Qwen-VL's tokenizer spells them (the report's §1, Qwen-VL).

    tok = ImageTokenizer.of(load("qwen.tiktoken"))
    tok.encode("Picture 1: <img>a.jpg</img>", "all")       # ... 151857, 97, 46, 106, 112, 103, 151859 x 251, 151858

Between `<img>` and `</img>` stand always 256 ids, which the model replaces by what it sees: the path's UTF-8 *byte
values*, not tokens, filled up with `<imgpad>`. Names of these tokens are special like all others: plain text unless
allowed. Caveats, both the authors': a path of 256 bytes can be encoded, but neither decoded nor looked at; and a path
of 255 can be decoded, but not looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from ..errors import UserError
from .core import Tokenizer, split_special

IMAGE_NAMES = ("<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>", "<img>", "</img>", "<imgpad>")
OPEN, CLOSE, PAD = "<img>", "</img>", "<imgpad>"
SLOTS = 256


class ImageTokenizer(Tokenizer):
    """A tokenizer with Qwen-VL's tokens, and the slots of a picture between two of them."""

    @classmethod
    def of(cls, tok: Tokenizer) -> ImageTokenizer:
        """The tokenizer with the tokens of pictures and boxes after all others."""
        added = {name: tok.n_tokens + n for n, name in enumerate(IMAGE_NAMES)}
        rows = max(tok.vocab_size, tok.n_tokens + len(added))
        return cls(tok.ranks, tok.special | added, tok.pattern, vocab_size=rows, **tok.flags)

    def _encode(self, text: str, allowed: frozenset[str]) -> list[int]:
        if OPEN not in allowed:
            return super()._encode(text, allowed)
        ids: list[int] = []
        parts = iter(split_special(self.normalize(text), allowed))
        for part in parts:
            if part == OPEN:
                ids += [self.special[OPEN], *self._slots(parts), self.special[CLOSE]]
            else:
                ids += [self.special[part]] if part in allowed else self._ordinary(part)
        return ids

    def _slots(self, parts: Iterator[str]) -> list[int]:
        """The bytes of the path that comes next, up to the closing mark, and padding."""
        path = b""
        for part in parts:
            if part == CLOSE:
                break
            if part in self.special:
                raise UserError(f"{part} inside {OPEN}...{CLOSE}", expected="the path of a picture")
            path += part.encode("utf-8", "replace")
        else:
            raise UserError(f"{OPEN} is not closed", expected=f"{OPEN}path{CLOSE}")
        if len(path) > SLOTS:
            raise UserError(f"a path of {len(path)} bytes", expected=f"at most {SLOTS} between {OPEN} and {CLOSE}")
        return [*path, *[self.special[PAD]] * (SLOTS - len(path))]

    def decode(
        self, ids: Sequence[int] | Iterable[int] | int, errors: str | None = None, skip_special_tokens: bool = False
    ) -> str:
        """The text of ids, with the paths of pictures in it."""
        ids = [ids] if isinstance(ids, int) else list(map(int, ids))
        return super().decode(self._spelled(ids), errors, skip_special_tokens)

    def _spelled(self, ids: list[int]) -> list[int]:
        """Slots of pictures turned back into tokens."""
        out: list[int] = []
        at = 0
        while at < len(ids):
            out.append(ids[at])
            at += 1
            if out[-1] == self.special[OPEN]:
                stop = _index(ids, self.special[CLOSE], at, f"{OPEN} is not closed")
                end = _index(ids[:stop], self.special[PAD], at, f"no {PAD} ends the path of a picture")
                out += self.encode(bytes(ids[at:end]).decode())
                at = stop
        return out


def _index(ids: Sequence[int], wanted: int, start: int, otherwise: str) -> int:
    try:
        return ids.index(wanted, start)
    except ValueError:
        raise UserError(otherwise, expected=f"{SLOTS} ids between {OPEN} and {CLOSE}") from None
