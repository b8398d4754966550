"""The recipes that come with the package: whole graphs, the report's sizes, and the report's values as defaults."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

import pytest
import torch

from qwenkit import platform
from qwenkit.artifacts import finish
from qwenkit.errors import UserError
from qwenkit.lineage.estimate import refuse_too_large, sizes
from qwenkit.lineage.recipe import load_recipe, packaged
from qwenkit.model import Transformer
from qwenkit.records import write_json
from qwenkit.stages import load_stage, pretrain, tokenizer
from tests.errors.desk import call
from tests.lineage.report_values import FULL_SIZE, PARAMETERS, VALUES, Value

SIZES = {
    ("tokenizer", "pad_to"), ("base", "tokens"), ("base", "hidden_size"), ("base", "num_hidden_layers"),
    ("base", "num_attention_heads"),
    ("base", "intermediate_size"),
}  # fmt: skip
DATA = ("testsets.extra", "corpus.extra", "chat.data", "pmp.data", "reward.data", "chat-rlhf.prompts")


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with nothing in it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def stocked(bare: Path) -> Path:
    """A folder with a file under each name that the full-size recipes give to the user's data."""
    for node in load_recipe("qwen-7b").nodes.values():
        for kind, target in node.inputs.values():
            if kind == "path":
                path = bare / target / "a.txt" if not Path(target).suffix else bare / target
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(ROWS.get(path.name, {"text": "A text of mine."})) + "\n")
    return bare


ASKED = {"role": "user", "content": "so?"}
COMPARED = {"messages": [ASKED], "chosen": "yes", "rejected": "no"}
ROWS = {
    "chats.jsonl": {"messages": [ASKED, {"role": "assistant", "content": "yes"}]},
    "comparisons.jsonl": COMPARED, "annotated.jsonl": COMPARED, "pairs.jsonl": COMPARED,
    "prompts.jsonl": {"messages": [ASKED]},
}  # fmt: skip
"""A row of each file of people's: the first is looked at before anything works."""


