"""A tiny vocabulary learned from both languages, and the true one where the test data holds it."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from qwenkit.tokenizer import Tokenizer, load, train_bpe

TEXTS = [
    "The quick brown fox jumps over the lazy dog. It's 12 o'clock, isn't it?\n",
    "通义千问是一个语言模型。语言模型可以回答问题，也可以写代码。\n",
    "def add(a, b):\n    return a + b\n\nprint(add(1, 2))\n",
    "user assistant system user assistant system\n",
] * 5


@pytest.fixture(scope="session")
def tiny() -> Tokenizer:
    return train_bpe(TEXTS, vocab_size=340)


def declaration(real_data: Path, language: str) -> list[str]:
    """The paragraphs of the Universal Declaration of Human Rights."""
    with zipfile.ZipFile(real_data / "udhr2" / "udhr2.zip") as archive:
        name = next(name for name in archive.namelist() if name.endswith(f"/{language}.txt"))
        return archive.read(name).decode("utf-8").splitlines(keepends=True)


@pytest.fixture(scope="session")
def real_greek(real_data: Path) -> list[str]:
    return declaration(real_data, "ell_monotonic")


@pytest.fixture(scope="session")
def real_texts(real_data: Path) -> list[str]:
    return [line for language in ("eng", "cmn_hans", "tha", "rus") for line in declaration(real_data, language)]


@pytest.fixture(scope="session")
def vocabulary(real_data: Path) -> Path:
    path = real_data / "tokenizer" / "qwen.tiktoken"
    if not path.is_file():
        pytest.skip(f"no true vocabulary at {path}: set QWENKIT_TEST_DATA")
    return path


@pytest.fixture(scope="session")
def qwen(vocabulary: Path) -> Tokenizer:
    return load(vocabulary)
