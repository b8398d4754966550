"""Clients that the extra `clients` brings."""

from __future__ import annotations

import importlib
import logging
import os
from typing import Any

import pytest

for name in ("LANGSMITH_TRACING", "LANGCHAIN_TRACING_V2"):
    os.environ[name] = "false"
os.environ["OPENAI_AGENTS_DISABLE_TRACING"] = "1"


def client_module(name: str) -> Any:
    """Return a module of a client, or skip in words."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        pytest.skip(f"{name.partition('.')[0]} is not installed: pip install 'qwenkit[clients]' ({error})")
    finally:
        logging.getLogger("httpx").setLevel(logging.WARNING)