def weights(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


# ---- the report's values ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", FULL_SIZE)
@pytest.mark.parametrize("value", VALUES, ids=lambda v: f"{v.node}.{v.key}")
def test_a_value_of_the_report_is_the_recipes(value: Value, recipe: str) -> None:
    assert getattr(load_recipe(recipe).nodes[value.node].config, value.key) == value.of(recipe)


@pytest.mark.parametrize("value", VALUES, ids=lambda v: f"{v.node}.{v.key}")
def test_a_value_of_the_report_is_the_default_but_for_sizes(value: Value) -> None:
    """Qwen-7B is the default of everything; a recipe adds only the sizes of another model."""
    kind = load_recipe("qwen-7b").nodes[value.node].kind
    default = load_stage(kind).Config.model_fields[value.key].default
    assert default == value.of("qwen-7b")
    assert len(set(value.values)) == 1 or (value.node, value.key) in SIZES


@pytest.mark.parametrize("recipe", FULL_SIZE)
def test_a_full_size_recipe_holds_sizes_and_edges_only(recipe: str) -> None:
    for node in load_recipe(recipe).nodes.values():
        given = node.config.model_fields_set - set(node.config.edges())
        assert {(node.name, key) for key in given} <= SIZES


@pytest.mark.parametrize("recipe", FULL_SIZE)
def test_the_model_has_the_released_number_of_weights(recipe: str) -> None:
    nodes = load_recipe(recipe).nodes
    base, vocabulary = nodes["base"].config, nodes["tokenizer"].config
    assert isinstance(base, pretrain.Config) and isinstance(vocabulary, tokenizer.Config)
    rows = tokenizer.vocab_rows(vocabulary)
    with torch.device("meta"):
        model = Transformer(pretrain.model_config_of(base, rows, eot_id=0))
    assert rows == (152_064 if recipe == "qwen-14b" else 151_936)
    assert weights(model) == PARAMETERS[recipe] == pretrain.estimate(base, rows).parameters


@pytest.mark.parametrize("keys", [{}, {"tie_word_embeddings": True}, {"num_key_value_heads": 2}], ids=str)
def test_weights_are_counted_as_torch_counts_them(keys: dict[str, int]) -> None:
    config = pretrain.Config(
        corpus="c",
        tokenizer="t",
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=96,
        **keys,
    )  # type: ignore[arg-type]
    assert pretrain.estimate(config, 128).parameters == weights(
        Transformer(pretrain.model_config_of(config, 128, eot_id=0))
    )


def test_rows_of_the_embedding_are_known_before_the_tokenizer_is_trained() -> None:
    from qwenkit.tokenizer import train_bpe

    config = tokenizer.Config(corpus="c", vocab_size=260, extras=5, pad_to=8)
    trained = train_bpe(["a b c d e f g h"], config.vocab_size, extras=config.extras, multiple=config.pad_to)
    assert tokenizer.vocab_rows(config) == trained.vocab_size


# ---- whole graphs -------------------------------------------------------------------------------------------------


def test_the_full_size_recipes_are_one_graph() -> None:
    graphs = [
        [(node.name, node.kind, sorted(node.inputs.items())) for node in load_recipe(recipe).nodes.values()]
        for recipe in FULL_SIZE
    ]
    assert graphs[0] == graphs[1] == graphs[2]


@pytest.mark.parametrize("recipe", packaged())
def test_a_plan_needs_no_data(recipe: str, bare: Path) -> None:
    code, out, err = call(f"run {recipe} --dry-run --json")
    assert code == 0, err
    plan = {row["node"]: row for row in json.loads(out)}
    assert list(plan) == list(load_recipe(recipe).nodes)
    lacking = {name for name, row in plan.items() if row["state"] == "absent"}
    data = {"own": ("corpus.extra", "chat.data"), "finetune": ("chat.data",)} | dict.fromkeys(FULL_SIZE, tuple(DATA))
    assert lacking == {key.split(".")[0] for key in data.get(recipe, ())}
    if recipe != "finetune":
        assert plan["base"]["size"]["flops"] == 6 * plan["base"]["size"]["parameters"] * plan["base"]["size"]["tokens"]
    assert not list(bare.iterdir())


def test_the_plan_says_what_it_lacks_and_how_large_it_is(bare: Path) -> None:
    code, out, err = call("run qwen-7b --dry-run")
    assert code == 0 and not err
    assert "needs data" in out and "data/text" in out
    assert "base: 7.72 B parameters, 2.4 T tokens, 1.1e+23 FLOPs, more than 124 GB of memory" in out


def test_a_run_names_every_key_that_lacks_its_data(bare: Path) -> None:
    code, _, err = call("run qwen-7b --set device=cpu")
    assert code == 2
    assert [key for key in DATA if f"`{key}` names what is not there" in err] == list(DATA)
    assert not list(bare.iterdir())


def test_data_is_needed_only_for_what_is_wanted(bare: Path) -> None:
    code, _, err = call("run qwen-7b --set device=cpu --until tokenizer")
    assert code == 2
    assert "corpus.extra" in err and "testsets.extra" in err and "chat.data" not in err


def test_a_misspelt_node_is_a_mistake_also_in_a_plan(bare: Path) -> None:
    code, _, err = call("run qwen-7b --dry-run --set base.corpus=corpsu")
    assert code == 2 and "nearest: corpus" in err


@pytest.mark.parametrize("recipe", FULL_SIZE)
def test_a_copy_finds_the_data_beside_it(recipe: str, stocked: Path) -> None:
    assert call(f"init my.toml --from {recipe}")[0] == 0
    with contextlib.chdir(stocked.parent):
        code, out, err = call(f"run {stocked.name}/my.toml --dry-run --json")
    assert code == 0, err
    assert not [row for row in json.loads(out) if row["state"] == "absent"]


TOY = (
    "device=cpu", "threads=1", "tokenizer.vocab_size=400", "tokenizer.extras=5", "base.tokens=8000",
    "base.seq_length=256", "base.batch_size=4", "base.micro_batch_size=4", "base.warmup_steps=2", "base.hidden_size=32",
    "base.num_hidden_layers=1", "base.num_attention_heads=2", "base.intermediate_size=64", "chat.seq_length=256",
    "chat.batch_size=4", "chat.steps=4",
    "chat.warmup_steps=1", "pmp.seq_length=256", "pmp.batch_size=16", "reward.seq_length=256", "reward.batch_size=16",
    "chat-rlhf.steps=3", "chat-rlhf.value_warmup_steps=1", "chat-rlhf.prompts_per_step=8", "chat-rlhf.max_tokens=16",
    "chat-rlhf.seq_length=256", "chat-rlhf.ptx_rows=2", "exam.limit=10", "exam.max_tokens=16",
)  # fmt: skip
FILES = {  # the name in `data`: the world's file that stands in for it
    "text/a.jsonl": "text.jsonl", "tests/base.jsonl": "tests/base.jsonl", "tests/chat.jsonl": "tests/chat.jsonl",
    "tests/pairs.jsonl": "tests/pairs.jsonl", "chats.jsonl": "chat.jsonl", "comparisons.jsonl": "pmp_pairs.jsonl",
    "annotated.jsonl": "tests/pairs.jsonl", "prompts.jsonl": "prompts.jsonl",
}  # fmt: skip


def test_its_graph_is_raised_from_files_alone(bare: Path) -> None:
    """The recipe itself at a toy's sizes: every edge finds its data, from the text to the report."""
    assert call("world --scale tiny --threads 1 --out made -q")[0] == 0
    for given, made in FILES.items():
        path = bare / "data" / given
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bare / "made/world" / made, path)
    changes = " ".join(f"--set {change}" for change in TOY)
    code, out, err = call(f"run qwen-7b {changes} --json")
    assert code == 0, err
    assert [row["node"] for row in json.loads(out)["nodes"]] == list(load_recipe("qwen-7b").nodes)
    assert (bare / "runs/qwen-7b/report.html").exists()


# ---- what cannot fit ----------------------------------------------------------------------------------------------


@pytest.fixture
def small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "usable_memory", lambda device: 16 * 10**9)


