"""The step of answers on a GPU: recorded once for each of a few sizes as a CUDA graph, and replayed.

    forward = GraphedForward(model, cache, CudaRecorder(cache.device))
    h_WD = forward.states(StepTokens(ids, answers, (), wanted))

A decode step of a small model is some hundreds of kernels of a few microseconds; launched one by one from Python they
take longer than they run. A CUDA graph launches all of them at once, but it computes at the sizes and addresses at
which it was recorded. So a step of answers alone is filled up to a **bucket**: rows (1, 2, 4, 8, then multiples of 8,
as vLLM's) and a span of keys (a power of two times `TILE`). Every bucket has tensors of its own that hold the ids,
positions, slots, lengths of prompts and blocks of a step, which one copy fills. Rows that only fill up are written to
block 0 and read nothing else; nobody else reads that.

Pieces of prompts, vectors in place of ids, more rows than `max_rows`, and batches in which most of a bucket's keys
would be hidden go through torch as ever (`EagerForward`). Where nothing can be recorded (an operation asks the host, no
memory is left), the same function runs unrecorded at the same sizes, so that bits do not depend on it, and a notice
says so.

A graph reads weights where they lay: those that change in place are seen, for those that moved, or parts that were
exchanged, it is recorded anew. It knows nothing of Python: where a model has hooks or a forward pass of its own, torch
computes as ever, and a notice says so.

What a graph computes is tested on a CPU, where recording is calling the function again. **The recording itself was not
run on a GPU yet.** Bits of a row on a GPU may depend on the bucket, as they do on the number of rows without graphs.

Legend: B rows of a bucket, N tokens, W wanted rows, D hidden width, G key/value heads, H query heads.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from qwenkit.errors import notice
from qwenkit.inference.answer_attention import TILE, AnswerGroup, BlockIndex, filled, span
from qwenkit.inference.block_pool import BLOCK
from qwenkit.inference.eager_forward import EagerForward, StepTokens
from qwenkit.inference.native.fitness import Watch
from qwenkit.inference.paged_cache import PagedCache, Segment
from qwenkit.inference.transfer import pinned, rows_of
from qwenkit.model import Transformer
from qwenkit.model.batching import PAD_ID, round_up

MAX_ROWS = 256
"""Rows of the largest bucket."""
MAX_GRAPHS = 64
"""Buckets that are kept; the least recently used one goes first."""
_ALWAYS = 2**16  # keys of a bucket, rows times span, up to which it does not matter how many are hidden
_HIDDEN = 4  # times the keys that are needed: from there on answers are better read in groups of about their length
_WARM_UPS = 2  # calls before a recording: libraries make their handles and choose their kernels in them


class Recorder(Protocol):
    """What makes a function of fixed sizes fast to call again."""

    def record(self, function: Callable[[], None]) -> Callable[[], None]:
        """Return what does the same as the function: with the tensors that it read and wrote. The function has run
        before, or runs here; what it does can be repeated. Raises a `RuntimeError` where it cannot be recorded."""
        ...


class CudaRecorder:
    """Records what a function launches on a GPU, as a CUDA graph. All graphs take their memory from one pool, since
    only one runs at a time."""

    def __init__(self, device: torch.device) -> None:
        """Record on this GPU."""
        self.device, self._pool = device, torch.cuda.graph_pool_handle()

    def record(self, function: Callable[[], None]) -> Callable[[], None]:
        """Call the function on a stream of its own, then record it; return the graph's `replay`."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self.device):
            main, side = torch.cuda.current_stream(), torch.cuda.Stream()
            side.wait_stream(main)
            with torch.cuda.stream(side):
                for _ in range(_WARM_UPS):
                    function()
            main.wait_stream(side)
            # Other threads may use the GPU meanwhile: only what this one does could spoil the recording.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                function()
        return graph.replay


