"""What the code of the package looks like in figures: lengths, types, docstrings, names.

    python benchmarks/code_metrics.py                      # the working tree
    python benchmarks/code_metrics.py --at TAG --at HEAD   # beside commits, oldest first

| row                                    | counts                                                                  |
| -------------------------------------- | ----------------------------------------------------------------------- |
| functions, their lines                 | every `def`, nested ones and methods too, from `def` to its last line   |
| public definitions                     | functions, methods and classes whose names, and whose classes', begin   |
|                                        | with no underscore; of them those without a docstring                   |
| `Any` in public signatures             | in annotations of their arguments and results, inside containers too    |
| participles as names                   | `found`, `told`, `said`, `seen`, `held` as variables, arguments and     |
|                                        | attributes that are assigned                                            |
"""

from __future__ import annotations

import argparse
import ast
import io
import statistics
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
PARTICIPLES = {"found", "told", "said", "seen", "held"}
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class Counts:
    """What is counted over the files of one tree."""

    files: list[int] = field(default_factory=list)
    """Lines of each file."""
    functions: list[int] = field(default_factory=list)
    """Lines of each function."""
    public: int = 0
    undocumented: int = 0
    any_everywhere: int = 0
    any_public: int = 0
    participles: int = 0

    def table(self) -> dict[str, str]:
        """Return the rows of the table, in order."""
        lengths = sorted(self.functions)
        return {
            "files": f"{len(self.files):,}",
            "lines": f"{sum(self.files):,}",
            "lines of the longest file": f"{max(self.files):,}",
            "files of 400 lines and more": f"{sum(lines >= 400 for lines in self.files)}",
            "functions": f"{len(lengths):,}",
            "lines of a function, median": f"{statistics.median(lengths):g}",
            "lines of a function, 95th percentile": f"{lengths[int(0.95 * len(lengths))]}",
            "lines of the longest function": f"{lengths[-1]}",
            "public definitions": f"{self.public:,}",
            "of them without a docstring": f"{self.undocumented:,}",
            "`Any` in public signatures": f"{self.any_public:,}",
            "`Any` everywhere": f"{self.any_everywhere:,}",
            "participles as names": f"{self.participles:,}",
        }


def count(package: Path) -> Counts:
    """Return the counts of all Python files of a folder."""
    counts = Counts()
    for path in sorted(package.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        counts.files.append(len(text.splitlines()))
        counts.any_everywhere += anys(tree)
        counts.participles += sum(name in PARTICIPLES for _, name in assigned(tree))
        _definitions(tree, counts, public=True)
    return counts


def _definitions(node: ast.AST, counts: Counts, public: bool) -> None:
    """Count the definitions below a node; what stands inside a function is not public."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, Function | ast.ClassDef):
            _definitions(child, counts, public)
            continue
        reachable = public and not child.name.startswith("_")
        if isinstance(child, Function):
            counts.functions.append((child.end_lineno or child.lineno) - child.lineno + 1)
        if reachable:
            counts.public += 1
            counts.undocumented += ast.get_docstring(child) is None
            counts.any_public += sum(map(anys, annotations(child))) if isinstance(child, Function) else 0
        _definitions(child, counts, reachable and isinstance(child, ast.ClassDef))


def annotations(function: Function) -> Iterator[ast.expr]:
    """Yield the annotations of a function's arguments and of its result."""
    given = function.args
    arguments = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    yield from (argument.annotation for argument in arguments if argument and argument.annotation)
    if function.returns:
        yield function.returns


def anys(node: ast.AST) -> int:
    """Return how often `Any` stands below a node."""
    return sum(isinstance(part, ast.Name) and part.id == "Any" for part in ast.walk(node))


def assigned(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield (line, name) of variables and attributes that are assigned, and of arguments."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg


def count_commit(commit: str) -> Counts:
    """Return the counts of the package as it was at a commit."""
    command = ["git", "archive", commit, "src/qwenkit"]
    archive = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(archive)) as members:
            members.extractall(folder, filter="data")
        return count(Path(folder) / "src" / "qwenkit")


def main() -> None:
    """Print the table, a column for each tree."""
    parser = argparse.ArgumentParser(description="The package in figures.")
    parser.add_argument("--at", action="append", default=[], help="a commit to count beside the working tree")
    commits = parser.parse_args().at
    columns = {commit: count_commit(commit).table() for commit in commits}
    columns["working tree"] = count(ROOT / "src" / "qwenkit").table()
    print("| " + " | ".join(["", *columns]) + " |\n|---" + "|---:" * len(columns) + "|")
    for row in columns["working tree"]:
        print("| " + " | ".join([row, *(column[row] for column in columns.values())]) + " |")


if __name__ == "__main__":
    main()