def test_a_model_that_cannot_fit_is_refused_before_any_work(stocked: Path, small_machine: None) -> None:
    code, _, err = call("run qwen-1.8b --set device=cpu")
    assert code == 2
    assert "`base` cannot be trained here: 1.84 B parameters, 2.2 T tokens, 2.4e+22 FLOPs" in err
    assert "more than 29.4 GB of memory, where a device has 16 GB" in err
    assert "hint: at least 2 such devices, and a recipe trains on one: a larger one, or a smaller [base]" in err
    assert not (stocked / "runs").exists()


def test_a_model_that_a_run_has_trained_already_may_be_used(bare: Path, small_machine: None) -> None:
    recipe = load_recipe("qwen-1.8b")
    (bare / "elsewhere/base").mkdir(parents=True)
    config = recipe.nodes["base"].identity()
    manifest = {"node": "base", "kind": "pretrain", "version": 1, "key": "k", "seed": 1, "config": config, "inputs": {}}
    finish(bare / "elsewhere/base", manifest, {})
    refuse_too_large(recipe, ["base"], [bare / "runs", bare / "elsewhere"])
    with pytest.raises(UserError, match="cannot be trained here"):
        refuse_too_large(
            load_recipe("qwen-1.8b", ["base.num_hidden_layers=23"]), ["base"], [bare / "runs", bare / "elsewhere"]
        )


def test_a_verb_is_refused_as_a_recipe_is(stocked: Path, small_machine: None) -> None:
    """The defaults of `pretrain` are Qwen-7B: nobody should find that out by a machine that dies."""
    (stocked / "tok").mkdir()
    write_json(stocked / "tok/tokenizer_config.json", {"model_vocab_size": 151936})
    code, _, err = call("pretrain --corpus data/text/a.txt --tokenizer tok --out o")
    assert code == 2 and "`pretrain` cannot be trained here: 7.72 B parameters" in err
    assert not (stocked / "o").exists()


def test_the_floor_of_memory_follows_the_optimizer(bare: Path) -> None:
    adamw = sizes(load_recipe("qwen-7b"))["base"]
    muon = sizes(load_recipe("qwen-7b", ["base.optimizer=muon"]))["base"]
    assert adamw.memory == 16 * adamw.parameters and muon.memory == 12 * muon.parameters


# ---- what is offered ----------------------------------------------------------------------------------------------


def test_the_list_tells_what_each_recipe_makes_and_needs(bare: Path) -> None:
    code, out, _ = call("recipes --json")
    rows = {row["recipe"]: row for row in json.loads(out)}
    assert code == 0 and set(rows) == set(packaged())
    assert list(rows) == sorted(rows, key=lambda name: rows[name]["parameters"] or 0)
    assert all(row["about"] for row in rows.values())
    assert rows["nano"]["data"] == [] and rows["qwen-7b"]["data"] == list(DATA)
    (bare / "corpus").mkdir()  # which `run` would not tell from the node of that name
    shown = call("recipes")[1]
    assert all(name in shown for name in rows) and "7.72 B" in shown and "corpus.extra" in shown


def test_a_folder_of_a_recipes_name_does_not_hide_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nano").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_recipe("nano").source == "recipe nano"


@pytest.mark.parametrize("name", packaged())
def test_a_recipe_of_ones_own_has_its_own_name_and_folder(name: str, bare: Path) -> None:
    """Running the copy must not write into the run of the recipe it was copied from."""
    assert call(f"init mine/my-family.toml --from {name}")[0] == 2  # no folder is made for it
    assert call(f"init my-family.toml --from {name}")[0] == 0
    mine, theirs = load_recipe("my-family.toml"), load_recipe(name)
    assert (mine.title, mine.out) == ("my-family", Path("runs/my-family"))
    assert (mine.about, mine.seed, list(mine.nodes)) == (theirs.about, theirs.seed, list(theirs.nodes))


def test_changes_are_written_into_a_recipe_of_ones_own(bare: Path) -> None:
    """In their place, or first in their table; what is not there yet is named at once."""
    (bare / "texts").mkdir()
    code, out, err = call("init my.toml --from own --set corpus.extra=texts --set base.beta1=0.8 --set threads=1")
    assert code == 0, err
    assert "chat.data" in out and "corpus.extra" not in out
    mine, text = load_recipe("my.toml"), Path("my.toml").read_text()
    assert mine.nodes["corpus"].inputs == {"extra.0": ("path", "texts")}
    assert mine.nodes["base"].config.model_dump()["beta1"] == 0.8 and mine.threads == 1
    assert text.count("\nextra = ") == 1 and "# Section 2.1" in text


@pytest.mark.parametrize(
    "change", ["corpus.extra=nowhere", "base.layres=3", "nobody.data=texts", "corpus.extra", "chat.epochs=-1"]
)
def test_changes_that_cannot_be_are_refused_before_a_file_is_written(change: str, bare: Path) -> None:
    code, _, err = call(f"init my.toml --from own --set {change}")
    assert code == 2 and err.startswith("error: ") and not Path("my.toml").exists()
