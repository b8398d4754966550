"""The invented world that the smallest family is trained on: its facts, texts, chats, preferences and tests.

Plain generators, all from one seed; no tensors. Only `stages/world.py` imports this package.
"""

from qwenkit.nano.warc import write_warc
from qwenkit.nano.world import SCALES, Scale, World, build_world

__all__ = ["SCALES", "Scale", "World", "build_world", "write_warc"]
