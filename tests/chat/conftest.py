"""A tiny chat tokenizer, and Qwen's own where the test data holds its vocabulary."""

from __future__ import annotations

from pathlib import Path

import pytest

from qwenkit.chat import ChatTokenizer, load_tokenizer
from qwenkit.tokenizer import train_bpe

TEXTS = [
    "user\n\nassistant\n\nsystem\n\nHello! How can I help?\n\n",
    "你好，我是一个语言模型。天气晴。\n\n",
    '{"name": "weather", "arguments": {"city": "x"}}\n<tool_call>\n</tool_call>',
] * 9


@pytest.fixture(scope="session")
def tiny() -> ChatTokenizer:
    return ChatTokenizer(train_bpe(TEXTS, vocab_size=350))


@pytest.fixture(scope="session")
def qwen(real_data: Path) -> ChatTokenizer:
    path = real_data / "tokenizer" / "qwen.tiktoken"
    if not path.is_file():
        pytest.skip(f"no true vocabulary at {path}: set QWENKIT_TEST_DATA")
    return load_tokenizer(path)
