"""What agents use: the sandbox in which the code that a model writes is run, and an interpreter in it.

- `interpreter.py`: `Interpreter`, Python whose state stays between calls, and `CellResult`
- `kernel.py`: its Jupyter kernel in a sandbox, and the conversation with that
- `byte_gate.py`: what a kernel sends waits until it is taken, however much it is
- `cell_output.py`: what one cell has written, drawn and raised, within bounds
"""

from typing import TYPE_CHECKING

from qwenkit.lazy import lazy
from qwenkit.sandbox import Limits, Result, Sandbox, SandboxError

if TYPE_CHECKING:
    from qwenkit.agents.interpreter import CellResult, Interpreter

__all__ = ["CellResult", "Interpreter", "Limits", "Result", "Sandbox", "SandboxError"]

_HOME = {"CellResult": "interpreter", "Interpreter": "interpreter"}
__getattr__, __dir__ = lazy(__name__, _HOME)
