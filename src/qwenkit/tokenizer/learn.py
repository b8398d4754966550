"""Learn merges: byte-level BPE (Sennrich et al., 2016) from counted pre-tokens, on top of any vocabulary (report
§2.2).

    ids = dict(base.ranks)                                   # or the 256 bytes
    new = learn(pieces, ids, count=10_000, first_id=base.n_tokens, encode=...)

Each step joins the pair of neighbouring tokens that stands in most places (overlapping ones counted, as `tokenizers`
does); among equals the smaller pair of ids. What a join makes is a new token with the next id, so every merge learnt
ranks below all that were there. The state after each step is what the encoder (tiktoken) gives with the vocabulary so
far, and that asks for more than replacing the pair:

* the encoder joins *any* two neighbours that spell a known token, so all splits of the new token are joined;
* a piece that is itself a token becomes that token, however it was split;
* a new token and its neighbour may spell a token that was there before: then the piece is encoded afresh.

How it is fast without a compiled line. All pieces lie in one flat array, tokens linked to their neighbours, so that a
merge is a few numpy operations on all its places at once. Counts of pairs are not kept up to date: they only fall, so
a count in the queue is an upper bound, and a pair is counted again when it comes to the top. A merge makes new pairs
with its own token only; they are grouped at once, and one entry of the queue stands for the whole group until it is
used.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from heapq import heappop, heappush
from itertools import chain, pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from qwenkit.tokenizer.count import Pieces, Progress

Places = npt.NDArray[np.int32]
Keys = npt.NDArray[np.int64]
_NEVER = 1 << 62


def learn(
    pieces: Pieces,
    ids: Mapping[bytes, int],
    count: int,
    first_id: int,
    min_count: int = 2,
    encode: Callable[[bytes], list[int]] | None = None,
    progress: Progress | None = None,
) -> dict[bytes, int]:
    """Return up to `count` new tokens in the order in which they were learnt, with ids from `first_id` on.

    `ids` is the vocabulary to start from; `encode` returns the ids of a pre-token in it (by default `bpe`, which is
    slow). There are fewer tokens where no pair occurs `min_count` times any more."""
    state = _State(pieces, dict(ids), min_count, encode)
    new: dict[bytes, int] = {}
    for number in range(count):
        pair = state.best()
        if pair is None:
            break
        token = state.spelled(pair)
        new[token] = first_id + number
        state.join(pair, token, first_id + number)
        if progress is not None and number % 100 == 99:
            progress(number + 1, count)
    return new


def bpe(piece: bytes, ids: Mapping[bytes, int]) -> list[int]:
    """Return the ids of one pre-token as the encoder does: itself if it is a token, else the lowest-ranked merges,
    leftmost first."""
    if piece in ids:
        return [ids[piece]]
    parts = [piece[i : i + 1] for i in range(len(piece))]
    while len(parts) > 1:
        ranks = [ids.get(left + right, _NEVER) for left, right in pairwise(parts)]
        lowest = min(ranks)
        if lowest == _NEVER:
            break
        at = ranks.index(lowest)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return [ids[part] for part in parts]


class _Group(NamedTuple):
    """Pairs that were found together: sorted keys, where each stands, and those worth queueing by falling count."""

    keys: Keys
    bounds: npt.NDArray[np.int64]
    places: Places
    counts: npt.NDArray[np.int64]
    queue: npt.NDArray[np.int64]

    def of(self, index: int) -> Places:
        return self.places[self.bounds[index] : self.bounds[index + 1]]

    def find(self, key: int) -> Places:
        """The places of a pair; none where it was never seen."""
        index = int(np.searchsorted(self.keys, key))
        return self.of(index) if index < len(self.keys) and self.keys[index] == key else self.places[:0]


class _State:
    """All pieces as linked tokens, the pairs in them, and the queue. Slot `end` stands for "no neighbour"."""

    def __init__(
        self, pieces: Pieces, ids: dict[bytes, int], min_count: int, encode: Callable[[bytes], list[int]] | None
    ) -> None:
        self.pieces, self.ids, self.min_count = pieces, ids, min_count
        self.bytes = {i: token for token, i in ids.items()}
        tokens, lengths = _encode_all(pieces.texts, ids, encode)
        self.end = end = len(tokens)
        self.starts = np.cumsum(lengths) - lengths
        self.token = np.append(tokens, np.int32(-1))
        self.next = np.arange(1, end + 2, dtype=np.int32)
        self.prev = np.arange(-1, end, dtype=np.int32)
        self.next[(self.starts + lengths - 1)] = end
        self.prev[self.starts] = end
        self.weight = np.append(np.repeat(pieces.counts, lengths), 0)
        self.heap: list[tuple[int, int, int, _Group | Places, int]] = []
        self.serial = 0
        self.moved: dict[int, tuple[int, Places]] = {}
        """Pairs in pieces that were encoded afresh: the serial of the only entry that counts, and all their places."""
        here = np.arange(end, dtype=np.int32)
        inside = self.next[:-1] != end
        self.first = self._group(here[inside])
        self.made: dict[int, _Group] = {}
        """For each new token, the pairs that its merge created."""
        self._queue(self.first, 0)

    def spelled(self, key: int) -> bytes:
        """The bytes of a pair."""
        return self.bytes[key >> 32] + self.bytes[key & 0xFFFFFFFF]

    def best(self) -> int | None:
        """The pair that occurs most often now, or None."""
        while self.heap:
            claimed, key, serial, source, index = heappop(self.heap)
            if isinstance(source, _Group):
                self._queue(source, index + 1)
                places = source.of(int(source.queue[index]))
            else:
                places = source
            if self.moved.get(key, (serial, None))[0] != serial:
                continue
            places = self._alive(key, places)
            count = int(self.weight[places].sum())
            if count == -claimed:
                return key
            if count >= self.min_count:
                self._push(count, key, places)
        return None

    def join(self, key: int, token: bytes, new: int) -> None:
        """Make a token wherever two neighbours spell it, and find the pairs that this makes."""
        keys = {key, *self._splits(token)}
        places_by_key = [alive for k in keys if len(alive := self._alive(k, self._places(k)))]
        places = _apart(
            places_by_key[0] if len(places_by_key) == 1 else np.sort(np.concatenate(places_by_key)), self.next
        )
        self.ids[token], self.bytes[new] = new, token
        right = self.next[places]
        after = self.next[right]
        afresh = self._half_way(keys, token, places[:-1][after[:-1] == places[1:]])
        self.token[places], self.token[right] = new, -1
        self.next[places], self.prev[after] = after, places
        before = self.prev[places]
        before = before[(self.token[before] >= 0) & (self.token[before] != new)]
        group = self.made[new] = self._group(np.concatenate([before, places[after != self.end]]))
        self._queue(group, 0)
        afresh |= self._spelling_known(group, new, token) | self._whole(token, new)
        self._encode_afresh(sorted(afresh))

    def _splits(self, token: bytes) -> list[int]:
        """Return every pair that spells a token."""
        pairs = ((self.ids.get(token[:i]), self.ids.get(token[i:])) for i in range(1, len(token)))
        return [(a << 32) | b for a, b in pairs if a is not None and b is not None]

    def _places(self, key: int) -> Places:
        """Return where a pair occurs or once occurred."""
        if key in self.moved:
            return self.moved[key][1]
        return self.made.get(max(key >> 32, key & 0xFFFFFFFF), self.first).find(key)

    def _alive(self, key: int, places: Places) -> Places:
        """Return the positions where the pair still occurs."""
        left = self.token[places] == key >> 32
        return places[left & (self.token[self.next[places]] == key & 0xFFFFFFFF)]

    def _group(self, places: Places) -> _Group:
        """Return the pairs that begin at these positions."""
        keys = (self.token[places].astype(np.int64) << 32) | self.token[self.next[places]]
        order = np.argsort(keys, kind="stable")
        keys, places = keys[order], places[order]
        first = np.flatnonzero(np.diff(keys, prepend=-1))
        counts = np.add.reduceat(self.weight[places], first) if len(first) else first
        queue = np.argsort(-counts, kind="stable")
        queue = queue[: int((counts >= self.min_count).sum())]
        return _Group(keys[first], np.append(first, len(places)), places, counts, queue)

    def _queue(self, group: _Group, index: int) -> None:
        """Put the next pair of a group into the queue."""
        if index < len(group.queue):
            pair = group.queue[index]
            self.serial += 1
            heappush(self.heap, (-int(group.counts[pair]), int(group.keys[pair]), self.serial, group, index))

    def _push(self, count: int, key: int, places: Places) -> None:
        self.serial += 1
        if key in self.moved:
            self.moved[key] = (self.serial, self.moved[key][1])
        heappush(self.heap, (-count, key, self.serial, places, 0))

    def _half_way(self, keys: set[int], token: bytes, places: Places) -> set[int]:
        """Return pre-tokens where one merge, made before the next beside it, spells a known token with that one's left
        half."""
        known = any(token + self.bytes[key >> 32] in self.ids for key in keys)
        return self._pieces_at(places) if known else set()

    def _spelling_known(self, group: _Group, new: int, token: bytes) -> set[int]:
        """Return pre-tokens where the new token and a neighbour spell an existing token."""
        pieces: set[int] = set()
        for index, key in enumerate(group.keys.tolist()):
            left, right = key >> 32, key & 0xFFFFFFFF
            if (token + self.bytes[right] if left == new else self.bytes[left] + token) in self.ids:
                pieces |= self._pieces_at(group.of(index))
        return pieces

    def _pieces_at(self, places: Places) -> set[int]:
        return set((np.searchsorted(self.starts, places, "right") - 1).tolist())

    def _whole(self, token: bytes, new: int) -> set[int]:
        """Return the pre-token that equals the new token, where it is still in parts."""
        text = token.decode("utf-8", "ignore")
        index = bisect_left(self.pieces.texts, text)
        if index == len(self.pieces.texts) or self.pieces.texts[index].encode() != token:
            return set()
        return set() if self.token[self.starts[index]] == new else {index}

    def _encode_afresh(self, pieces: list[int]) -> None:
        """Encode pieces again, and queue their pairs with all places that they have now."""
        fresh: dict[int, list[int]] = {}
        for piece in pieces:
            tokens = bpe(self.pieces.texts[piece].encode(), self.ids)
            start = int(self.starts[piece])
            stop = int(self.starts[piece + 1]) if piece + 1 < len(self.starts) else self.end
            last = start + len(tokens) - 1
            self.token[start : last + 1], self.token[last + 1 : stop] = tokens, -1
            self.next[start:last], self.next[last] = np.arange(start + 1, last + 1), self.end
            self.prev[start + 1 : last + 1] = np.arange(start, last)
            for place, pair in enumerate(pairwise(tokens), start):
                fresh.setdefault((pair[0] << 32) | pair[1], []).append(place)
        for key, new_places in fresh.items():
            places = np.union1d(self._places(key), np.array(new_places, np.int32))
            self.moved[key] = (0, places)
            places = self._alive(key, places)
            count = int(self.weight[places].sum())
            if count >= self.min_count:
                self._push(count, key, places)


def _encode_all(
    texts: list[str], ids: Mapping[bytes, int], encode: Callable[[bytes], list[int]] | None
) -> tuple[Places, npt.NDArray[np.int64]]:
    """Return the ids of all pre-tokens in one array, and how many each has. Bytes without merges need no encoder."""
    whole = [text.encode() for text in texts]
    if len(ids) == 256:
        table = np.array([ids[bytes([b])] for b in range(256)], np.int32)
        lengths = np.fromiter(map(len, whole), np.int64, len(whole))
        return table[np.frombuffer(b"".join(whole), np.uint8)], lengths
    encoded = [encode(piece) if encode else bpe(piece, ids) for piece in whole]
    lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
    return np.fromiter(chain.from_iterable(encoded), np.int32, int(lengths.sum())), lengths


def _apart(places: Places, following: npt.NDArray[np.int32]) -> Places:
    """Return sorted positions without those that overlap the one before, from the left: of "aaa" the first two join."""
    overlaps = np.append(False, following[places[:-1]] == places[1:])
    if not overlaps.any():
        return places
    index = np.arange(len(places))
    run = np.maximum.accumulate(np.where(overlaps, 0, index))
    return places[(index - run) % 2 == 0]
