"""Which tokens end an answer of a chat."""

from __future__ import annotations

from qwenkit.chat import ChatTokenizer, stop_token_ids


def test_an_answer_ends_with_its_turn_or_the_text(tiny: ChatTokenizer) -> None:
    assert stop_token_ids(tiny) == (tiny.im_end_id, tiny.im_start_id, tiny.eot_id)