class Bucket(NamedTuple):
    """The sizes of a step."""

    rows: int
    span: int
    """Keys that are read of each row."""

    @classmethod
    def of(cls, answers: list[Segment]) -> Bucket:
        """Return the smallest bucket that holds these answers."""
        count = len(answers)
        rows = 1 << (count - 1).bit_length() if count <= 8 else round_up(count, 8)
        return cls(rows, max(span(answer.stop) for answer in answers))

    @property
    def blocks(self) -> int:
        """Return the number of blocks of a row."""
        return self.span // BLOCK


class AnswerPass:
    """The cache of a forward pass [1, B] over the newest tokens of answers, at fixed sizes."""

    def __init__(self, cache: PagedCache, positions_B: Tensor, slots_B: Tensor, lengths_B: Tensor, index: BlockIndex):
        """Say where the tokens stand, where they are stored, how long their prompts are, and what they read."""
        self.cache, self.positions_B, self.slots_B, self.lengths_B = cache, positions_B, slots_B, lengths_B
        self._group = AnswerGroup(index, positions_B, cache.math_attention)

    def positions_BT(self, x_BTC: Tensor) -> Tensor:
        """Return the positions, [1, B]."""
        return self.positions_B[None]

    def lengths_BT(self, x_BTC: Tensor) -> Tensor:
        """Return the length of each token's prompt, [1, B]."""
        return self.lengths_B[None]

    def attend(self, layer: int, q_BHTD: Tensor, k_BGTD: Tensor, v_BGTD: Tensor, window: int | None) -> Tensor:
        """Store keys and values [1, G, B, D]; return the attention [1, H, B, D] of each token over all up to its own
        that the window shows."""
        keys, values, counts = self.cache.keys[layer], self.cache.values[layer], [1] * len(self.slots_B)
        keys.write(self.slots_B, k_BGTD[0], counts)
        values.write(self.slots_B, v_BGTD[0], counts)
        return self._group.attend(q_BHTD, keys, values, window)


class BucketStep:
    """The forward pass of a bucket, as a function of its own tensors: `load`, call, `states_BD`."""

    def __init__(self, model: Transformer, cache: PagedCache, bucket: Bucket) -> None:
        """Make the tensors: all numbers of a step in one, and what comes out."""
        self.model, self.cache, self.bucket = model, cache, bucket
        rows, weight = bucket.rows, model.model.embed_tokens.weight
        self._numbers_N = torch.zeros(rows * (4 + bucket.blocks), dtype=torch.long, device=cache.device)
        parts = self._numbers_N.split([rows] * 4 + [rows * bucket.blocks])
        self.ids_B, self.positions_B, self.slots_B, self.lengths_B, self.blocks_N = parts
        self.states_BD = weight.new_zeros(rows, weight.shape[1])

    def load(self, tokens: StepTokens) -> None:
        """Take the tokens of a step; the other rows read block 0."""
        answers, missing = tokens.answers, [0] * (self.bucket.rows - len(tokens.answers))
        blocks = [block for answer in answers for block in filled(answer.blocks, self.bucket.blocks)]
        numbers = [*tokens.ids, *[PAD_ID] * len(missing)]
        numbers += [*(answer.start for answer in answers), *missing]
        numbers += [*(_slot(answer) for answer in answers), *missing]
        numbers += [*(answer.prompt_length for answer in answers), *(1 for _ in missing)]
        numbers += [*blocks, *missing * self.bucket.blocks]
        self._numbers_N.copy_(pinned(numbers, self.cache.device, torch.long), non_blocking=True)

    def __call__(self) -> None:
        """Compute the states after the final norm."""
        index = BlockIndex(self.bucket.rows, self.bucket.span, self.blocks_N)
        answers = AnswerPass(self.cache, self.positions_B, self.slots_B, self.lengths_B, index)
        self.states_BD.copy_(self.model.hidden(self.ids_B[None], answers)[0])


class _Recorded(NamedTuple):
    step: BucketStep
    run: Callable[[], None]


