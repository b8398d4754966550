"""Vectors that the official code gave for random weights: every family computes the same.

The first Qwen's come from its own code (under transformers 4.38), the later ones from transformers 5.23. Stated
tolerance: 2e-4 in float32, equal ids; logits have a standard deviation of about 2.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from qwenkit.inference import Engine, SamplingParams
from qwenkit.inference.block_pool import BLOCK
from qwenkit.inference.kv_quantization import quantize
from qwenkit.inference.paged_cache import PagedRows
from qwenkit.model import Transformer, load_model
from qwenkit.model.attention import NoCache, document_positions
from qwenkit.model.rotary import inverse_frequencies, logn_scale, ntk_alpha, rotary_tables

GOLDEN = Path(__file__).parent / "golden"
LATER = ["qwen2_gqa_tied", "qwen2_gqa_untied", "qwen2_yarn", "qwen2_moe", "qwen3_untied", "qwen3_moe"]
VARIANTS = {"ntk_logn": (True, True), "ntk": (True, False), "logn": (False, True), "none": (False, False)}
CLOSE = 2e-4
EDGE = 0.1
"""Levels are truncated, and the greatest of a span lies on an edge: a last bit decides. Weights that differ by 1e-7 of
themselves move these logits by 0.06; where the same kernels run, the prompt's are equal to the bit."""


