"""Corrupted, truncated, mislabelled and malicious folders: a clear error, no code run, no memory taken."""

from __future__ import annotations

import json
import pickle
import resource
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from qwenkit.errors import UserError
from qwenkit.model import Transformer, init_weights, load_model, save_model
from tests.model.conftest import tiny

HEAD = "model.safetensors"
YARN = {"rope_type": "yarn", "factor": 4.0}
WINDOWS = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0}


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    save_model(init_weights(Transformer(tiny()), seed=0), tmp_path / "m")
    return tmp_path / "m"


def pickled(folder: Path) -> dict[str, torch.Tensor]:
    """The weights as people had them before safetensors."""
    tensors = load_file(folder / HEAD)
    (folder / HEAD).unlink()
    return tensors


class Payload:
    """What a hostile pickle does when it is opened."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.target,))


def test_plain_pickles_are_read_without_running_anything(folder: Path) -> None:
    wanted = load_model(folder).state_dict()
    tensors = pickled(folder)
    torch.save(tensors, folder / "pytorch_model.bin")
    assert all(torch.equal(wanted[name], tensor) for name, tensor in load_model(folder).state_dict().items())
    (folder / "pytorch_model.bin").unlink()
    names = sorted(tensors)
    for number, part in enumerate((names[:9], names[9:])):
        torch.save({name: tensors[name] for name in part}, folder / f"pytorch_model-{number}.bin")
    where = {name: f"pytorch_model-{int(name in names[9:])}.bin" for name in names}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": where}))
    assert all(torch.equal(wanted[name], tensor) for name, tensor in load_model(folder).state_dict().items())


@pytest.mark.parametrize("protocol", ["zip", "old", "bare"])
def test_a_pickle_with_a_program_is_refused_and_not_run(protocol: str, folder: Path, tmp_path: Path) -> None:
    tensors: dict[str, Any] = {**pickled(folder), "extra": Payload(tmp_path / "ran")}
    file = folder / "pytorch_model.bin"
    if protocol == "bare":
        file.write_bytes(pickle.dumps(tensors))
    else:
        torch.save(tensors, file, _use_new_zipfile_serialization=protocol == "zip")
    message = (
        "not a plain file of tensors" if protocol == "zip" else "a pickle of before torch 1.6, or not a file of tensors"
    )
    with pytest.raises(UserError, match=message):
        load_model(folder)
    assert not (tmp_path / "ran").exists()


def test_a_compressed_archive_is_not_mapped(folder: Path) -> None:
    torch.save(pickled(folder), folder / "plain.bin")
    with zipfile.ZipFile(folder / "plain.bin") as plain:
        with zipfile.ZipFile(folder / "pytorch_model.bin", "w", zipfile.ZIP_DEFLATED) as packed:
            for member in plain.namelist():
                packed.writestr(member, plain.read(member))
    with pytest.raises(UserError, match="the archive is compressed"):
        load_model(folder)


def test_what_a_file_says_reaches_no_terminal_as_it_is(folder: Path) -> None:
    rewritten(lambda tensors: tensors.update({"\x1b[2Jevil\n名": torch.ones(1)}))(folder)
    with pytest.raises(UserError) as caught:
        load_model(folder)
    assert "\\x1b[2Jevil" in caught.value.text() and "名" in caught.value.text()


def cut(folder: Path) -> None:
    (folder / HEAD).write_bytes((folder / HEAD).read_bytes()[:-10])


def absurd_header(folder: Path) -> None:
    (folder / HEAD).write_bytes(struct.pack("<Q", 2**60) + b"{}")


def overlapping(folder: Path) -> None:
    raw = (folder / HEAD).read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    head = json.loads(raw[8 : 8 + size])
    first, second = [name for name in head if name != "__metadata__"][:2]
    head[first]["data_offsets"] = head[second]["data_offsets"]
    text = json.dumps(head).encode()
    (folder / HEAD).write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + size :])


def huge_tensor(folder: Path) -> None:
    head = json.dumps({"model.norm.weight": {"dtype": "F32", "shape": [2**40, 2**20], "data_offsets": [0, 8]}}).encode()
    (folder / HEAD).write_bytes(struct.pack("<Q", len(head)) + head + b"12345678")


def indexed(name: str) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"model.norm.weight": name}}))

    return prepare


def config(**changes: Any) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return prepare


def rewritten(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        tensors = load_file(folder / HEAD)
        change(tensors)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / HEAD)

    return prepare


CASES: dict[str, tuple[Callable[[Path], None], str]] = {
    "cut file": (cut, "the weights are corrupted"),
    "absurd header": (absurd_header, "the weights are corrupted"),
    "overlapping tensors": (overlapping, "the weights are corrupted"),
    "a tensor larger than its file": (huge_tensor, "the weights are corrupted"),
    "no file at all": (lambda folder: (folder / HEAD).unlink(), "weights are missing"),
    "a pickle under another name": (lambda f: (f / HEAD).write_bytes(pickle.dumps({})), "the weights are corrupted"),
    "index that leaves the folder": (indexed("../../etc/passwd"), "the index names the file '../../etc/passwd'"),
    "index with an absolute path": (indexed("/etc/passwd"), "the index names the file"),
    "index with a backslash": (indexed("..\\x.safetensors"), "the index names the file"),
    "index of a script": (indexed("setup.py"), "the index names the file 'setup.py'"),
    "index of a missing shard": (indexed("model-00009-of-00009.safetensors"), "weights are missing: model-00009"),
    "index that is a list": (lambda f: (f / "model.safetensors.index.json").write_text("[1]"), "not an index"),
    "vocabulary of 10^9": (config(vocab_size=10**9), "vocab_size = 1000000000 is beyond"),
    "a million layers": (config(num_hidden_layers=10**6), "num_hidden_layers = 1000000 is beyond"),
    "negative width": (config(hidden_size=-4), "hidden_size = -4"),
    "width as text": (config(hidden_size="wide"), "hidden_size = 'wide'"),
    "infinite theta": (config(rope_theta=1e400), "rope_theta"),
    "another family's name": (config(model_type="qwen3"), r"missing: .*q_norm\.weight.*unexpected: .*q_proj\.bias"),
    "another vocabulary": (config(vocab_size=128), r"model.embed_tokens.weight is \[96, 32\], not \[128, 32\]"),
    "more layers than tensors": (config(num_hidden_layers=3), "missing: model.layers.2"),
    "remote code": (config(model_type="custom", auto_map={"AutoModel": "evil.Model"}), "'custom' is not supported"),
    "no type": (config(model_type=None), "model_type None is not supported"),
    "a type that is a list": (config(model_type=["qwen2"]), "is not supported"),
    "integers for weights": (rewritten(lambda t: t.update({"model.norm.weight": torch.ones(32).long()})), "integers"),
    "a head that is no copy of what it is tied to": (config(tie_word_embeddings=True), "not a copy of the embedding"),
    "an index nested too deeply": (lambda f: (f / f"{HEAD}.index.json").write_text("[" * 10**5), "not an index"),
    "an index of an endless name": (indexed("x" * 5000 + ".safetensors"), "the index names the file"),
    "json nested too deeply": (lambda f: (f / "config.json").write_text("[" * 10**5), "nested too deeply"),
    "a theta beyond numbers": (config(rope_theta=10**400), "too many digits"),
    "an eps beyond numbers": (config(rms_norm_eps=10**400), "too many digits"),
    "windows of 10^9 layers": (config(**WINDOWS, num_hidden_layers=10**9), "num_hidden_layers = 1000000000 is beyond"),
    "windows from no layer on": (config(**{**WINDOWS, "max_window_layers": None}), "max_window_layers = None"),
    "yarn of texts": (
        config(rope_scaling={"rope_type": "yarn", "original_max_position_embeddings": "x"}), "original_max_position"),
    "yarn that weighs by a text": (config(rope_scaling={**YARN, "attention_factor": "x"}), "attention_factor = 'x'"),
    "yarn over one frequency": (config(rope_theta=1.0, rope_scaling=YARN), "rope_theta = 1"),
    "a switch in quotes": (config(use_sliding_window="false"), "use_sliding_window = 'false'"),
    "a tie in quotes": (config(tie_word_embeddings="yes"), "tie_word_embeddings = 'yes'"),
    "an end that is a string": (config(eos_token_id=[1, "x"]), "eos_token_id: 'x'"),
    "an end that is nothing": (config(eos_token_id=[1, None]), "eos_token_id: None"),
    "unknown tensor": (rewritten(lambda t: t.update(evil=torch.ones(1))), "unexpected: evil"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_bad_folder_is_refused_in_words(case: str, folder: Path) -> None:
    prepare, message = CASES[case]
    prepare(folder)
    with pytest.raises(UserError, match=message) as caught:
        load_model(folder)
    assert "Error" not in caught.value.text() and "Traceback" not in caught.value.text()


PICKLED: dict[str, Callable[[], torch.Tensor]] = {
    "sparse": lambda: torch.ones(32).to_sparse(),
    "without data": lambda: torch.empty(32, device="meta"),
    "of 8 bits": lambda: torch.ones(32).to(torch.float8_e4m3fn),
    "one number said to be many": lambda: torch.ones(1).expand(32),
}


@pytest.mark.parametrize("kind", PICKLED)
def test_a_pickle_of_odd_tensors_is_refused(kind: str, folder: Path) -> None:
    torch.save({**pickled(folder), "model.norm.weight": PICKLED[kind]()}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"model\.norm\.weight is not a plain tensor"):
        load_model(folder)


def test_a_first_qwen_whose_widths_are_texts_takes_no_memory(tmp_path: Path) -> None:
    """A text times a number is that many texts."""
    said = {"model_type": "qwen", "vocab_size": 8, "hidden_size": 8, "num_hidden_layers": 1, "intermediate_size": 8,
            "seq_length": 8, "num_attention_heads": "x", "kv_channels": 10**11}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(said))
    with pytest.raises(UserError, match="num_attention_heads = 'x'"):
        load_model(tmp_path)


def test_refusing_takes_no_memory(folder: Path) -> None:
    """2^24 rows of 2^18 would be 16 TiB; the shapes are compared before anything is made."""
    config(vocab_size=2**24, hidden_size=2**18, intermediate_size=2**20, num_attention_heads=2**12)(folder)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match="the tensors do not fit"):
        load_model(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


def test_a_symlinked_file_is_as_good_as_a_file(folder: Path, tmp_path: Path) -> None:
    """Caches keep files once and link to them."""
    wanted = {name: tensor.clone() for name, tensor in load_model(folder).state_dict().items()}
    (folder / HEAD).rename(tmp_path / "blob")
    (folder / HEAD).symlink_to(tmp_path / "blob")
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in load_model(folder).state_dict().items())
