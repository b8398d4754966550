"""The decoder of one model in native code: some new tokens of some sequences, from ids to states or logits.

    decoder = NativeDecoder(model, keys, values)     # of each layer: [G, slots, D], as the paged cache has them
    logits_BV = decoder.step(ids_B, positions_B, tables_Bn)
    logits_1V = decoder.step(ids_N, positions_N, tables_1n, sequences=zeros_N, wanted=last_1)     # a piece of a prompt

A row is one new token: its id, its position, and the block table of its sequence. Its key and value go into the cache,
it attends to all positions up to its own, inside the layer's window. Rows of one sequence come in the order of their
positions, in one call or in several.

Arithmetic: sums and everything between weights and cache are float32; keys and values are rounded to the dtype of the
cache. Quantized layers get their inputs in 16 bits a value, with a scale for each 32 or 64 of them. So in bf16 a
result is nearer to a float32 forward pass on the same weights than torch's, which rounds after every operation.

The bits of a row depend on its sequence alone: not on the other rows, on how a prompt is cut into pieces, or on the
number of threads. They do depend on the processor.

Weights are read where the model has them. `refresh` follows a model whose tensors were changed or replaced.

Legend: N rows, B rows of B sequences, n blocks of a table, W wanted rows, V vocabulary, C hidden width, D head width.
"""

from __future__ import annotations

import copy
import ctypes
from collections.abc import Sequence
from ctypes import byref
from typing import NamedTuple

import torch
from torch import Tensor, nn

from qwenkit.errors import UserError, notice
from qwenkit.inference.native.build import Unavailable
from qwenkit.inference.native.fitness import PROJECTIONS, Unfit, Watch, check_fits, unfit_model
from qwenkit.inference.native.library import Group, Layer, Matrix, Model, Step, library
from qwenkit.inference.native.low_rank import LowRanks, low_dtype
from qwenkit.inference.native.matrices import KINDS, Weights, product, weights
from qwenkit.model.rotary import rotary_tables
from qwenkit.model.transformer import Block, Transformer
from qwenkit.platform import free_cores, trim_memory

MOST_ROWS = 256
"""Rows that are computed at once: more are cut into pieces of this size, so that buffers stay small."""


class AdaptedRows(NamedTuple):
    """Rows start to stop (half-open) of a step, which have an adapter."""

    start: int
    stop: int
    ranks: LowRanks


class _Rows(NamedTuple):
    """The new tokens of a step."""

    ids_N: Tensor
    positions_N: Tensor
    sequences_N: Tensor
    lengths_N: Tensor | None
    embeds_NC: Tensor | None
    adapted: Sequence[AdaptedRows]

    def part(self, rows: slice) -> _Rows:
        """Return some of the rows."""
        start, stop = rows.start, min(rows.stop, len(self.ids_N))
        adapted = [AdaptedRows(max(each.start, start) - start, min(each.stop, stop) - start, each.ranks)
                   for each in self.adapted if each.start < stop and each.stop > start]  # fmt: skip
        lengths_N, embeds_NC = (None if tensor is None else tensor[rows] for tensor in (self.lengths_N, self.embeds_NC))
        return _Rows(self.ids_N[rows], self.positions_N[rows], self.sequences_N[rows], lengths_N, embeds_NC, adapted)