@cache
def vectors(case: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What went in, and what came out."""
    given, wanted = (load_file(GOLDEN / case / f"{name}.safetensors") for name in ("inputs", "expected"))
    return given, wanted


def close(found: Tensor, wanted: Tensor, tolerance: float = CLOSE) -> None:
    assert found.shape == wanted.shape
    assert (found.float() - wanted.float()).abs().max().item() <= tolerance


def greedy(model: Transformer, prompt: Tensor, length: int, **settings: float) -> list[int]:
    """Prompt and answer, greedy, to that many tokens in all."""
    params = SamplingParams.plain(temperature=0, max_tokens=length - prompt.shape[1], ignore_eos=True, **settings)
    (output,) = Engine(model).generate([prompt[0].tolist()], params)
    return [*prompt[0].tolist(), *output.ids]


@torch.no_grad()
def stepwise(model: Transformer, ids_BT: Tensor, prefill: int, kind: str = "auto") -> Tensor:
    """Logits from the last token of the prompt on, each further token read by itself."""
    B, T = ids_BT.shape
    rows = PagedRows(model.config, B, T, torch.float32, "cpu", kind)
    found = [model.head(rows.hidden(model, ids_BT[:, :prefill], 0, prefill)[:, -1:])]
    for t in range(prefill, T):
        found.append(model.head(rows.hidden(model, ids_BT[:, t : t + 1], t, prefill)))
    return torch.cat(found, dim=1)


@torch.no_grad()
def padded(model: Transformer, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Logits of a batch padded on the left. Padding is a document of its own; positions are columns, as officially."""
    columns = torch.arange(ids_BT.shape[1]).expand_as(ids_BT)
    return model.head(model.hidden(ids_BT, NoCache(mask_BT, columns)))


@pytest.mark.parametrize("case", [*LATER, "qwen1_base"])
@torch.no_grad()
def test_logits_and_hidden_states(case: str) -> None:
    given, wanted = vectors(case)
    model = load_model(GOLDEN / case)
    close(model(given["input_ids"]), wanted["logits"])
    states = wanted.get("hidden_states", wanted.get("hidden_states_b0"))
    assert states is not None
    close(model.hidden(given["input_ids"][:1])[0], states[-1])


@pytest.mark.parametrize("case", LATER)
def test_later_families_write_the_same(case: str) -> None:
    given, wanted = vectors(case)
    model = load_model(GOLDEN / case)
    assert greedy(model, given["greedy.prompt_ids"], wanted["greedy.ids"].shape[1]) == wanted["greedy.ids"][0].tolist()
    close(inverse_frequencies(model.config), wanted["inv_freq"], 1e-7)
    real = given["pad.attention_mask"][0].bool()
    documents = given["pad.attention_mask"]
    with torch.no_grad():
        logits = model.head(model.hidden(given["input_ids"], documents_BT=documents))[0, real]
    assert document_positions(documents)[0, real].tolist() == list(range(int(real.sum())))
    close(logits, wanted["pad.logits_b0"])


@torch.no_grad()
def test_the_first_qwen_reads_and_writes_the_same() -> None:
    given, wanted = vectors("qwen1_base")
    model = load_model(GOLDEN / "qwen1_base")
    close(model(given["long.input_ids"]), wanted["long.logits"])
    close(stepwise(model, given["input_ids"], 10), wanted["step.logits"])
    prompt, longer = given["greedy.prompt_ids"], given["greedy_rep1.5_longprompt.prompt_ids"]
    assert greedy(model, prompt, 36) == wanted["greedy.ids"][0].tolist()
    assert greedy(model, prompt, 36, repetition_penalty=1.1) == wanted["greedy_rep1.1.ids"][0].tolist()
    assert greedy(model, longer, 48, repetition_penalty=1.5) == wanted["greedy_rep1.5_longprompt.ids"][0].tolist()


@torch.no_grad()
def test_the_cache_holds_what_theirs_holds() -> None:
    given, wanted = vectors("qwen1_base")
    model, T = load_model(GOLDEN / "qwen1_base"), 40
    rows = PagedRows(model.config, 1, T, torch.float32, "cpu")
    rows.hidden(model, given["input_ids"][:1], 0, T)
    for layer in range(3):  # block 0 is nobody's
        for store, name in ((rows.cache.keys[layer], "past_key"), (rows.cache.values[layer], "past_value")):
            close(store.tensors[0][:, BLOCK : BLOCK + T].transpose(0, 1), wanted[name][layer], 1e-5)


@torch.no_grad()
def test_a_cache_of_8_bits_is_theirs() -> None:
    given, wanted = vectors("qwen1_kvquant")
    ids, model = given["input_ids"], load_model(GOLDEN / "qwen1_kvquant")
    close(model(ids[:, :48]), wanted["noquant.prefill48.logits"])
    rows = PagedRows(model.config, 2, 80, torch.float32, "cpu", "int8")
    h_BTD = rows.hidden(model, ids[:, :48], 0, 48)
    close(model.head(h_BTD), wanted["prefill48.logits"], EDGE)
    for name, store in (("k", rows.cache.keys[0]), ("v", rows.cache.values[0])):
        levels, scale, zero = (
            tensor[:, BLOCK:].unflatten(1, (2, 80))[:, :, :48].transpose(0, 1) for tensor in store.tensors
        )
        apart = (levels.int() - wanted["l0.qkey" if name == "k" else "l0.qvalue"].int()).abs()
        assert apart.max() <= 1 and (apart > 0).float().mean() < 1e-3  # a truncation at an edge
        close(scale, wanted[f"l0.{name}scale"], 1e-6)
        close(zero, wanted[f"l0.{name}zero"], 1e-3)
    close(stepwise(model, ids, 48, "int8"), wanted["step48to72.logits"], EDGE)
    assert Engine(GOLDEN / "qwen1_kvquant").runner.cache.keys[0].name == "int8"


def test_the_range_of_8_bits_is_that_of_the_whole_prompt() -> None:
    """However few tokens a step may have: in pieces, the range would be that of each."""
    ids = vectors("qwen1_kvquant")[0]["input_ids"][0].tolist()
    params = SamplingParams.plain(temperature=0, max_tokens=1, ignore_eos=True)
    pieces, whole = (Engine(GOLDEN / "qwen1_kvquant", step_tokens=size) for size in (40, 8192))
    for engine in (pieces, whole):
        engine.generate([ids[:60]], params)  # of 64 trained positions: no other rotation
    for a, b in zip(pieces.runner.cache.keys[0].tensors, whole.runner.cache.keys[0].tensors, strict=True):
        assert torch.equal(a[:, BLOCK : BLOCK + 60], b[:, BLOCK : BLOCK + 60])


def test_8_bits_are_cut_as_theirs() -> None:
    given, wanted = vectors("qwen1_kvquant")
    levels, scale, zero = quantize(given["unit.x"])
    assert torch.equal(levels, wanted["unit.q"].to(torch.uint8))
    close((scale * (levels.float() - zero)), wanted["unit.dequant"], 1e-6)
    close(scale.expand_as(wanted["unit.scale"]), wanted["unit.scale"], 1e-7)
    close(zero.expand_as(wanted["unit.zero"]), wanted["unit.zero"], 1e-4)


@torch.no_grad()
def test_bf16_stays_as_near_as_theirs() -> None:
    given, wanted = vectors("qwen1_bf16")
    ids = given["input_ids"]
    half, full = load_model(GOLDEN / "qwen1_bf16"), load_model(GOLDEN / "qwen1_bf16", dtype="float32")
    assert next(half.parameters()).dtype == torch.bfloat16
    close(full(ids), wanted["logits_fp32_same_weights"])
    for reference in ("logits_bf16", "logits_fp32_same_weights"):
        assert (half(ids).float() - wanted[reference].float()).abs().mean().item() <= 0.03


@pytest.mark.parametrize("variant", VARIANTS)
class TestLongContext:
    """Dynamic NTK and LogN over 64 trained positions, in all combinations."""

    @pytest.fixture(name="model")
    def _model(self, variant: str) -> Transformer:
        model = load_model(GOLDEN / "qwen1_longctx")
        assert model.config.extension is not None
        ntk, logn = VARIANTS[variant]
        model.config = replace(model.config, extension=replace(model.config.extension, dynamic_ntk=ntk, logn=logn))
        return model

    @torch.no_grad()
    def test_every_prefix(self, model: Transformer, variant: str) -> None:
        given, wanted = vectors("qwen1_longctx")
        whole = wanted[f"{variant}.L130.logits"][0]
        close(model(given["L130.input_ids"])[0, 130 - len(whole) :], whole)
        for length in (63, 64, 65, 127, 128, 129, 130, 255, 256, 257, 260):
            ids = given["L130.input_ids" if length <= 130 else "L260.input_ids"][:, :length]
            last = wanted[f"{variant}.prefix{length}.last_logits"]
            close(model(ids)[:, -1].reshape(last.shape), last)

    def test_alpha_stays_as_the_prompt_was_read(self, model: Transformer, variant: str) -> None:
        given, wanted = vectors("qwen1_longctx")
        for start, end in ((60, 76), (120, 130)):
            steps = wanted[f"{variant}.decode{start}to{end}.logits"]
            found = stepwise(model, given["L130.input_ids"][:, :end], start)
            close(found[:, -steps.shape[1] :], steps)
        for length in (58, 100):
            prompt, ids = given[f"greedy{length}.prompt_ids"], wanted[f"{variant}.greedy{length}.ids"]
            assert greedy(model, prompt, ids.shape[1]) == ids[0].tolist()

    def test_each_row_of_a_batch_has_its_own_alpha(self, model: Transformer, variant: str) -> None:
        given, wanted = vectors("qwen1_longctx")
        for name in ("pad", "pad2"):
            tail = wanted[f"{variant}.{name}.tail_logits"]
            found = padded(model, given[f"{name}.input_ids"], given[f"{name}.attention_mask"])
            close(found[:, -tail.shape[1] :], tail)


def test_tables_of_the_extension() -> None:
    _, wanted = vectors("qwen1_longctx")
    table = {name.removeprefix("table."): tensor for name, tensor in wanted.items() if name.startswith("table.")}
    config = load_model(GOLDEN / "qwen1_longctx").config
    assert ntk_alpha(table["ntk_alpha_len"], 64).tolist() == table["ntk_alpha"].tolist()
    close(logn_scale(torch.arange(600), 64), table["logn"], 1e-6)
    positions_1T = table["rope_positions"][None]
    for alpha, length in ((1, 64), (3, 128), (7, 256), (15, 512)):
        rotary = rotary_tables(config, positions_1T, torch.tensor([[length]]))
        close(rotary.cos[0, 0], table[f"rope_cos.alpha{alpha}"][:, :8], 1e-5)
        close(rotary.sin[0, 0], table[f"rope_sin.alpha{alpha}"][:, :8], 1e-5)


def test_training_gives_the_official_gradients_and_losses() -> None:
    """Outside of training the extension acts at 24 tokens of 16; in training it is off."""
    given, wanted = vectors("qwen1_train")
    model = load_model(GOLDEN / "qwen1_train")
    real = given["attention_mask"].bool()
    with torch.no_grad():
        close(padded(model, given["input_ids"], given["attention_mask"])[real], wanted["eval_logits"][real])
    model.train()
    loss = _loss(model, given)
    close(model(given["input_ids"])[real], wanted["train_logits"][real])
    close(loss.detach()[None], wanted["train_loss"], 1e-5)
    loss.backward()
    q, k, v = (getattr(model.model.layers[1].self_attn, f"{name}_proj") for name in "qkv")
    fused = torch.cat([part.weight.grad for part in (q, k, v)])
    close(fused, wanted["grad.transformer.h.1.attn.c_attn.weight"], 1e-5)
    close(model.model.layers[0].mlp.gate_proj.weight.grad, wanted["grad.transformer.h.0.mlp.w2.weight"], 1e-5)
    close(model.model.embed_tokens.weight.grad, wanted["grad.transformer.wte.weight"], 1e-5)
    close(model.lm_head.weight.grad, wanted["grad.lm_head.weight"], 1e-5)


def test_six_steps_of_adamw_are_the_official_ones() -> None:
    given, wanted = vectors("qwen1_train")
    model = load_model(GOLDEN / "qwen1_train").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    losses, norms = [], []
    for _ in range(6):
        loss = _loss(model, given)
        loss.backward()
        losses.append(loss.item())
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item())
        optimizer.step()
        optimizer.zero_grad()
    assert losses == pytest.approx(wanted["adamw.losses"].tolist(), abs=1e-4)
    assert norms == pytest.approx(wanted["adamw.grad_norms"].tolist(), abs=1e-3)


def _loss(model: Transformer, given: dict[str, Tensor]) -> Tensor:
    logits = model(given["input_ids"])[:, :-1].flatten(0, 1)
    return torch.nn.functional.cross_entropy(logits, given["labels"][:, 1:].flatten(), ignore_index=-100)
