"""Merge an adapter into its model: a plain folder, with a certificate of what the two said before.

    row = merge(base, adapter, Path("merged"))      # {"max_dlogp": ..., "greedy_agreement": ..., "dtype": ...}

The sum is computed in float32 and rounded once to the dtype of the weights, so what a 16-bit folder says afterwards is
a little different from what it said with the adapter beside it: the certificate has how much, and `qwenkit parity`
holds the folder against it.
"""

from __future__ import annotations

from pathlib import Path
from shutil import rmtree

from qwenkit.adapter_files import WEIGHTS, refuse_no_adapter
from qwenkit.artifacts import sha256_file
from qwenkit.chat.publish import find_tokenizer, save_tokenizer
from qwenkit.errors import UserError
from qwenkit.evaluation.parity import CERTIFICATE, certificate, compare, observe, prompts_of
from qwenkit.model import Transformer, load_model, save_model
from qwenkit.model.lora import merge_adapter
from qwenkit.model.publish import GENERATION, copy_licences, save_generation_config
from qwenkit.records import Row, read_object, write_json

MERGED = "merged"
LONGEST = 512
"""Tokens of the longest prompt that the certificate keeps."""


def merge(base: Path, adapter: Path, out: Path, dequantize: bool = False) -> Row:
    """Write the folder of a model with an adapter added to its weights; return how far it is from the two.

    Tokenizer and generation settings are the adapter's where its folder has them. With `dequantize` a quantized model
    becomes one of 16 bits. Raises a `UserError` for a folder that is not an adapter, for one that is in the model
    already, for a quantized model without `dequantize`, and for an `out` that holds something."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError("there is something already", where=str(out), expected="a new folder, or an empty one")
    refuse_no_adapter(adapter)
    _refuse_merged(base, adapter)
    model = load_model(base, device="cpu", adapter=adapter)
    tok = find_tokenizer(adapter) or find_tokenizer(base)
    prompts = prompts_of(tok, model.config.vocab_size, min(LONGEST, model.config.max_length))
    observed = observe(model, prompts)
    model = merge_adapter(model, dequantize)
    beside = out.with_name(f"{out.name}.part")
    rmtree(beside, ignore_errors=True)
    _write(model, base, adapter, beside)
    distance = compare(observed, observe(load_model(beside, device="cpu"), prompts)).rounded()
    facts: Row = {"of": str(base), "adapter": sha256_file(adapter / WEIGHTS), "form": MERGED, "reason": None,
                  "length": model.config.max_length,
                  "dtype": str(model.model.embed_tokens.weight.dtype).removeprefix("torch.")}  # fmt: skip
    write_json(beside / CERTIFICATE, {**certificate(observed, facts, None), "parity": distance})
    if out.exists():
        out.rmdir()
    beside.rename(out)
    return {**distance, "dtype": facts["dtype"]}


def _write(model: Transformer, base: Path, adapter: Path, out: Path) -> None:
    """Write the plain model with what belongs to it."""
    save_model(model, out)
    save_generation_config(adapter if (adapter / GENERATION).exists() else base, out, model.config.vocab_size)
    for source in (adapter, base):
        if (tok := find_tokenizer(source)) is not None:
            save_tokenizer(tok, source, out)
            break
    copy_licences(base, out)


def _refuse_merged(base: Path, adapter: Path) -> None:
    """Raise a `UserError` where the certificate of a model says that this adapter is in it."""
    file = base / CERTIFICATE
    known = read_object(file) if base.is_dir() and file.exists() else {}
    if (adapter / WEIGHTS).is_file() and known.get("adapter") == sha256_file(adapter / WEIGHTS):
        raise UserError("this adapter is merged into the model already", where=str(base),
                        expected="the model that the adapter was trained on",
                        hint=f"it was {known.get('of')!s:.200}")  # fmt: skip
