"""What agents use: the sandbox in which the code that a model writes is run."""

from qwenkit.sandbox import Limits, Result, Sandbox, SandboxError

__all__ = ["Limits", "Result", "Sandbox", "SandboxError"]
