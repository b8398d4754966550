"""What an engine does and has done, in numbers."""

from __future__ import annotations

from typing import NamedTuple


class EngineStats(NamedTuple):
    """Sequences, tokens and places of an engine. Counts are since its start."""

    running: int
    """Sequences in the batch."""
    waiting: int
    """Sequences in the queue."""
    prompt_tokens_asked: int
    """Tokens of the prompts that entered the batch."""
    prompt_tokens_found: int
    """Those of them that were in the cache already."""
    prompt_tokens_computed: int
    """Tokens that were read in pieces: those that were not found, and those computed again after a preemption."""
    tokens_generated: int
    """Tokens of answers behind their first ones."""
    tokens_guessed: int
    """Tokens that were guessed to follow, right or wrong."""
    preemptions: int
    """How often a sequence had to give its blocks back."""
    kv_tokens: int
    """Tokens that the cache has room for."""
    kv_tokens_used: int
    """Tokens of the blocks that belong to sequences."""
