"""The loss mask of ChatML: which pieces of a conversation are trained, and with which weight.

`qwen` is the authors' mask (report appendix A.1, and their finetune.py): the turn marks and the newline after a turn
are targets for every role, and so is the content of the assistant. `assistant` trains only the assistant's content and
the `<|im_end|>` after it. A turn's own `weight` multiplies every loss weight in it.

`foreign_template_mask.py` finds the same pieces in the text of a template that is none of our styles.
"""

from __future__ import annotations

from qwenkit.chat.pieces import Piece
from qwenkit.errors import UserError, nearest

MASKS = ("qwen", "assistant")


def check_mask(mask: str) -> None:
    """Raise a `UserError` for an unknown mask."""
    if mask not in MASKS:
        raise UserError(f"unknown mask {mask!r}", expected=" or ".join(MASKS), nearest=nearest(mask, MASKS))


def loss_weight(piece: Piece, mask: str) -> float:
    """Return the loss weight of every token of a piece: 0 where it is not a target, else the weight of its turn."""
    return _is_target(piece, mask) * piece.weight


def _is_target(piece: Piece, mask: str) -> bool:
    is_answer = piece.role == "assistant" and piece.part == "content"
    if mask == "qwen":
        return is_answer or piece.part in ("start", "end", "newline")
    return is_answer or (piece.role == "assistant" and piece.part == "end")
