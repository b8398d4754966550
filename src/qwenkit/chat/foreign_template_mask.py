"""The loss mask of a foreign chat template, placed by the template itself: an answer is what it adds to its own prompt.

`loss_mask.py` has the mask of our own ChatML styles.

    answers(traced)       # which stretch of the text each assistant's turn is, and which turns cannot be trained

For every answer the template renders the messages before it with the generation prompt, and the messages up to it.
Where the first begins the second, and the second begins the whole, what lies between is the answer as it is served, so
it can be trained: its text, and the token that ends the turn. `{% generation %}` tags say it directly. A template that
takes the thoughts out of earlier answers (QwQ's), or of all (R1's), shows these otherwise than it asked for them: they
stand in the text without loss (`Rendered.untrained`), and where the last answer itself does not agree, the conversation
is refused with the first token that differs.

Of marks, the mask `qwen` also trains `<|im_start|>`, `<|im_end|>` and the newline after it in every turn that the
conversation has; a system turn that the template puts in by itself has no loss.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from qwenkit.chat.messages import trained
from qwenkit.chat.pieces import Piece, thought_in
from qwenkit.chat.render import Rendered, encode_pieces
from qwenkit.chat.template import first_difference, has_generation_tags, reads
from qwenkit.chat.traced import Stretch, Traced
from qwenkit.errors import UserError
from qwenkit.tokenizer import IM_END, IM_START, Tokenizer


class Answer(NamedTuple):
    """The place of an assistant's message in the text, with the end of its turn, and its loss weight."""

    start: int
    stop: int
    message: int
    weight: float


def answers(traced: Traced) -> tuple[list[Answer], tuple[int, ...]]:
    """Return the answers that can be trained, and the indices of the messages whose answers cannot."""
    turns = [at for at, message in enumerate(traced.messages) if message["role"] == "assistant"]
    if has_generation_tags(traced.template) and (stretches := traced.generated()):
        return _tagged(traced, stretches, turns), ()
    placed: list[Answer] = []
    untrained: list[int] = []
    for at in turns:
        answer, difference = _placed(traced, at)
        if answer is not None:
            placed.append(answer)
        elif trained(traced.messages[at]) == 0:
            continue
        elif at == turns[-1]:
            raise _refusal(at, difference)
        else:
            untrained.append(at)
    return placed, tuple(untrained)


def _placed(traced: Traced, at: int) -> tuple[Answer | None, str]:
    """Return the place of a message's answer, or why it cannot be determined."""
    whole, last = traced.text, at == len(traced.messages) - 1
    try:
        prompt = traced.before(at, True).text
        ended = whole if last else traced.before(at + 1).text
    except UserError as error:
        return None, error.what
    for part, name in ((prompt, "the prompt of this answer"), (ended, "the chat up to this answer")):
        if not whole.startswith(part):
            theirs, ours = (traced.tok.encode(text, "all") for text in (part, whole))
            return None, first_difference(traced.tok, theirs, ours, name, "the whole chat")
    if not ended.startswith(prompt):
        return None, "the prompt of this answer is longer than the chat with it"
    if thought_in(traced.messages[at]) not in ended[len(prompt) :]:
        return None, "the template takes the thought out of this answer, and the model would learn to answer without"
    if not _begins(traced, at, ended[len(prompt) :]):
        return None, "the template has no prompt for an answer, whose heading the model would have to write"
    return Answer(len(prompt), len(ended), at, trained(traced.messages[at])), ""


def _begins(traced: Traced, at: int, answer: str) -> bool:
    """Return whether a stretch begins with the assistant's text, for templates without `add_generation_prompt`."""
    message = traced.messages[at]
    parts = [message.get(key, "").strip() for key in ("content", "reasoning_content")]
    return (
        reads(traced.template, "add_generation_prompt")
        or not parts[0]
        or answer.lstrip().startswith(tuple(text for text in (*parts, "<think>") if text))
    )


def _refusal(at: int, difference: str) -> UserError:
    return UserError(
        "this folder's chat template is none of the styles known here, and it shows an answer otherwise than it asks "
        "for it, so a loss mask cannot be placed",
        where=f"message {at}, {difference}",
        expected="a template that begins a chat with the prompt of its last answer",
        hint='name the style to train with, for example style = "chatml"',
    )


def _tagged(traced: Traced, stretches: list[Stretch], turns: list[int]) -> list[Answer]:
    """Return the answers inside the template's tags, each with the end of its turn."""
    one_each = len(stretches) == len(turns)
    if not one_each and any(trained(traced.messages[at]) != 1 for at in turns):
        raise UserError(
            f"{len(stretches)} stretches between the template's generation tags for {len(turns)} answers",
            expected="one for each answer, where answers say how much they are trained",
        )
    stops = [start for start, _ in stretches[1:]] + [len(traced.text)]
    return [
        Answer(start, _turn_end(traced, stop, limit), turns[n] if one_each else -1,
               trained(traced.messages[turns[n]]) if one_each else 1.0)
        for n, ((start, stop), limit) in enumerate(zip(stretches, stops))
    ]  # fmt: skip


