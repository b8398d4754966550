"""The Transformer of the report (§1.3), its first weights, and its folders on disk.

    from qwenkit.model import ModelConfig, Transformer, init_weights, load_model, save_model
    model = init_weights(Transformer(ModelConfig(vocab_size=1536, hidden_size=128, ...)), seed=0)

| file                                        | what it holds                                                         |
| ------------------------------------------- | --------------------------------------------------------------------- |
| `config.py`                                 | `ModelConfig`: the shape of a model, checked                          |
| `transformer.py`                            | RMSNorm, attention layer, block, decoder, language and scalar model   |
| `attention.py`                              | masks (causal, documents, sliding window), the attention itself       |
| `rotary.py`                                 | RoPE and context extension: dynamic NTK, LogN, YaRN                   |
| `moe.py`                                    | the MLP (SwiGLU), and the mixture of experts                          |
| `init.py`                                   | first weights                                                         |
| `logprobs.py`, `batching.py`, `modes.py`    | chunked head, padding and batches by length, eval mode                |
| `trainable.py`                              | what training changes: for optimizers, checkpoints, adapters          |
| `pretrained.py`, `formats/`, `weights.py`   | Hugging Face folders: settings, names and tensors                     |
| `checkpoint_validation.py`                  | whether the tensors of a folder fit its config.json                   |
| `resize_token_embeddings.py`                | a longer vocabulary                                                   |
| `gptq.py`, `quantized_linear.py`            | quantization to 4 or 8 bits, and the layers that compute with it      |
| `gptq_checkpoint.py`, `gguf_export.py`      | quantized folders, GGUF files                                         |
| `gguf_import.py`                            | models from GGUF files,                                               |
| `gguf_config.py`, `gguf_blocks.py`          | their shape, and their blocks as floats or as quantized layers        |
| `lora.py`, `lora_config.py`                 | adapters (LoRA): low-rank changes of frozen layers, their settings    |
| `adapter_folder.py`, `adapter_config.py`    | their folders, in peft's format                                       |
| `adapted.py`                                | models that are trained whole or by an adapter: loaded, and written   |
| `publish.py`                                | the folder of a trained model, with its tokenizer and licence         |
| `export.py`                                 | a model in another form: Hugging Face, the first Qwen's, GGUF         |
| `prepacked.py`                              | weights in the layout of oneDNN's bf16 products                       |
| `mapped.py`, `own_pages.py`                 | memory that is given back: of mapped files, of what was freed         |

Names load on first use: a recipe checks the shape of a model without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qwenkit.lazy import lazy

if TYPE_CHECKING:
    from qwenkit.model.config import ModelConfig
    from qwenkit.model.init import init_weights
    from qwenkit.model.pretrained import load_model, load_scalar, save_model, save_scalar, stored_dtype
    from qwenkit.model.transformer import ScalarModel, Transformer

_HOME = {
    "ModelConfig": "config",
    "ScalarModel": "transformer",
    "Transformer": "transformer",
    "init_weights": "init",
    "load_model": "pretrained",
    "load_scalar": "pretrained",
    "save_model": "pretrained",
    "save_scalar": "pretrained",
    "stored_dtype": "pretrained",
}

__all__ = [
    "ModelConfig",
    "ScalarModel",
    "Transformer",
    "init_weights",
    "load_model",
    "load_scalar",
    "save_model",
    "save_scalar",
    "stored_dtype",
]
__getattr__, __dir__ = lazy(__name__, _HOME)
