"""The forms of one model that the benchmarks of the engine compare: folders for qwenkit, GGUF files for llama.cpp.

    models = Models(folder, work)             # or Models(random_folder(SHAPES["0.5b"], work / "random"), work)
    models.folder("int4")                     # bf16, int8 (a scale a row), int4 (groups of 64): a folder
    models.gguf("Q4_1")                       # BF16, Q8_0, Q4_0, Q4_1: a GGUF file of the same weights

Each form is made once into `work` and found there the next time. Quantized forms are rounded to nearest: speed does not
depend on how levels were found (`quantized_quality.py` is about that). A GGUF file is our own export, its matrices
rounded by the package `gguf`; in files of 4 bits the embedding (which is also the head where both are tied) and the
head are Q8_0, the nearest that the package writes to the Q6_K of llama.cpp's own tool.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from engine_peers import PEERS
from qwenkit import platform
from qwenkit.chat.publish import find_tokenizer
from qwenkit.model import ModelConfig, Transformer, load_model, save_model
from qwenkit.model.export import exported_config
from qwenkit.model.gguf_export import Vocabulary, gguf_vocabulary, write_gguf
from qwenkit.model.gptq import quantize
from qwenkit.model.publish import weight_bytes
from qwenkit.model.quantized_linear import QuantConfig

SHAPES: dict[str, dict[str, Any]] = {
    "0.5b": dict(
        vocab_size=151936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        rope_theta=1e6,
        max_position_embeddings=32768,
    ),
    "tiny": dict(
        vocab_size=2048,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        max_position_embeddings=16384,
    ),
}
"""Qwen2-0.5B's shape, and one that only shows that everything runs."""

QUANTIZED = {"int8": QuantConfig(8, -1), "int4": QuantConfig(4, 64)}
_TABLES = ("token_embd.weight", "output.weight")


def random_folder(shape: dict[str, Any], folder: Path) -> Path:
    """Write a model of random bf16 weights, small enough that logits stay finite; return the folder."""
    if (folder / "config.json").exists():
        return folder
    with torch.device("meta"):
        model = Transformer(ModelConfig(**shape))
    model = model.to_empty(device="cpu").to(torch.bfloat16)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            parameter.data.fill_(1.0)
        else:
            parameter.data.normal_(0, 0.02, generator=generator)
    save_model(model, folder)
    return folder


class Models:
    """One bf16 model in the forms that are asked for."""

    def __init__(self, source: Path, work: Path) -> None:
        """Take the folder of a bf16 model; its other forms go into `work`."""
        self.source, self.work = source, work
        self.config = ModelConfig(**_shape(source))
        work.mkdir(parents=True, exist_ok=True)

    def folder(self, form: str) -> Path:
        """Return the folder of a form: bf16 (the source itself), int8, int4."""
        if form == "bf16":
            return self.source
        out = self.work / form
        if not (out / "config.json").exists():
            save_model(quantize(load_model(self.source), QUANTIZED[form], None), out)
        return out

    def gguf(self, kind: str) -> Path:
        """Return the GGUF file of a kind: BF16, Q8_0, Q4_0, Q4_1."""
        out = self.work / f"{kind}.gguf"
        if out.exists():
            return out
        if kind == "BF16":
            self._export(out)
        else:
            tables = "Q8_0" if kind.startswith("Q4") else kind
            rounded_gguf(self.gguf("BF16"), out, kind, tables)
        return out

    def decode_bytes(self, form: str) -> int:
        """Return the bytes of weights that the decoding of one token reads: all but an embedding of its own."""
        size = weight_bytes(self.folder(form))
        return size if self.config.tie_word_embeddings else size - 2 * self.config.vocab_size * self.config.hidden_size

    def _export(self, out: Path) -> None:
        model, tok = load_model(self.source), find_tokenizer(self.source)
        form, _ = exported_config(model.config, "gguf")
        model.config = form
        vocabulary = gguf_vocabulary(tok, self.source, form) if tok else _placeholders(form.vocab_size)
        # Prompts are ids: how text is cut plays no part. But llama.cpp refuses a file whose pattern it does not know.
        write_gguf(model, out, replace(vocabulary, pattern="gpt-2"))


def _shape(folder: Path) -> dict[str, Any]:
    """Return the sizes of a folder's config.json."""
    given = json.loads((folder / "config.json").read_text())
    return {name: given[name] for name in (*SHAPES["0.5b"], "head_dim") if name in given}


def _placeholders(size: int) -> Vocabulary:
    none: frozenset[int] = frozenset()
    return Vocabulary([f"t{i}" for i in range(size)], ["t 0"], none, none, none, "gpt-2", {"eos": 0}, None)


def rounded_gguf(source: Path, out: Path, kind: str, tables: str) -> None:
    """Copy a GGUF file with its matrices rounded to `kind`, embedding and head to `tables`."""
    gguf: Any = importlib.import_module("gguf")
    reader = gguf.GGUFReader(source)
    part = out.with_suffix(".part")
    writer = gguf.GGUFWriter(part, reader.get_field("general.architecture").contents())
    for field in reader.fields.values():
        if field.name == "general.file_type":
            writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{kind}"])
        elif field.name != "general.architecture" and not field.name.startswith("GGUF."):
            inner = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=inner)
    for tensor in reader.tensors:
        if len(tensor.shape) < 2:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        else:
            wanted = gguf.GGMLQuantizationType[tables if tensor.name in _TABLES else kind]
            weight = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            writer.add_tensor(tensor.name, gguf.quants.quantize(weight, wanted), raw_dtype=wanted)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    part.replace(out)


def flops(config: ModelConfig, pieces: Sequence[tuple[int, int, int]]) -> float:
    """Return the floating-point operations of passes over tokens.

    A piece (start, stop, logits) reads the tokens from `start` to `stop` of a sequence and computes the logits of so
    many of them. Products of matrices and of attention count, two operations for each multiplication."""
    heads, size = config.num_attention_heads, config.head_size
    layer = (
        config.hidden_size * size * 2 * (heads + config.kv_heads) + 3 * config.hidden_size * config.intermediate_size
    )
    total = 0.0
    for start, stop, logits in pieces:
        attended = (stop * (stop + 1) - start * (start + 1)) / 2
        blocks = (stop - start) * layer + 2 * attended * heads * size
        total += 2 * (config.num_hidden_layers * blocks + logits * config.vocab_size * config.hidden_size)
    return total


def add_arguments(parser: argparse.ArgumentParser, model_help: str = "a bf16 folder") -> None:
    """Add the options that name a model, the threads and the peers."""
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--model", type=Path, help=model_help)
    model.add_argument("--shape", choices=SHAPES, help="random weights of a shape")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64, help="tokens of a decoded answer")
    parser.add_argument("--threads", type=int, default=platform.free_cores())
    parser.add_argument("--peers", type=Path, default=PEERS, help="the Python of the peers' environment")
    parser.add_argument("--work", type=Path, help="where forms of the model are kept")
    parser.add_argument("--lock", type=Path)
    parser.add_argument("--out", type=Path)


def chosen_models(given: argparse.Namespace, stack: contextlib.ExitStack) -> Models:
    """Return the model that was named, its forms kept in `--work`, or in a folder that goes with the stack."""
    work = given.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
    source = given.model or random_folder(SHAPES[given.shape], work / f"random-{given.shape}")
    return Models(source, work / (given.model.name if given.model else given.shape))
