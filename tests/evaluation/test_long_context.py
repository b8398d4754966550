"""The table of context extensions: every cell scores the same tokens, and equals the model set up by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from qwenkit.errors import UserError
from qwenkit.evaluation.long_context import combinations, draw, grid, measure, plain, scorers, table
from qwenkit.model import ModelConfig, Transformer, init_weights, save_model
from qwenkit.model.config import ContextExtension
from qwenkit.tokenizer import save_tokenizer, train_bpe
from tests.errors.desk import call, texts

CONFIG = ModelConfig(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=2,
                     max_position_embeddings=16)  # fmt: skip
IDS = torch.randint(0, 64, (150,), generator=torch.Generator().manual_seed(0)).tolist()


@pytest.fixture(name="model")
def _model() -> Transformer:
    return init_weights(Transformer(CONFIG), seed=0, std=0.2).eval()


def test_cells_are_the_models_own_perplexities(model: Transformer) -> None:
    chosen = combinations(CONFIG, 16)
    assert [combination.name for combination in chosen][:4] == ["plain", "dynamic_ntk", "logn", "dynamic_ntk + logn"]
    assert len({combination.name for combination in chosen}) == 9
    cells = measure(scorers(model), CONFIG, IDS, [16, 32, 64], 16, chosen)
    assert model.config == CONFIG
    found = {(cell.combination, cell.length): cell for cell in cells}
    own = ContextExtension(seq_length=16, dynamic_ntk=True, logn=True)
    model.config = replace(CONFIG, extension=own, max_position_embeddings=64)
    ids_BT = torch.tensor(IDS[:128]).view(2, 64)
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(model(ids_BT)[:, :-1].flatten(0, 1), ids_BT[:, 1:].flatten())
    cell = found["dynamic_ntk + logn", 64]
    assert cell.perplexity.n == len(cell.nats) == 2
    assert cell.perplexity.mean == pytest.approx(math.exp(loss.item()), rel=1e-4)
    for combination in chosen:  # at the trained length none acts
        assert found[combination.name, 16].perplexity.mean == pytest.approx(found["plain", 16].perplexity.mean)
    assert found["plain", 64].perplexity.mean != pytest.approx(cell.perplexity.mean, rel=1e-6)
    assert table(cells).count("\n") == 10
    assert draw(cells, "title").startswith(b"<?xml") and len(plain(cells)) == 27
    assert ElementTree.fromstring(draw(cells, "a$_{$\x1b 中")).tag.endswith("svg")  # a name of anybody's


def test_the_grid_spans_windows() -> None:
    sizes = [trick.windows for trick in grid(CONFIG, 16)]
    assert (8, 8, 8, 8) in sizes and (16, 16, 32, 32) in sizes and len(set(sizes)) == len(sizes) == 15


@pytest.mark.parametrize(("lengths", "ids"), [([16, 24], IDS), ([256], IDS), ([1], IDS)])
def test_what_cannot_be_measured(model: Transformer, lengths: list[int], ids: list[int]) -> None:
    with pytest.raises(UserError):
        measure(scorers(model), CONFIG, ids, lengths, 16, combinations(CONFIG, 16))
    assert model.config == CONFIG


def test_the_command_prints_the_table_and_draws_it(tmp_path: Path) -> None:
    tok = train_bpe([row["text"] for row in texts()], 300)
    save_tokenizer(tok, tmp_path / "m")
    save_model(init_weights(Transformer(replace(CONFIG, vocab_size=tok.vocab_size)), seed=0), tmp_path / "m")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text(" ".join(row["text"] for row in texts()) * 3)
    arguments = f"long-context {tmp_path / 'm'} --text {tmp_path / 'text'} --lengths 16,64 --limit 400"
    code, out, err = call(f"{arguments} --plot {tmp_path / 'p.svg'}")
    assert (code, err) == (0, ""), err
    assert "| dynamic_ntk + logn + window_attn |" in out and (tmp_path / "p.svg").exists()
    assert call(f"{arguments} --windows grid --json")[1].lstrip().startswith("{")
    code, _, err = call(f"{arguments} --windows 16,x")
    assert code == 2 and "integers separated by commas" in err
