"""The processes that train one model together, and how they agree.

    world.rank, world.size               # this process's number, and how many there are
    world.sum(tensor)                    # over all processes
    world.agree(clock_says_so)           # what rank 0 says, in all of them
    world.any(signal_came)               # whether one of them says so
    together(world, work)                # fails in all processes where it fails in one

Every process runs the same code on its own share of the data. What could differ between them (a clock, a signal, an
alarm, a full disk) is asked through the world, so that all save, stop and fail at the same step: else one would wait
for ever for an exchange that another never comes to. `Alone`, the world of one process, does nothing at all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeVar

from qwenkit.errors import QwenkitError, Stopped

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")


class World(Protocol):
    """The processes of a training. Every method is an exchange: all processes call it, in the same order."""

    @property
    def rank(self) -> int:
        """Return the number of this process, from 0; that of rank 0 logs and saves."""
        ...

    @property
    def size(self) -> int:
        """Return the number of processes."""
        ...

    def sum(self, tensor: Tensor, /) -> Tensor:
        """Return the sum of all processes' tensors of one shape, the same bits in each; the tensor may be
        overwritten."""
        ...

    def gather(self, value: T, /) -> list[T]:
        """Return the plain values of all processes, in the order of their ranks."""
        ...

    def agree(self, value: T, /) -> T:
        """Return the plain value of rank 0."""
        ...

    def any(self, flag: bool, /) -> bool:
        """Return whether the flag is true in one of the processes."""
        ...


class Alone:
    """The world of one process."""

    rank, size = 0, 1

    def __repr__(self) -> str:
        """Return `Alone()`."""
        return "Alone()"

    def sum(self, tensor: Tensor, /) -> Tensor:
        """Return the tensor."""
        return tensor

    def gather(self, value: T, /) -> list[T]:
        """Return the value in a list."""
        return [value]

    def agree(self, value: T, /) -> T:
        """Return the value."""
        return value

    def any(self, flag: bool, /) -> bool:
        """Return the flag."""
        return flag


ALONE = Alone()


class ProcessGroup:
    """The world of `torch.distributed`, once its default process group exists.

    That group exchanges tensors of the model's device and of the CPU (`gloo`, or `cpu:gloo,cuda:nccl`), so that plain
    values, which travel as pickles between processes of one training, never wait for an accelerator."""

    def __init__(self) -> None:
        """Take rank and size from the process group."""
        import torch
        from torch import distributed

        self._flag, self._group = torch.zeros(1, dtype=torch.int32), distributed
        self.rank, self.size = distributed.get_rank(), distributed.get_world_size()

    def sum(self, tensor: Tensor, /) -> Tensor:
        """Return the sum over all processes, in place of the tensor."""
        self._group.all_reduce(tensor)
        return tensor

    def gather(self, value: T, /) -> list[T]:
        """Return the values of all processes, in the order of their ranks."""
        values = [value] * self.size
        self._group.all_gather_object(values, value)
        return values

    def agree(self, value: T, /) -> T:
        """Return the value of rank 0."""
        values = [value]
        self._group.broadcast_object_list(values, src=0)
        return values[0]

    def any(self, flag: bool, /) -> bool:
        """Return whether the flag is true in one of the processes."""
        self._flag.fill_(flag)
        self._group.all_reduce(self._flag, op=self._group.ReduceOp.MAX)
        return bool(self._flag)


def together(world: World, work: Callable[[], T]) -> T:
    """Return what `work()` gives in this process, once it is done in all of them.

    Where it fails in one process it fails in all: that process raises its own error, the others raise the first of
    those. `work` exchanges nothing itself: else one would ask here who failed while another waits in there."""
    if world.size == 1:
        return work()
    try:
        result, error = work(), None
    except Exception as caught:
        result, error = None, caught
    if world.any(error is not None):
        reports = world.gather(None if error is None else _report(error, world.rank))
        raise next(each for each in reports if each) if error is None else error
    return result  # pyright: ignore[reportReturnType]


def _report(error: Exception, rank: int) -> QwenkitError:
    """Return an error in a form that other processes can raise."""
    return error if isinstance(error, QwenkitError) else Stopped(f"the process of rank {rank} failed: {error}")