class GraphedForward:
    """Steps of answers by recorded functions; all else by torch as ever."""

    def __init__(
        self,
        model: Transformer,
        cache: PagedCache,
        recorder: Recorder,
        max_rows: int = MAX_ROWS,
        max_graphs: int = MAX_GRAPHS,
    ) -> None:
        """Compute this model over this cache; nothing is recorded before it is needed."""
        self.model, self.cache, self.eager = model, cache, EagerForward(model, cache)
        self.recorder: Recorder | None = recorder
        self.max_rows, self.max_graphs = max_rows, max_graphs
        self._recorded: OrderedDict[Bucket, _Recorded] = OrderedDict()
        self._watch = Watch(model)
        self._reason: str | None = None

    @property
    def buckets(self) -> list[Bucket]:
        """Return the buckets that are kept, the least recently used one first."""
        return list(self._recorded)

    def states(self, tokens: StepTokens) -> Tensor:
        """Return the states after the final norm, [W, D]."""
        bucket = self._bucket(tokens)
        if bucket is None or self._reason is not None:
            return self.eager.states(tokens)
        recorded = self._recorded.get(bucket)
        if recorded is None:
            recorded = self._record(bucket, tokens)
        else:
            recorded.step.load(tokens)
        self._recorded.move_to_end(bucket)
        recorded.run()
        return rows_of(recorded.step.states_BD, tokens.wanted).clone()  # the next step writes over them

    def head(self, h_WD: Tensor, /) -> Tensor:
        """Return the logits [W, V] in float32."""
        return self.eager.head(h_WD)

    def refresh(self) -> None:
        """Forget what was recorded where the model's weights lie elsewhere now, or parts were exchanged; changes in
        place are seen as they are."""
        if not self._watch.is_same():
            self._recorded.clear()
            self._watch = Watch(self.model)

    def follow(self) -> None:
        """Forget what was recorded where it is not the model any more, and look whether a graph would pass by what was
        done to it: then steps are computed without, and the user is told."""
        self.refresh()
        self.eager.follow()
        before, self._reason = self._reason, self._watch.intervention()
        if self._reason not in (None, before):
            notice(f"steps are computed without CUDA graphs: {self._reason}")

    def _bucket(self, tokens: StepTokens) -> Bucket | None:
        """Return the bucket of a step, or None where it is not one of answers, or too wide, or mostly
        hidden, or where an answer has an adapter."""
        if any(answer.adapter is not None for answer in tokens.answers):
            return None
        if tokens.pieces or tokens.embeds_ND is not None or not 0 < len(tokens.answers) <= self.max_rows:
            return None
        bucket = Bucket.of(list(tokens.answers))
        needed = sum(round_up(answer.stop, TILE) for answer in tokens.answers)
        return bucket if bucket.rows * bucket.span <= max(_ALWAYS, _HIDDEN * needed) else None

    def _record(self, bucket: Bucket, tokens: StepTokens) -> _Recorded:
        """Make room for a bucket, and record it with the tokens of this step: what is stored may be stored twice."""
        while len(self._recorded) >= self.max_graphs:
            self._recorded.popitem(last=False)
        step = BucketStep(self.model, self.cache, bucket)
        step.load(tokens)
        run: Callable[[], None] = step
        if self.recorder is not None:
            try:
                run = self.recorder.record(step)
            except RuntimeError as error:  # torch's for no memory, too
                self.recorder = None  # what a broken recording leaves behind may break the next one
                notice(f"steps are computed without CUDA graphs from here on, which is slower: one of {bucket.rows} "
                       f"rows and {bucket.span} keys could not be recorded ({_first_line(error)})")  # fmt: skip
        recorded = self._recorded[bucket] = _Recorded(step, run)
        return recorded


def reason_against(model: Transformer) -> str | None:
    """Return why the steps of a model cannot be recorded, or None."""
    return None if model.config.experts is None else "a router's choice of experts is read by the host"


def _slot(answer: Segment) -> int:
    """Return where an answer's newest token is stored."""
    return answer.blocks[answer.start // BLOCK] * BLOCK + answer.start % BLOCK


def _first_line(error: RuntimeError) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
