"""What the pages name exists: files, functions, packages, kinds and commands; and what they deny does not."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from qwenkit.stages import KINDS
from tests.docs import faces, pages

PACKAGE = pages.ROOT / "src" / "qwenkit"
HISTORY = {"CHANGELOG.md", "LOG.md", "glossary.md"}
"""Pages that speak of what was: their old names exist no more."""
ARCHITECTURE = pages.DOCS / "architecture.md"
FILE = r"[\w-]+(?:/[\w-]+)*/?\.?[\w-]+\.(?:py|toml|jinja|j2|css|js|html|txt)"
CURRENT = [page for page in pages.all_pages() if page.name not in HISTORY and "results" not in page.parts]


def in_backticks(text: str) -> list[str]:
    """Return what stands in backticks outside of blocks of code."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M))


def exists(name: str, page: Path) -> bool:
    """Whether a path is one of the package, of the repository, or of the page's own folder."""
    return any((folder / name).exists() for folder in (PACKAGE, PACKAGE.parent, pages.ROOT, page.parent))


@cache
def defined(path: Path) -> set[str]:
    """Return the names that a module defines, those of its classes' methods too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    assigned = (node for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))
    return names | {node.id for node in assigned}


@cache
def vocabulary() -> set[str]:
    """Return every word of the package's source."""
    files = [path for path in PACKAGE.rglob("*") if path.suffix in (".py", ".toml", ".jinja")]
    return {word for path in files for word in re.findall(r"\w+", path.read_text(encoding="utf-8"))}


@pytest.mark.parametrize("page", CURRENT, ids=lambda page: page.stem)
def test_paths_to_code_exist(page: Path) -> None:
    for word in in_backticks(page.read_text(encoding="utf-8")):
        path = word.partition(":")[0]
        if "/" in path and re.fullmatch(FILE, path) and path.split("/")[0] != "runs" and "NAME" not in path:
            assert exists(path, page), f"{page.name}: {word}"


def test_the_report_leads_to_functions_that_exist() -> None:
    text = (pages.DOCS / "reading.md").read_text(encoding="utf-8")
    references = [word.split(":") for word in in_backticks(text) if re.match(rf"{FILE}(?::|$)", word)]
    assert len(references) > 60
    for path, *names in references:
        assert (PACKAGE / path).is_file(), path
        assert set(names) <= defined(PACKAGE / path) if path.endswith(".py") else not names, f"{path}: {names}"


def test_the_report_is_read_section_by_section() -> None:
    text = (pages.DOCS / "reading.md").read_text(encoding="utf-8")
    sections = ["§2.1", "§2.2", "§2.3", "§2.4", "§2.5", "§2.6", "§3.1", "§3.2", "§3.3", "§3.4", "§4", "A.1"]
    heads = re.findall(r"^## (\S+)", text, re.M)
    assert [head for head in heads if head in sections] == sections


def test_names_of_the_architecture_are_words_of_the_code() -> None:
    text = ARCHITECTURE.read_text(encoding="utf-8").split("## Not there yet")[0]
    text = text.split("## Contracts between packages")[1].split("## Where we left")[0]
    for word in in_backticks(text):
        called = re.match(r"\.?([A-Za-z_][\w.]*)(?:\(|$| )", word)
        if called and "/" not in word:
            assert set(called[1].split(".")) - {"tok", "model", "config"} <= vocabulary(), word


@pytest.mark.parametrize("package", ["alignment", "chat", "data/tokens", "inference", "inference/native", "lineage",
                                     "model", "sandbox", "sandbox/inside", "training"])  # fmt: skip
def test_a_package_names_all_its_files(package: str) -> None:
    """The docstring of a package is its map: a file that is not on it is not found."""
    folder = PACKAGE / package
    text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""
    files = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    assert files <= set(re.findall(r"`(\w+)(?:\.py)?`", text))
    assert {Path(name).stem for name in re.findall(r"`(\w+\.py)`", text)} <= files


def test_what_is_not_there_yet_is_not_there() -> None:
    text = ARCHITECTURE.read_text(encoding="utf-8").split("## Not there yet")[1]
    denied = {word for word in in_backticks(text) if re.fullmatch(r"[a-z]+", word)}
    commands = {name for name, _ in faces.own_commands()}
    packages = {path.name for path in PACKAGE.iterdir() if path.is_dir()}
    assert {"dpo", "mcp", "vision"} <= denied
    assert not denied & ({*KINDS} | commands | packages)


def test_the_glossary_names_what_replaced_the_old() -> None:
    text = (pages.DOCS / "glossary.md").read_text(encoding="utf-8").split("### Modules")[1]
    rows = re.findall(r"^\| (`.*) \| (`.*) \|$", text, re.M)
    assert rows
    for old, new in rows:
        for word in in_backticks(new):
            assert exists(word, pages.ROOT) if "/" in word or "." in word else word in vocabulary(), word
        for word in in_backticks(old):
            path = PACKAGE / word.replace(".", "/")
            assert not path.with_suffix(".py").exists() or "." not in word, f"{word} still exists"


def test_commands_of_the_glossary_exist() -> None:
    text = (pages.DOCS / "glossary.md").read_text(encoding="utf-8").split("### Commands")[1].split("### Modules")[0]
    page = (pages.DOCS / "cli.md").read_text(encoding="utf-8")
    for new in re.findall(r"^\| .* \| (`.*) \|$", text, re.M):
        for word in in_backticks(new):
            assert f"`{word}`" in page or f"## `qwenkit {word}`" in page, word
