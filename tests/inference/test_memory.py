"""Loading and generating hold the weights once: private memory and mapped pages of a process beside arithmetic."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from qwenkit.gguf_file import KINDS
from qwenkit.model import ModelConfig, Transformer, init_weights, save_model
from qwenkit.model.gptq import quantize
from qwenkit.model.init import without_weights
from qwenkit.model.quantized_linear import QuantConfig
from tests.gguf_files import file_bytes
from tests.inference.native.conftest import needs_compiler
from tests.tiny_gguf import gguf_name, settings_of

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is measured on Linux only")

CONFIG = ModelConfig(vocab_size=512, hidden_size=1024, intermediate_size=3072, num_hidden_layers=3, qkv_bias=False,
                     num_attention_heads=8, max_position_embeddings=256)  # fmt: skip
LAYERS = 3 * (4 * 1024 * 1024 + 3 * 1024 * 3072)
"""Weights in the layers: 40.9 million."""
BESIDE = 16e6
"""What may come on top: embedding and head in 16 bits 2 MB, the cache 3 MB, buffers of a step and the heap 11 MB. A
second copy of the layers in 4 bits takes 23 MB."""
PROGRAM = """
import sys, warnings
warnings.simplefilter("ignore")
from pathlib import Path
from qwenkit.inference import Engine, SamplingParams
from qwenkit.model import load_model
def held():
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon:", "RssFile:"))) * 1024
def ask(path):
    engine = Engine(load_model(path, device="cpu"), kv_tokens=256, native=sys.argv[3] == "native")
    engine.generate([list(range(40))], SamplingParams.plain(temperature=0, max_tokens=3, ignore_eos=True))
    return engine
ask(sys.argv[1])
before = held()
engine = ask(sys.argv[2])
print(held() - before)
"""


def taken(tmp_path: Path, path: Path, way: str) -> int:
    """The bytes, private or mapped from its file, that a model holds in a process that has asked a tiny one before."""
    config = ModelConfig(vocab_size=64, hidden_size=64, intermediate_size=128, num_hidden_layers=1,
                         num_attention_heads=2)  # fmt: skip
    tiny = init_weights(Transformer(config), 0).bfloat16().eval()
    save_model(quantize(tiny, QuantConfig(4, 32), None), tmp_path / "tiny")
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "tiny"), str(path), way]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def gguf(path: Path, kind: str) -> Path:
    """Write a file of random blocks; its norms are ones and its tables are F16."""
    with without_weights():
        state = Transformer(CONFIG).state_dict()
    tensors: dict[str, tuple[str, np.ndarray]] = {}
    rng = np.random.default_rng(0)
    for name, tensor in state.items():
        if tensor.dim() == 1:
            tensors[gguf_name(name)] = ("F32", np.ones(tensor.shape, np.float32))
        elif ".layers." not in name or kind == "F16":
            tensors[gguf_name(name)] = ("F16", rng.standard_normal(tensor.shape, np.float32).astype(np.float16) / 50)
        else:
            blocks = rng.integers(0, 256, (len(tensor), tensor.shape[1] // 32, KINDS[kind].size), dtype=np.uint8)
            for at in (0, 2) if kind == "Q4_1" else (0,):
                blocks[..., at : at + 2] = np.array([0.001], np.float16).view(np.uint8)
            tensors[gguf_name(name)] = (kind, blocks.reshape(len(tensor), -1))
    path.write_bytes(file_bytes(settings_of(CONFIG, "llama"), tensors))
    return path


def gptq(path: Path, scheme: QuantConfig) -> Path:
    model = init_weights(Transformer(CONFIG), 0).bfloat16().eval()
    save_model(quantize(model, scheme, None), path)
    return path


@needs_compiler
def test_a_gptq_folder_is_held_once(tmp_path: Path) -> None:
    """4 bits a weight, 32 a group."""
    folder = gptq(tmp_path / "m", QuantConfig(4, 64))
    limit = LAYERS * (4 + 32 / 64) / 8 + BESIDE
    assert taken(tmp_path, folder, "native") < limit


def test_a_gptq_folder_is_held_once_by_torch(tmp_path: Path) -> None:
    """4 bits a weight, two bf16 a group."""
    assert taken(tmp_path, gptq(tmp_path / "m", QuantConfig(4, 64)), "torch") < LAYERS * 4.5 / 8 + BESIDE


@needs_compiler
@pytest.mark.parametrize("kind, bits", [("Q8_0", 9.0), ("Q4_0", 5.0), ("Q4_1", 5.0)])
def test_a_gguf_file_is_held_once(tmp_path: Path, kind: str, bits: float) -> None:
    """4 or 8 bits a weight, and 32 bits for each 32 of them."""
    assert taken(tmp_path, gguf(tmp_path / "m.gguf", kind), "native") < LAYERS * bits / 8 + BESIDE


@needs_compiler
def test_16_bit_weights_are_read_from_their_file(tmp_path: Path) -> None:
    """float16 and bf16: 82 MB stay mapped. A llama's Q and K are copied into another order; the pages that they came
    from may be mapped again with those beside them."""
    copied = 3 * 2 * 1024 * 1024 * 2
    assert taken(tmp_path, gguf(tmp_path / "m.gguf", "F16"), "native") < LAYERS * 2 + copied + BESIDE
    model = init_weights(Transformer(CONFIG), 0).bfloat16().eval()
    save_model(model, tmp_path / "folder")
    assert taken(tmp_path, tmp_path / "folder", "native") < LAYERS * 2 + BESIDE