def _turn_end(traced: Traced, stop: int, limit: int) -> int:
    """Return where a turn ends whose text ends at `stop`: after its last token, or the one that follows at once, and
    after a newline."""
    text, ends, typed = traced.text, turn_ends(traced.tok, traced.names), {start for start, _ in traced.typed}
    ended = any(text.endswith(name, 0, stop) and stop - len(name) not in typed for name in ends)
    after = stop + len("" if ended else next((name for name in ends if text.startswith(name, stop)), ""))
    return min(after + ((ended or after > stop) and text.startswith("\n", after)), limit)


def turn_ends(tok: Tokenizer, names: Mapping[str, object]) -> list[str]:
    """Return the names that may end a turn, the longest first: special tokens, and what the folder calls its end."""
    own = tok.special_names & {str(names.get("eos_token"))}
    return sorted((tok.special_names - tok.visible) | own, key=len, reverse=True)


def rendered(traced: Traced, mask: str, continue_final_message: bool = False) -> Rendered:
    """Return the rendered conversation with its loss weights; `continue_final_message` leaves out the end of the last
    answer's turn."""
    placed, untrained = answers(traced)
    chat_pieces = pieces(traced, placed)
    if continue_final_message:
        if not placed or placed[-1].message not in (-1, len(traced.messages) - 1):
            raise UserError("the chat template does not show where the last answer ends", expected="one that does")
        while chat_pieces and not (chat_pieces[-1].role == "assistant" and chat_pieces[-1].part == "content"):
            chat_pieces.pop()
    return encode_pieces(traced.tok, chat_pieces, "chatml", mask)._replace(untrained=untrained)


def pieces(traced: Traced, placed: list[Answer]) -> list[Piece]:
    """Return the whole text as pieces with their roles."""
    marks = _Marks(traced, placed)
    return traced.pieces(sorted([*marks.outside(), *marks.inside()], key=lambda item: item[0]))


class _Marks:
    """Marks and answers of a text as stretches."""

    def __init__(self, traced: Traced, placed: list[Answer]) -> None:
        self.traced, self.placed = traced, placed
        self.typed = {start for start, _ in traced.typed}
        self.ends = re.compile("|".join(map(re.escape, turn_ends(traced.tok, traced.names))) or "(?!)")

    def inside(self) -> Iterator[tuple[Stretch, Piece]]:
        """Of every answer: its text, the token that ends it, the newline after that."""
        for start, stop, _, weight in self.placed:
            text = self.traced.text
            body, end = self._end(start, stop)
            if start < body:
                yield (start, body), Piece("", "assistant", "content", weight=weight)
            if body < end:
                yield (body, end), Piece("", "assistant", "end", weight=weight)
            if end < stop:
                newline = text[end : end + 1] == "\n"
                yield (end, end + 1 if newline else stop), Piece("", "assistant", "newline" if newline else "header",
                                                                 weight=weight)  # fmt: skip

    def _end(self, start: int, stop: int) -> tuple[int, int]:
        """Return the last token that the template wrote in an answer, if only white space follows it."""
        text = self.traced.text
        ends = [match for match in self.ends.finditer(text, start, stop) if match.start() not in self.typed]
        if ends and not text[ends[-1].end() : stop].strip():
            return ends[-1].span()
        return stop, stop

    def outside(self) -> Iterator[tuple[Stretch, Piece]]:
        """ChatML's marks of the other turns. A system turn that no message asked for has none."""
        text, done = self.traced.text, self._own_system()
        for match in re.finditer(f"{re.escape(IM_START)}|{re.escape(IM_END)}", text):
            start, stop = match.span()
            if start < done or start in self.typed or any(a.start <= start < a.stop for a in self.placed):
                continue
            begins = match[0] == IM_START
            weight = self._weight(start) if begins else 1.0
            yield (start, stop), Piece("", "prompt", "start" if begins else "end", weight=weight)
            if not begins and text.startswith("\n", stop):
                yield (stop, stop + 1), Piece("", "prompt", "newline")

    def _weight(self, start: int) -> float:
        """Return the loss weight of the answer whose turn begins here, 1 where none does."""
        answer = next((a for a in self.placed if a.start > start), None)
        opens = answer is not None and IM_START not in self.traced.text[start + 1 : answer.start]
        return answer.weight if answer is not None and opens else 1.0

    def _own_system(self) -> int:
        """Return where the template's own system turn ends, or 0."""
        text, opening = self.traced.text, f"{IM_START}system"
        begin = text.find(IM_START)
        if self.traced.messages[0]["role"] == "system" or not text.startswith(opening, max(begin, 0)):
            return 0
        following = text.find(IM_START, begin + 1)
        return following if following >= 0 else len(text)
