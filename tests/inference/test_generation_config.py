"""What a GGUF file says of sampling reaches the engine's requests."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import gguf
import pytest

from qwenkit.errors import Notice, UserError
from qwenkit.gguf_file import GGUFFile, read_gguf
from qwenkit.inference import Engine, SamplingParams
from qwenkit.inference.generation_config import gguf_sampling_defaults
from qwenkit.model import load_model
from tests.gguf_files import file_bytes
from tests.tiny_gguf import settings_of, tensors_of, tiny_model


def written(path: Path, **values: Any) -> GGUFFile:
    """A file whose settings of `general.sampling` the package writes."""
    writer = gguf.GGUFWriter(path, "qwen2")
    for name, value in values.items():
        getattr(writer, f"add_sampling_{name}")(value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return read_gguf(path)


def test_the_keys_are_the_packages() -> None:
    own = {key for name, key in vars(gguf.Keys.General).items() if name.startswith("SAMPLING_")}
    names = "sequence top_k top_p min_p temp penalty_last_n penalty_repeat xtc_probability xtc_threshold mirostat"
    names += " mirostat_tau mirostat_eta"
    assert own == {f"general.sampling.{name}" for name in names.split()}


def test_a_files_sampling_is_the_default_of_every_request(tmp_path: Path) -> None:
    off = {"mirostat": 0, "mirostat_tau": 5.0, "mirostat_eta": 0.1, "xtc_probability": 0.0, "xtc_threshold": 0.1}
    file = written(tmp_path / "a.gguf", temp=0.7, top_k=20, top_p=0.8, min_p=0.05, penalty_repeat=1.05,
                   penalty_last_n=-1, **off)  # fmt: skip
    wanted = {"temperature": 0.7, "top_k": 20, "top_p": 0.8, "min_p": 0.05, "repetition_penalty": 1.05}
    assert gguf_sampling_defaults(file) == wanted
    model = tiny_model()
    keys = [f"general.sampling.{name}" for name in ("temp", "top_k", "top_p", "min_p", "penalty_repeat")]
    settings = settings_of(model.config, "qwen2") | {key: file.scalar(key) for key in keys}
    path = tmp_path / "model.gguf"
    path.write_bytes(file_bytes(settings, tensors_of(model, "qwen2")))
    params = Engine(path).request_factory.effective_params(SamplingParams(top_p=0.5))
    assert {name: getattr(params, name) for name in wanted} == wanted | {"top_p": 0.5}
    plain = Engine(load_model(path)).request_factory.effective_params(None)
    assert (plain.temperature, plain.top_k, plain.top_p) == (1.0, 0, 1.0), "only a file says it"


def test_without_settings_there_are_no_defaults(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert gguf_sampling_defaults(written(tmp_path / "a.gguf")) == {}
        off = written(tmp_path / "b.gguf", top_k=-1, penalty_repeat=1.3, penalty_last_n=0)
        assert gguf_sampling_defaults(off) == {"top_k": 0}
        one = written(tmp_path / "c.gguf", penalty_repeat=1.0, penalty_last_n=64)
        assert gguf_sampling_defaults(one) == {"repetition_penalty": 1.0}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"xtc_probability": 0.5}, "general.sampling.xtc_probability = 0.5 is not supported\n  expected: 0, or none\n  "
         "hint: gguf-new-metadata --remove-metadata general.sampling.xtc_probability takes it out"),
        ({"mirostat": 2}, "general.sampling.mirostat = 2 is not supported\n  expected: 0, or none\n  "
         "hint: gguf-new-metadata --remove-metadata general.sampling.mirostat takes it out"),
        ({"top_p": 1.5}, "sampling parameters: top_p = 1.5\n  expected: more than 0 and at most 1; or None"),
        ({"temp": float("nan")}, "sampling parameters: temperature = nan\n  expected: 0, or 1e-06 to 1e+06; or None"),
    ],
)  # fmt: skip
def test_what_is_not_supported_is_refused(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        gguf_sampling_defaults(written(tmp_path / "a.gguf", **values))
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sequence": "top_k;temperature"},
         "general.sampling.sequence: here the order is penalties, temperature, top-k, top-p, min-p"),
        ({"penalty_repeat": 1.1, "penalty_last_n": 64}, "general.sampling.penalty_last_n = 64: here the repetition "
         "penalty is for all tokens, not for the last 64"),
    ],
)  # fmt: skip
def test_what_is_done_otherwise_is_said(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    with pytest.warns(Notice) as caught:
        gguf_sampling_defaults(written(tmp_path / "a.gguf", **values))
    assert [str(warning.message) for warning in caught] == [message]


def test_a_setting_of_a_later_format_is_said(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(file_bytes({"general.sampling.wonder": 1.0, "general.sampling.top_k": 5}, {}))
    with pytest.warns(Notice, match=r"general\.sampling\.\*: not known here, and passed over: wonder"):
        assert gguf_sampling_defaults(read_gguf(path)) == {"top_k": 5}
    path.write_bytes(file_bytes({"general.sampling.temp": "warm"}, {}))
    with pytest.raises(UserError) as caught:
        gguf_sampling_defaults(read_gguf(path))
    assert str(caught.value) == f"{path}, general.sampling.temp: it is 'warm'\n  expected: a number"
