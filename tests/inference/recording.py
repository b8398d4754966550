"""A recording as a GPU's: what a function launched, at the sizes and addresses of that one call, without its Python."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

READS = frozenset("_local_scalar_dense nonzero masked_select _unique2 unique_dim bincount is_nonzero equal".split())
"""Operations whose result, or whose size, the host must know."""


class Tape(TorchDispatchMode):
    """The operations of what runs inside the `with` block; `replay` runs them again into the same tensors.

    Raises a `RuntimeError` for an operation that a GPU's recording refuses: one that the host waits for."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Callable[..., Any], Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in READS or (name in ("index", "index_put_") and _by_mask(args)):
            raise RuntimeError(f"{name} is not permitted when a stream is captured\nand more lines")
        out = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, out))
        return out

    @torch.inference_mode()
    def replay(self) -> None:
        for func, args, kwargs, out in self.calls:
            for old, new in zip(_tensors(out), _tensors(func(*args, **kwargs))):
                if not _shares_memory(old, _tensors((args, kwargs))):
                    old.copy_(new)


class TapeRecorder:
    """Records on a tape, after the calls that warm up; `fails` from that recording on."""

    def __init__(self, fails: int | None = None) -> None:
        self.fails, self.recorded, self.replays = fails, 0, 0

    def record(self, function: Callable[[], None]) -> Callable[[], None]:
        self.recorded += 1
        if self.fails is not None and self.recorded >= self.fails:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB.\nand more lines")
        function()
        tape = Tape()
        with tape:
            function()

        def run() -> None:
            self.replays += 1
            tape.replay()

        return run


class Reads(TorchDispatchMode):
    """Counts what the host reads inside the `with` block: operations in `READS`, and lists out of tensors."""

    def __init__(self, patch: Any) -> None:
        super().__init__()
        self.names: list[str] = []
        as_list = Tensor.tolist

        def tolist(tensor: Tensor) -> Any:
            self.names.append("tolist")
            return as_list(tensor)

        patch.setattr(Tensor, "tolist", tolist)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in READS or (name in ("index", "index_put_") and _by_mask(args)):
            self.names.append(name)
        return func(*args, **(kwargs or {}))


def _by_mask(args: Any) -> bool:
    return any(isinstance(index, Tensor) and index.dtype == torch.bool for index in args[1])


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _shares_memory(tensor: Tensor, others: Iterable[Tensor]) -> bool:
    address = tensor.untyped_storage().data_ptr()
    return any(other.untyped_storage().data_ptr() == address for other in others)
