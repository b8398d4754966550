"""What is published keeps what its source said: how a tokenizer is used, how answers are drawn, where they end, under
which licence. What has no place in the new form is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qwenkit.chat import load_tokenizer
from qwenkit.model import load_model
from qwenkit.model.config import Yarn
from qwenkit.model.publish import copy_licences, save_chat_model, save_generation_config
from qwenkit.records import read_object
from tests.errors.desk import call
from tests.stages.test_export import folder, run

SETTINGS = {"eos_token": "<|im_end|>", "model_max_length": 128, "padding_side": "left", "bos_token": None}
DRAWN = {"do_sample": True, "top_p": 0.8, "repetition_penalty": 1.05, "pad_token_id": 300}


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(file: Path, **changes: Any) -> None:
    """A JSON file with other values."""
    file.write_text(json.dumps({**(read_object(file) if file.exists() else {}), **changes}))


def source(**changes: Any) -> Path:
    """A folder as others publish them."""
    made = folder("m", **changes)
    said(made / "tokenizer_config.json", **SETTINGS)
    said(made / "generation_config.json", **DRAWN)
    (made / "LICENSE").write_text("Do as you like.\n")
    (made / "special_tokens_map.json").write_text('{"eos_token": "<|im_end|>"}')
    return made


def exported(to: str, name: str = "m") -> tuple[Path, list[str]]:
    """The folder that an export makes, and its remarks."""
    run(f"export --model {name} --to {to} --out runs/{to} -q")
    out = Path(f"runs/{to}/export")
    return out, read_object(out / "run.json")["remarks"]


@pytest.mark.parametrize("to", ["hf", "qwen1"])
def test_an_export_keeps_what_its_source_said(to: str) -> None:
    made = source()
    (made / "notes.md").write_text("of mine")
    out, remarks = exported(to)
    config, drawn = read_object(out / "tokenizer_config.json"), read_object(out / "generation_config.json")
    assert {key: config[key] for key in SETTINGS} == SETTINGS
    assert {key: drawn[key] for key in DRAWN} == DRAWN and "eos_token_id" in drawn
    assert (out / "LICENSE").read_text() == "Do as you like.\n"
    assert remarks == ["left out of the exported folder: notes.md"]
    if to == "hf":
        assert (out / "tokenizer.json").read_bytes() == (made / "tokenizer.json").read_bytes()
        assert (out / "special_tokens_map.json").exists()


def test_a_first_qwens_settings_go_with_it_and_its_code_does_not() -> None:
    made = source()
    exported("qwen1")
    back = Path("runs/qwen1/export")
    (back / "manifest.json").unlink()
    said(back / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization_qwen.QWenTokenizer", None]})
    out, _ = exported("hf", str(back))
    config = read_object(out / "tokenizer_config.json")
    assert {key: config[key] for key in SETTINGS} == SETTINGS and "auto_map" not in config
    assert load_tokenizer(out).encode("a b") == load_tokenizer(made).encode("a b")


def test_a_token_that_the_model_lacks_is_left_out_and_told() -> None:
    made = source()
    said(made / "tokenizer_config.json", pad_token="<|vision_pad|>")
    said(made / "generation_config.json", eos_token_id=[2, 151645], bos_token_id=151643)
    code, _, words = call("export --model m --to hf --out runs/hf -q")
    out = Path("runs/hf/export")
    assert code == 0 and "note: " in words
    assert read_object(out / "tokenizer_config.json")["pad_token"] is None
    drawn = read_object(out / "generation_config.json")
    assert (drawn["eos_token_id"], drawn["bos_token_id"]) == ([2], None)
    assert "pad_token = <|vision_pad|>" in words and "151645" in words and "151643" in words


def test_a_folder_without_a_tokenizer_is_told_of() -> None:
    made = source()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json"):
        (made / name).unlink()
    for to in ("hf", "gguf"):
        out, remarks = exported(to)
        assert any("without a tokenizer" in remark for remark in remarks)
        assert "without a tokenizer" in read_object(out / "manifest.json")["headline"]


def test_a_chat_model_keeps_how_its_source_draws() -> None:
    made, out = source(), Path("out")
    said(made / "generation_config.json", eos_token_id=[5], chat_format="raw")
    tok = load_tokenizer(made)
    save_chat_model(load_model(made), tok, made, out)
    drawn = read_object(out / "generation_config.json")
    assert {key: drawn[key] for key in DRAWN} == DRAWN
    assert (drawn["eos_token_id"], drawn["chat_format"]) == ([tok.im_end_id, tok.eot_id, 5], "chatml")
    assert (out / "LICENSE").exists() and read_object(out / "tokenizer_config.json")["model_max_length"] == 128


def test_a_licence_that_leads_out_of_the_folder_is_not_published(tmp_path: Path) -> None:
    made, cache = tmp_path / "m", tmp_path / "models--a--b"
    (tmp_path / "secret").write_text("mine")
    for folder_ in (made, cache / "snapshots/1", cache / "blobs", tmp_path / "out"):
        folder_.mkdir(parents=True)
    (made / "LICENSE").symlink_to(tmp_path / "secret")
    (cache / "blobs/x").write_text("ours")
    (cache / "snapshots/1/NOTICE.txt").symlink_to(cache / "blobs/x")
    for source_ in (made, cache / "snapshots/1", tmp_path / "none"):
        copy_licences(source_, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["NOTICE.txt"]


def test_settings_that_are_not_there_leave_what_was_written(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    said(tmp_path / "out/generation_config.json", eos_token_id=1)
    save_generation_config(tmp_path / "none", tmp_path / "out", rows=8)
    assert read_object(tmp_path / "out/generation_config.json") == {"eos_token_id": 1}


# ---- GGUF -----------------------------------------------------------------------------------------------------------


def fields(file: Path) -> dict[str, Any]:
    """What a GGUF file says."""
    gguf = pytest.importorskip("gguf")
    return {name: field.contents() for name, field in gguf.GGUFReader(file).fields.items()}


def added(made: Path, name: str, special: bool, id: int) -> None:
    """One more token in a tokenizer.json."""
    file = made / "tokenizer.json"
    content = read_object(file)
    entry = {**content["added_tokens"][0], "id": id, "content": name, "special": special}
    file.write_text(json.dumps({**content, "added_tokens": [*content["added_tokens"], entry]}))


def test_gguf_says_which_tokens_are_printed_and_where_answers_end() -> None:
    made = source(vocab_size=640)
    tok = load_tokenizer(made)
    first = tok.n_tokens
    for i, (name, special) in enumerate((("<think>", False), ("<|more|>", True), ("<col>", False))):
        added(made, name, special, first + 2 * i)  # with gaps
    out, _ = exported("gguf")
    found = fields(out / "model.gguf")
    kinds = found["tokenizer.ggml.token_type"]
    assert kinds[first : first + 6] == [4, 5, 3, 5, 4, 5] and kinds[tok.im_end_id] == 3 and len(kinds) == 640
    assert found["tokenizer.ggml.pre"] == "qwen2" and found["tokenizer.ggml.add_bos_token"] is False
    assert found["tokenizer.ggml.eos_token_id"] == found["tokenizer.ggml.eot_token_id"] == tok.im_end_id
    assert found["tokenizer.ggml.padding_token_id"] == tok.eot_id
    assert found["tokenizer.chat_template"] == tok.chat_template


@pytest.mark.parametrize(
    ("pattern", "name"), [("cl100k", "llama-bpe"), (r"\p{N}{1,3}|[^\s\p{N}]+|\s+", "own-")], ids=["cl100k", "own"]
)
def test_gguf_names_the_pattern_or_a_name_that_llama_cpp_refuses(pattern: str, name: str) -> None:
    from qwenkit.tokenizer import PATTERNS

    made = source()
    file = made / "tokenizer.json"
    content = read_object(file)
    content["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = PATTERNS.get(pattern, pattern)
    file.write_text(json.dumps(content))
    out, remarks = exported("gguf")
    assert fields(out / "model.gguf")["tokenizer.ggml.pre"].startswith(name)
    assert any("cannot cut text" in remark for remark in remarks) == (name == "own-")


def test_gguf_says_yarn_or_refuses_what_it_cannot_say() -> None:
    source(yarn=Yarn(factor=4.0, original_max_position_embeddings=32))
    out, _ = exported("gguf")
    found = fields(out / "model.gguf")
    assert (found["qwen2.rope.scaling.type"], found["qwen2.rope.scaling.factor"]) == ("yarn", 4.0)
    source(yarn=Yarn(factor=4.0, original_max_position_embeddings=32, beta_fast=16.0))
    code, _, err = call("export --model m --to gguf --out runs/no -q")
    assert code == 2 and "YaRN with settings of its own" in err