class NativeDecoder:
    """A model's decoder and head in native code, over the keys and values of a paged cache."""

    @staticmethod
    def reason_against(model: Transformer) -> str | None:
        """Return why this model cannot be computed here, or None; hooks are looked for later (`obstacle`). Compiles the
        code at the first call."""
        return unfit_model(model) or _machine_lacks()

    @classmethod
    def for_model(
        cls, model: Transformer, keys: Sequence[Tensor], values: Sequence[Tensor], threads: int | None = None
    ) -> NativeDecoder | None:
        """Return the decoder of a model, or None where it does not fit. A machine that cannot compile the code is told
        to the user, once."""
        try:
            return cls(model, keys, values, threads)
        except Unfit as error:
            if error.reason == _machine_lacks():
                notice(f"answers are computed by torch, which is slower: {error.reason}")
        return None

    def __init__(
        self, model: Transformer, keys: Sequence[Tensor], values: Sequence[Tensor], threads: int | None = None
    ) -> None:
        """Compute `model` over the keys and values [G, slots, D] of each layer, with `threads` threads (None: as many
        as torch has, but not more than there are cores). Raises `Unfit` for a model that does not fit, or where the
        code cannot be compiled, and a `UserError` for a cache of another shape."""
        self.model, self.keys, self.values, self.threads = model, list(keys), list(values), threads
        self._cores = free_cores()
        self._watch: Watch | None = None
        self.refresh()

    def refresh(self) -> None:
        """Compute with the weights and the configuration that the model has now. Raises `Unfit` for a model that does
        not fit (any more)."""
        self._watch = None
        check_fits(self.model)
        if (reason := _machine_lacks()) is not None:
            raise Unfit(reason)
        _check_cache(self.model, self.keys, self.values)
        model, config = self.model, self.model.config
        self._kept: list[Tensor] = []  # what the pointers lead to
        self._rotary_tables: dict[bool, tuple[Tensor, Tensor, Tensor | None]] = {}  # with context extensions, without
        blocks = [block for block in model.model.layers if isinstance(block, Block)]
        self._layers = (Layer * len(blocks))(*map(self._layer, range(len(blocks)), blocks))
        embedding = self._matrix(model.model.embed_tokens)
        self._output = weights(model.model.embed_tokens if config.tie_word_embeddings else model.lm_head)
        self._model = Model(
            layers=len(blocks),
            width=config.hidden_size,
            heads=config.num_attention_heads,
            kv_heads=config.kv_heads,
            head=config.head_size,
            wide=config.intermediate_size,
            slots=self.keys[0].shape[1],
            cache_kind=KINDS[self.keys[0].dtype],
            eps=config.rms_norm_eps,
            layer=self._layers,
            norm=self._floats(model.model.norm.weight),
            embedding=embedding,
            output=self._output.matrix,
        )
        trim_memory()  # what packing took for a moment
        self._watch = Watch(model)

    def over(self, keys: Sequence[Tensor], values: Sequence[Tensor]) -> NativeDecoder:
        """Return a decoder that reads the same weights, over other keys and values. Raises a `UserError` for a cache of
        another shape."""
        _check_cache(self.model, keys, values)
        other = copy.copy(self)
        other._rotary_tables = {}
        other.keys, other.values = list(keys), list(values)
        other._layers = type(self._layers)(*self._layers)
        for layer, key, value in zip(other._layers, keys, values):
            layer.keys, layer.values = key.data_ptr(), value.data_ptr()
        other._model = Model.from_buffer_copy(self._model)
        other._model.layer, other._model.slots = other._layers, keys[0].shape[1]
        other._model.cache_kind = KINDS[keys[0].dtype]
        return other

    def obstacle(self) -> str | None:
        """Return why only the model's own modules may compute now, or None: they have hooks or a forward pass of their
        own, or one was exchanged for a part that does not fit. Other weights are followed. Asked where an answer
        begins."""
        if self._watch is not None and (reason := self._watch.intervention()) is not None:
            return reason
        if not self.is_current:
            try:
                self.refresh()
            except Unfit as error:
                return error.reason
            return self.obstacle()
        return None

    def _layer(self, number: int, block: Block) -> Layer:
        """Return the pointers of one layer."""
        attention = block.self_attn
        layers = {**dict(attention.named_children()), **dict(block.mlp.named_children())}
        norms = dict(input_norm=block.input_layernorm, mlp_norm=block.post_attention_layernorm)
        if attention.qk_norm:
            norms |= dict(q_norm=attention.q_norm, k_norm=attention.k_norm)
        return Layer(
            **{field: self._matrix(layers[name]) for field, name in PROJECTIONS.items()},
            **{field: self._floats(norm.weight) for field, norm in norms.items()},
            keys=self.keys[number].data_ptr(),
            values=self.values[number].data_ptr(),
            window=self.model.config.window(number) or 0,
        )

    def _matrix(self, layer: nn.Module) -> Matrix:
        made: Weights = weights(layer)
        self._kept.extend(made.kept)
        return made.matrix

    def _floats(self, tensor: Tensor) -> int:
        """Keep a float32 copy of a small tensor; return its address."""
        self._kept.append(tensor.detach().float().contiguous())
        return self._kept[-1].data_ptr()

    @torch.no_grad()
    def step(
        self,
        ids_N: Tensor,
        positions_N: Tensor,
        tables_Bn: Tensor,
        *,
        sequences_N: Tensor | None = None,
        lengths_N: Tensor | None = None,
        embeds_NC: Tensor | None = None,
        wanted_W: Tensor | None = None,
        adapted: Sequence[AdaptedRows] = (),
        logits: bool = True,
    ) -> Tensor:
        """Return the logits [W, V], or (`logits=False`) the states [W, C] after the final norm, of the wanted rows
        (None: of all), in their order, in float32.

        `tables_Bn` are the block tables of B sequences, `sequences_N` says which of them is a row's (None: row i has
        table i). `lengths_N` are the lengths in tokens of the rows' prompts, which only dynamic NTK asks for;
        `embeds_NC`, from the model's `embed`, replaces the ids. `adapted` says which rows have an adapter, in their
        order. Raises an `IndexError` for ids, positions and blocks that do not exist."""
        count = len(ids_N)
        sequences_N = torch.arange(count, dtype=torch.int32) if sequences_N is None else sequences_N.int()
        wanted_W = torch.arange(count, dtype=torch.int32) if wanted_W is None else wanted_W.int()
        if count and int(positions_N.max()) >= 16 * tables_Bn.shape[1]:
            raise IndexError("a position has no block")
        rows = _Rows(ids_N.long(), positions_N.int(), sequences_N, lengths_N, embeds_NC, adapted)
        return self._compute(rows, tables_Bn.int().contiguous(), wanted_W, logits)

    def head(self, states_WC: Tensor) -> Tensor:
        """Return the logits [W, V] of states [W, C] after the final norm: the same bits as those of a step."""
        return product(self._output, states_WC, self.thread_count)

    @property
    def thread_count(self) -> int:
        """Return how many threads a step is shared out to."""
        return self.threads or min(torch.get_num_threads(), self._cores)

    @property
    def is_current(self) -> bool:
        """Return whether the model still has the parts and the tensors that are read; `refresh` follows other ones."""
        return self._watch is not None and self._watch.is_same()

    def _compute(self, rows: _Rows, tables_Bn: Tensor, wanted_W: Tensor, logits: bool) -> Tensor:
        """Return the logits [W, V] or the states [W, C] of the wanted rows, in float32."""
        count, width = len(rows.ids_N), self._model.output.rows if logits else self._model.width
        out_WX = torch.empty(len(wanted_W), width)
        if count <= MOST_ROWS:
            self._run(rows, tables_Bn, wanted_W, out_WX, logits)
            return out_WX
        if len(wanted_W) and not 0 <= int(wanted_W.min()) <= int(wanted_W.max()) < count:
            raise IndexError("a wanted row is not there")
        for start in range(0, count, MOST_ROWS):
            stop = min(start + MOST_ROWS, count)
            here_W = (wanted_W >= start) & (wanted_W < stop)
            out_WX[here_W] = self._compute(rows.part(slice(start, stop)), tables_Bn, wanted_W[here_W] - start, logits)
        return out_WX

    def _run(self, rows: _Rows, tables_Bn: Tensor, wanted_W: Tensor, out_WX: Tensor, logits: bool) -> None:
        """Compute up to `MOST_ROWS` rows, into `out_WX`."""
        cosine, sine, scale, by_position = self._rotary(rows)
        states_WC = torch.empty(len(wanted_W), self._model.width) if logits else out_WX
        given = dict(ids=rows.ids_N if rows.embeds_NC is None else None, positions=rows.positions_N,
                     embeddings=None if rows.embeds_NC is None else rows.embeds_NC.float(),
                     sequences=rows.sequences_N, tables=tables_Bn, cosine=cosine, sine=sine, query_scale=scale,
                     wanted=wanted_W, states=states_WC, logits=out_WX if logits else None)  # fmt: skip
        tensors = {name: tensor.contiguous() for name, tensor in given.items() if tensor is not None}
        groups = (Group * len(rows.adapted))(
            *(Group(each.start, each.stop, each.ranks.pointer) for each in rows.adapted)
        )
        step = Step(
            rows=len(rows.ids_N),
            threads=self.thread_count,
            table_count=len(tables_Bn),
            table_width=tables_Bn.shape[1],
            rotary_by_position=by_position,
            wanted_count=len(wanted_W),
            group_count=len(groups),
            low_kind=KINDS[low_dtype(self.model)],
            groups=ctypes.addressof(groups),
            **{name: tensor.data_ptr() for name, tensor in tensors.items()},
        )
        if (wrong := library().qk_step(byref(self._model), byref(step))) is not None:
            raise IndexError(wrong.decode())

    def _rotary(self, rows: _Rows) -> tuple[Tensor, Tensor, Tensor | None, bool]:
        """Return cosines and sines, [N, D/2] of these rows or [P, D/2] of all positions, the factors [N] of the
        queries, and whether the tables are by position. What does not depend on lengths is computed once."""
        config, positions_N = self.model.config, rows.positions_N
        extended = not self.model.training
        if extended and config.extension is not None and config.extension.dynamic_ntk:
            lengths_N = positions_N + 1 if rows.lengths_N is None else rows.lengths_N
            rotary = rotary_tables(config, positions_N[None].long(), lengths_N[None])
            scale = None if rotary.query_scale is None else rotary.query_scale.flatten()
            return rotary.cos[0, 0], rotary.sin[0, 0], scale, False
        last = int(positions_N.max())
        if extended not in self._rotary_tables or len(self._rotary_tables[extended][0]) <= last:
            rotary = rotary_tables(config, torch.arange(max(512, 2 * last))[None], extended=extended)
            scale = None if rotary.query_scale is None else rotary.query_scale.flatten()
            self._rotary_tables[extended] = rotary.cos[0, 0].contiguous(), rotary.sin[0, 0].contiguous(), scale
        cosine, sine, scale = self._rotary_tables[extended]
        return cosine, sine, None if scale is None else scale[positions_N.long()], True


def _machine_lacks() -> str | None:
    """Return why the code cannot run on this machine, or None. Compiles it at the first call."""
    try:
        library()
    except Unavailable as error:
        return str(error)
    return None


def _check_cache(model: Transformer, keys: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Raise a `UserError` for a cache of another shape."""
    config = model.config
    shapes = {tuple(tensor.shape) for tensor in (*keys, *values)}
    slots = keys[0].shape[1] if keys else 0
    wanted = (config.kv_heads, slots, config.head_size)
    fits = len(keys) == len(values) == config.num_hidden_layers and shapes == {wanted} and slots % 16 == 0
    kinds = {(tensor.dtype, tensor.device.type, tensor.is_contiguous()) for tensor in (*keys, *values)}
    if not fits or len(kinds) != 1 or keys[0].dtype not in KINDS or not keys[0].is_contiguous():
        raise UserError(
            f"keys and values of shapes {sorted(map(list, shapes))} in {len(keys)} layers",
            expected=f"{config.num_hidden_layers} layers of contiguous float32, bf16 or float16 tensors "
            f"[{config.kv_heads}, slots, {config.head_size}], slots a multiple of 16",
        )
