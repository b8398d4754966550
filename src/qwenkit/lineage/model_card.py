"""The model card, `README.md` in the folder of every model: what it is, how to open it, what it was made from and how,
and the licences of its data.

    write_model_card(out, Path("runs/nano"))           # before a model is published
    text = card_to_give(Path("runs/nano/chat"), "me/nano-chat", license="apache-2.0")      # for the Hub

All of it is read from the manifests of the run folder; a folder from elsewhere has a short card. The licence of the
model itself is for its owner to state: where none is given the card says so. The card is documentation and not content
of the artifact: its owner may edit it, and no digest changes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qwenkit import artifacts
from qwenkit.adapter_files import described_at
from qwenkit.artifacts import CARD, MANIFEST, Manifest
from qwenkit.errors import UserError
from qwenkit.hub import parse
from qwenkit.json_values import mapping, number, sequence
from qwenkit.records import read_object, write_bytes
from qwenkit.schema import current_names
from qwenkit.stages import KINDS, load_stage
from qwenkit.toml_file import toml_value

MARK = "<!-- written by qwenkit -->"
UNSTATED = "No licence is stated for this model."


def write_model_card(folder: Path, run_dir: Path) -> None:
    """Write a card into the folder of a model that has none; `run_dir` holds what it was made from."""
    path = folder / CARD
    if (folder / "config.json").is_file() and any(folder.glob("*.safetensors")) and not path.exists():
        write_bytes(path, model_card(folder, run_dir=run_dir).encode(errors="replace"))


def card_to_give(folder: Path, repo: str, license: str | None = None) -> str | None:
    """Return the card under the repository name and licence with which the model is published; None where its owner
    wrote one.

    Raises a `UserError` for a malformed licence identifier."""
    if license is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,63}", license):
        raise UserError(f"{license!r} is not a licence", where="--license",
                        expected="an identifier as the Hub knows it: apache-2.0, mit, cc-by-4.0, other")  # fmt: skip
    if not (folder / CARD).is_file():
        return model_card(folder, repo, license)
    text = (folder / CARD).read_text(encoding="utf-8", errors="replace")
    if MARK not in text:
        return None
    text = re.sub(r"^# .*$", lambda _: f"# {repo.rpartition('/')[2]}", text, count=1, flags=re.M)
    if license:
        text = text.replace(UNSTATED, f"Licence: {license}.", 1).replace("---\n", f"---\n{_yaml(license=license)}", 1)
    return text


def model_card(folder: Path, repo: str = "", license: str | None = None, run_dir: Path | None = None) -> str:
    """Return the card as Markdown, with the Hub's metadata on top; its title is the name of the repository, or of the
    node."""
    ancestors = dict(_ancestors(folder, run_dir or folder.parent))
    name = repo.rpartition("/")[2] or next(iter(ancestors), folder.name)
    named = {item["hub"] for manifest in ancestors.values() for item in manifest.inputs.values() if "hub" in item}
    bases = sorted(base for base in named if parse(base) is not None)
    parts = [_metadata(folder, bases, license, ancestors), f"# {name}", *_opening(folder, ancestors)]
    parts.append(f"Licence: {license}." if license else UNSTATED)
    if bases:
        parts.append(
            "It was trained from " + ", ".join(f"[{base}](https://huggingface.co/{base})" for base in bases) + "."
        )
    parts += ["## Use", *_use(folder)]
    for counted in ("licence", "source"):
        head, rows = _texts(ancestors, counted)
        if rows:
            parts += [f"## Training data by {counted}", _table(head, rows)]
    if ancestors:
        rows = [(name, manifest.kind, manifest.digest[:12], manifest.headline) for name, manifest in ancestors.items()]
        parts += ["## Lineage", _table(("node", "kind", "digest", ""), rows),
                  "`manifest.json` holds the key, the inputs and the digest of every file."]  # fmt: skip
        settings = [line for manifest in ancestors.values() if (line := _settings(manifest))]
        parts += ["## Recipe", "What was set, where it is not the default:", "\n".join(settings)]
    return "\n\n".join([*parts, MARK]) + "\n"


def _use(folder: Path) -> Iterator[str]:
    """Yield how to chat with the model, and how other programs open it."""
    from qwenkit.chat import load_tokenizer

    scores, remote = _scores(folder), _architecture(folder) == "QWenLMHeadModel"
    if any((folder / name).exists() for name in ("tokenizer.json", "qwen.tiktoken")):
        style = load_tokenizer(folder).style
        rendering = (
            f"Chats are rendered in the style `{style}`" if style else "Chats are rendered by the folder's template"
        )
        yield rendering + ("; a chat's score stands at its last `<|im_end|>`." if scores else ".")
    kind = "AutoModelForSequenceClassification" if scores else "AutoModelForCausalLM"
    trust = ", trust_remote_code=True" if remote else ""
    lines = [
        f"from transformers import {kind}, AutoTokenizer", "",
        f'model = {kind}.from_pretrained("PATH"{trust})', f'tokenizer = AutoTokenizer.from_pretrained("PATH"{trust})',
    ]  # fmt: skip
    yield "\n".join(["```python", *lines, "```"])
    if not scores:
        yield f"```sh\nvllm serve PATH{' --trust-remote-code' if remote else ''}\n```"


def _settings(manifest: Manifest) -> str:
    """Return the keys of one node that are not at their defaults, and its seed."""
    fields: dict[str, Any] = load_stage(manifest.kind).Config.model_fields if manifest.kind in KINDS else {}
    known: dict[str, Any] = {key: field.get_default(call_default_factory=True) for key, field in fields.items()}
    config = current_names(manifest.kind, manifest.config)
    changed = {key: value for key, value in config.items() if key not in known or known[key] != value}
    words = [f"{key} = {toml_value(value)}" for key, value in changed.items()]
    return f"* {manifest.node} (seed {manifest.seed}): `{', '.join(words)}`" if words else ""


def _ancestors(folder: Path, run_dir: Path) -> Iterator[tuple[str, Manifest]]:
    """Yield the artifact and everything that it was made from, each once, as far as the run folder still has it."""
    waiting, visited = [(folder, "")], set[Path]()
    while waiting:
        path, digest = waiting.pop(0)
        if path in visited or not (path / MANIFEST).exists():
            continue
        manifest = artifacts.read_manifest(path)
        if digest in ("", manifest.digest):
            visited.add(path)
            yield manifest.node, manifest
            waiting += [
                (run_dir / item["node"], item["digest"]) for item in manifest.inputs.values() if item.get("node")
            ]


def _metadata(folder: Path, bases: list[str], license: str | None, ancestors: dict[str, Manifest]) -> str:
    """Return the block that the Hub reads."""
    scores = _architecture(folder).endswith("ForSequenceClassification")
    languages = {str(name) for manifest in ancestors.values() for name in mapping(manifest.metrics.get("by_language"))}
    lines = _yaml(
        license=license,
        base_model=bases,
        language=sorted(name for name in languages if re.fullmatch("[a-z]{2}", name)),
        library_name="transformers",
        pipeline_tag="text-classification" if scores else "text-generation",
        tags=["qwenkit"],
    )
    return f"---\n{lines}---"


def _yaml(**values: Any) -> str:
    """Return the given values as YAML: `no` is a language there, and not a boolean."""
    from huggingface_hub.utils import yaml_dump

    return yaml_dump({key: value for key, value in values.items() if value}, sort_keys=False)


def _opening(folder: Path, ancestors: dict[str, Manifest]) -> list[str]:
    """Return what the model is, in a sentence or two."""
    architecture = _architecture(folder)
    made = next(iter(ancestors.values()), None)
    origin = f", made by [qwenkit](https://arxiv.org/abs/2309.16609) (`{made.kind}`): {made.headline}" if made else ""
    return [" ".join(f"A `{architecture}`{origin}.".split())]


def _architecture(folder: Path) -> str:
    config_json = described_at(folder) / "config.json"
    named = next(map(str, sequence(read_object(config_json).get("architectures"))), "model")
    return named if re.fullmatch(r"\w{1,100}", named) else "model"


def _texts(ancestors: dict[str, Manifest], counted: str) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    """Return head and rows of the table of training data, by licence or by source: the tokens of the pretraining with
    their share, or, without them, the characters of the corpora."""
    size = (
        "tokens" if any(f"tokens_by_{counted}" in manifest.metrics for manifest in ancestors.values()) else "characters"
    )
    key = f"tokens_by_{counted}" if size == "tokens" else f"by_{counted}"
    documents, sizes = Counter[str](), Counter[str]()
    for manifest in ancestors.values():
        for name, row in mapping(manifest.metrics.get(key)).items():
            documents[name] += int(number(mapping(row).get("documents")) or 0)
            sizes[name] += int(number(mapping(row).get(size)) or 0)
    total = sizes.total() or 1
    rows = [(name, f"{documents[name]:,}", f"{n:,}", f"{n / total:.2%}") for name, n in sizes.most_common()]
    return (counted, "documents", size, "share"), rows


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    cells = ([" ".join(str(cell).split()).replace("|", "\\|") for cell in line] for line in lines)
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)


def refuse_unfinished(folder: Path) -> None:
    """Raise a `UserError` for a model that should be published but cannot be opened, weights and tokenizer, or that
    differs from its manifest."""
    from qwenkit.chat import load_tokenizer
    from qwenkit.model import load_model, load_scalar
    from qwenkit.model.pretrained import scores

    if not folder.is_dir():
        raise UserError("no such folder", where=str(folder), expected="a model's folder")
    if (folder / MANIFEST).exists():
        lines = artifacts.damage(folder)
        if lines and not artifacts.only_stray(lines):
            raise artifacts.damaged(folder, lines, "fetch or make it again")
    load = load_scalar if scores(folder) else load_model
    load(folder, device="cpu")
    load_tokenizer(folder)


def _scores(folder: Path) -> bool:
    return _architecture(folder).endswith("ForSequenceClassification")
