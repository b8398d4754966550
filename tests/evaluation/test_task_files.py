"""Task files: what is refused, how rows are found and rendered, and that bad rows are named."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenkit.errors import UserError
from qwenkit.evaluation.task_data import DataSource, MissingData, hash_changes, read_rows, stem
from qwenkit.evaluation.task_files import load_task
from qwenkit.evaluation.task_template import boxed, fill, parse, value

TASK = """about = "a test"
citation = "nobody"
licence = "ours"
rows = 2
{top}
[data]
path = "rows.jsonl"
get = "from nowhere"

[ask]
kind = "choices"
prompt = "Q: {{q}}\\nA:"
choices = "{{c}}"
gold = "{{g}}"
{ask}
[forms.plain]
"""
ROWS = [{"q": "two", "c": ["1", "2"], "g": 1}, {"q": "one", "c": ["1", "2"], "g": 0}]


def write(folder: Path, rows: list[dict[str, object]], top: str = "", ask: str = "", more: str = "") -> Path:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    path = folder / "mine.toml"
    path.write_text(TASK.format(top=top, ask=ask) + more, "utf-8")
    return path


def test_an_item(tmp_path: Path) -> None:
    first, second = load_task(write(tmp_path, ROWS)).items(tmp_path)
    assert first.pairs == [("Q: two\nA:", " 1"), ("Q: two\nA:", " 2")]
    assert (first.gold, second.gold, first.id) == (1, 0, "rows/0")
    assert first.prompt_hash != second.prompt_hash


def test_the_hash_is_of_what_the_model_reads(tmp_path: Path) -> None:
    one = next(load_task(write(tmp_path, ROWS)).items(tmp_path))
    other = next(load_task(write(tmp_path, ROWS, ask='delimiter = ""')).items(tmp_path))
    keys = next(load_task(write(tmp_path, [{**ROWS[0], "g": 0}])).items(tmp_path))
    assert one.prompt_hash != other.prompt_hash
    assert one.prompt_hash == keys.prompt_hash


@pytest.mark.parametrize(
    ("top", "ask", "message"),
    [
        ('subjekt = "x"', "", "line 5: unknown key `subjekt`"),
        ("", 'sepperator = "x"', "line 15: unknown key `sepperator`"),
        ("", "shots = true", "`shots` is of another type"),
        ("", 'kind = "choose"', "given twice"),
        ("", 'intro = "{q|stripp}"', "line 15: `stripp` is not a filter"),
        ("", 'intro = "{q"', "a lone `{`"),
        ("", 'by = "words"', "expected: raw, char, byte, token"),
    ],
)
def test_a_task_file_is_checked(tmp_path: Path, top: str, ask: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_task(write(tmp_path, ROWS, top, ask))
    assert message in caught.value.text()


def test_the_nearest_name_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_task(write(tmp_path, ROWS, ask='sepperator = "x"'))
    assert caught.value.nearest == "separator"
    with pytest.raises(UserError) as caught:
        load_task("mlmu")
    assert caught.value.nearest == "mmlu"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"q": "x", "c": ["1", "1"], "g": 0}, "two choices are equal: '1'"),
        ({"q": "x", "c": ["1", "2"], "g": 2}, "the answer key is 2"),
        ({"q": "x", "c": ["1", "2"], "g": True}, "the answer key is True"),
        ({"q": "x", "c": ["1", ""], "g": 0}, "an empty choice"),
        ({"q": "x", "c": ["1"], "g": 0}, "two or more choices"),
        ({"c": ["1", "2"], "g": 0}, "the row has no `q`"),
        ({"q": None, "c": ["1", "2"], "g": 0}, "`q` is empty where text is needed"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, row: dict[str, object], message: str) -> None:
    task = load_task(write(tmp_path, [*ROWS, row]))
    with pytest.raises(UserError) as caught:
        list(task.items(tmp_path))
    assert message in caught.value.text() and "row 2" in caught.value.text()
    bad: list[UserError] = []
    assert len(list(task.items(tmp_path, bad=bad))) == 2
    assert len(bad) == 1


def test_ids_that_are_given_twice(tmp_path: Path) -> None:
    task = load_task(write(tmp_path, [ROWS[0], ROWS[0]], top='id = "{q}"'))
    with pytest.raises(UserError, match="the id `two` is given twice"):
        list(task.items(tmp_path))


SHOTS = '[shots]\npath = "shots.jsonl"\n'


def test_shots(tmp_path: Path) -> None:
    path = write(tmp_path, ROWS, ask='shots = 1\nintro = "Choose.\\n\\n"', more=SHOTS)
    (tmp_path / "shots.jsonl").write_text('{"q": "three", "c": ["2", "3"], "g": 1}\n')
    assert next(load_task(path).items(tmp_path)).prompt == "Choose.\n\nQ: three\nA: 3\n\nQ: two\nA:"


def test_too_few_shots(tmp_path: Path) -> None:
    path = write(tmp_path, ROWS, ask="shots = 2", more=SHOTS)
    (tmp_path / "shots.jsonl").write_text('{"q": "three", "c": ["2", "3"], "g": 1}\n')
    with pytest.raises(UserError, match="1 shots where 2 are asked for"):
        next(load_task(path).items(tmp_path))
    with pytest.raises(UserError, match="not where they come from"):
        next(load_task(write(tmp_path, ROWS, ask="shots = 2")).items(tmp_path))


def test_a_limit_takes_rows_at_equal_distances(tmp_path: Path) -> None:
    rows = [{"q": str(number), "c": ["1", "2"], "g": 0} for number in range(10)]
    items = load_task(write(tmp_path, rows)).items(tmp_path, limit=3)
    assert [item.id for item in items] == ["rows/0", "rows/3", "rows/6"]


def test_packed_and_unpacked_copies_are_the_same(tmp_path: Path) -> None:
    content = b'{"a": 1}\n{"a": 2}\n'
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(content))
    packed = list(read_rows(DataSource("x.jsonl"), tmp_path))
    (tmp_path / "x.jsonl.gz").rename(tmp_path / "y.gz")
    (tmp_path / "x.jsonl").write_bytes(content)
    assert list(read_rows(DataSource("x.jsonl.gz"), tmp_path)) == packed
    assert packed[1] == {"a": 2, "_file": "x", "_number": 1}


def archive(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:xz") as file:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))


def test_archives_and_folders(tmp_path: Path) -> None:
    source = DataSource("x.tar.xz", form="csv", members="*_test.csv", columns=("q", "a"))
    archive(tmp_path / "x.tar.xz", {"t/b_test.csv": b'"1,5",A\n', "t/c_dev.csv": b"no\n"})
    rows = list(read_rows(source, tmp_path))
    assert rows == [{"q": "1,5", "a": "A", "_file": "b_test", "_number": 0}]
    (tmp_path / "x.tar.xz").unlink()
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "b_test.csv").write_bytes(b'"1,5",A\n')
    assert list(read_rows(source, tmp_path)) == rows


@pytest.mark.parametrize(
    ("name", "content", "form", "message"),
    [
        ("x.jsonl", b'{"a": 1}\n{"a": ', "jsonl", "broken JSON"),
        ("x.jsonl", b'{"a": "\xff\xfe"}\n', "jsonl", "invalid UTF-8"),
        ("x.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 1000)[:-9], "jsonl", "truncated file"),
        ("x.csv", b"q,a\n1,2,3\n", "csv", "3 columns"),
        ("x.csv", "q,a\n1,2\n".encode("utf-16"), "csv", "UTF"),
        ("x.json", b'{"examples": 3}', "json", "the list of rows is missing"),
        ("x.tar.xz", b"\xfd7zXZ\0 nothing", "csv", "truncated or corrupted archive"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, name: str, content: bytes, form: str, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        list(read_rows(DataSource(name, form=form, at="examples" if form == "json" else ""), tmp_path))
    assert message in caught.value.text() and name in caught.value.text()


def test_a_missing_file_is_not_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(MissingData, match="from nowhere"):
        list(read_rows(DataSource("x.jsonl", get="from nowhere"), tmp_path))


def test_changed_files_are_told(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(b"")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert hash_changes(DataSource("x.jsonl", sha256={"x.jsonl": empty}), tmp_path) == []
    assert hash_changes(DataSource("x.jsonl", sha256={"x.jsonl": "0" * 64}), tmp_path) == ["x.jsonl"]
    (tmp_path / "x.jsonl").unlink()
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(b""))
    assert hash_changes(DataSource("x.jsonl", sha256={"x.jsonl": empty}), tmp_path) == []


def test_templates() -> None:
    row = {"q": " a ", "c": ["x", "y"], "n": 3, "deep": {"list": [1, 2]}}
    assert fill("{{{q|strip}}} {c|join:, } {deep.list.1}", row) == "{a} x, y 2"
    assert value("{c}", row) == ["x", "y"]
    assert value("{n|minus:1}", row) == 2
    assert value("{c|lettered:. }", row) == "A. x\nB. y"
    assert boxed(r"so \boxed{\frac{1}{2}} and \boxed{x^{2}}.") == "x^{2}"
    with pytest.raises(UserError, match="the row has no `z`"):
        fill("{z}", row)


@given(st.text(alphabet="ab{}|:", max_size=12))
def test_templates_are_read_or_refused(text: str) -> None:
    """Whatever is written, a template is read or refused with a message."""
    try:
        fill(text, {"a": "1", "b": ["2"]})
    except UserError as error:
        assert error.what


@given(st.text(max_size=30))
def test_values_are_never_read_as_templates(text: str) -> None:
    assert fill("<{a}>", {"a": text}) == f"<{text}>"
    assert parse("plain") == ("plain",)


def test_names_without_suffixes() -> None:
    assert stem("dir/a_test.csv.gz") == "a_test"
    assert stem("mbcpp_release_v1.2.jsonl.gz") == "mbcpp_release_v1.2"
