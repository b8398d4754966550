"""The README.md of a model that is given away: what it is, what it was made from, under which licences its data came.

    text = model_card(Path("runs/nano/chat"), "me/nano-chat", license="apache-2.0")

All of it is read from the manifests of the run folder; of a folder from elsewhere there is little to say. The licence
of the model itself is for its owner to state: where none is given the card says that there is none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qwenkit import artifacts
from qwenkit.artifacts import MANIFEST, Manifest
from qwenkit.errors import UserError
from qwenkit.records import read_object


def model_card(folder: Path, repo: str, license: str | None = None) -> str:
    """The card as Markdown, with the Hub's metadata on top."""
    ancestors = dict(_ancestors(folder))
    bases = sorted(
        {item["hub"] for manifest in ancestors.values() for item in manifest.inputs.values() if "hub" in item}
    )
    parts = [_metadata(folder, bases, license, ancestors), f"# {repo.rpartition('/')[2]}", *_opening(folder, ancestors)]
    parts.append(f"Licence: {license}." if license else "No licence is stated for this model.")
    if bases:
        parts.append(
            "It was trained from " + ", ".join(f"[{base}](https://huggingface.co/{base})" for base in bases) + "."
        )
    if data := _licences(ancestors):
        parts += ["## Training data by licence", _table(("licence", "documents", "characters"), data)]
    if ancestors:
        rows = [(name, found.kind, found.digest[:12], found.headline) for name, found in ancestors.items()]
        parts += ["## Lineage", _table(("node", "kind", "digest", ""), rows),
                  "`manifest.json` holds the key, the inputs and the digest of every file."]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _ancestors(folder: Path) -> Iterator[tuple[str, Manifest]]:
    """The artifact and all that it was made from, each once, as far as the run folder still holds them."""
    waiting, seen = [(folder, "")], set[str]()
    while waiting:
        path, digest = waiting.pop(0)
        if path.name in seen or not (path / MANIFEST).exists():
            continue
        manifest = artifacts.read_manifest(path)
        if digest in ("", manifest.digest):
            seen.add(path.name)
            yield manifest.node, manifest
            waiting += [
                (folder.parent / item["node"], item["digest"]) for item in manifest.inputs.values() if item.get("node")
            ]


def _metadata(folder: Path, bases: list[str], license: str | None, ancestors: dict[str, Manifest]) -> str:
    """The block that the Hub reads."""
    scores = _architecture(folder).endswith("ForSequenceClassification")
    languages = sorted({name for manifest in ancestors.values() for name in manifest.metrics.get("by_language", {})})
    lines = [
        *([f"license: {license}"] if license else []),
        *(["base_model:", *(f"- {base}" for base in bases)] if bases else []),
        *(["language:", *(f"- {name}" for name in languages if len(name) == 2)] if languages else []),
        "library_name: transformers",
        f"pipeline_tag: {'text-classification' if scores else 'text-generation'}",
        "tags:\n- qwenkit",
    ]
    return "\n".join(["---", *lines, "---"])


def _opening(folder: Path, ancestors: dict[str, Manifest]) -> list[str]:
    """What it is, in a sentence or two."""
    architecture = _architecture(folder)
    made = next(iter(ancestors.values()), None)
    told = f", made by [qwenkit](https://arxiv.org/abs/2309.16609) (`{made.kind}`): {made.headline}" if made else ""
    return [f"A `{architecture}`{told}."]


def _architecture(folder: Path) -> str:
    named = read_object(folder / "config.json").get("architectures")
    return str(named[0]) if isinstance(named, list) and named else "model"


def _licences(ancestors: dict[str, Manifest]) -> list[tuple[Any, ...]]:
    """Documents and characters of the corpora by licence."""
    documents, characters = Counter[str](), Counter[str]()
    for manifest in ancestors.values():
        for licence, found in manifest.metrics.get("by_licence", {}).items():
            documents[licence] += found["documents"]
            characters[licence] += found["characters"]
    return [(licence, f"{documents[licence]:,}", f"{characters[licence]:,}") for licence in sorted(documents)]


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def refuse_unfinished(folder: Path) -> None:
    """What is given away opens, weights and tokenizer, and is what its manifest says."""
    from qwenkit.chat import load_tokenizer
    from qwenkit.model import load_model, load_scalar

    if not folder.is_dir():
        raise UserError("no such folder", where=str(folder), expected="a model's folder")
    if (folder / MANIFEST).exists():
        lines = artifacts.damage(folder)
        if lines and not artifacts.only_stray(lines):
            raise artifacts.damaged(folder, lines, "fetch or make it again")
    load = load_scalar if (folder / "config.json").is_file() and _scores(folder) else load_model
    load(folder, device="cpu")
    load_tokenizer(folder)


def _scores(folder: Path) -> bool:
    return _architecture(folder).endswith("ForSequenceClassification")
