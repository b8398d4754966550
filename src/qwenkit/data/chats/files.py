"""Find which files a source of chats holds, and which of them are trained on: never those named as a test split.

    found = find(Path("data"), "chats")       # found.taken, found.left: (name, why), found.splits

A file that is named itself is read. In a folder, the split is recognised by words in the names, of a file before those
of its folders: `train`, `training`; `test`, `validation`, `valid`, `val`, `dev`, `eval`, `holdout`, `benchmark` (and
训练, 测试, 验证, 评测), also as `testSet`, `testset` and 测试集. With a training split only that is read; without one,
the files that name no split. Unclear cases are refused: both beside each other, a name of both, one split in two
formats. `README.md` of the Hub's data sets may name the files of the split. A run's artifact has its own file
(`chat.jsonl`, `prompts.jsonl`, `pairs.jsonl`), which comes first.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from qwenkit.data.chats.card import train_files
from qwenkit.data.chats.formats import SUFFIXES, format_of, stem_of
from qwenkit.data.readers.sources import files_below
from qwenkit.errors import UserError, nearest
from qwenkit.files import refuse_special

KINDS = ("chats", "prompts", "pairs")
OWN = {"chats": ("chat.jsonl",), "prompts": ("prompts.jsonl",), "pairs": ("pmp_pairs.jsonl", "pairs.jsonl")}
NOUNS = {"chats": "chats", "prompts": "prompts", "pairs": "comparisons"}
_TRAIN = {"train", "training", "训练"}
_HELD = {"test", "testing", "tests", "validation", "valid", "val", "dev", "eval", "evaluation", "heldout", "holdout"}
_HELD |= {"validate", "evals", "benchmark", "benchmarks"}
_HELD |= {"测试", "验证", "评测"}
_ABOUT = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "manifest.json", "run.json",
          "config.json", "package.json", "metadata.json", "croissant.json"}  # fmt: skip
_PURPOSE = {
    "chats": {"sft", "chat", "chats", "instruct", "instruction"},
    "pairs": {"prefs", "preference", "preferences", "dpo", "rm", "reward", "pairs", "comparisons"},
    "prompts": {"gen", "rl", "ppo", "grpo", "prompts"},
}
_SHARD = re.compile(r"-\d{4,6}-of-\d{4,6}.*$")
_WORD = re.compile(r"[a-z]+|[\u4e00-\u9fff]+")
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")
_SPLIT = re.compile("训练|测试|验证|评测")
_NOUN = re.compile(r"(?<=[a-z])(?:sets?|data|splits?)$")


@dataclass(frozen=True)
class Files:
    """The files of a source: those that are `taken`, the split that they are, and those `left` out, with the
    reasons."""

    root: Path
    taken: tuple[Path, ...]
    split: str = ""
    left: tuple[tuple[str, str], ...] = ()
    splits: dict[str, list[str]] = field(default_factory=dict)

    def named(self, path: Path) -> str:
        """Return the name of a file for messages: its path below the source."""
        return path.relative_to(self.root).as_posix() if self.root in path.parents else path.name


def find(source: Path | Sequence[Path], kind: str, own: Sequence[str] = ()) -> Files:
    """Return the files of a source, which is one path or several; `own` names the file of an artifact.

    Raises a `UserError` for files that cannot be read, and where it is unclear which ones are meant."""
    if isinstance(source, Path):
        return _find(source, kind, own)
    results = [_find(path, kind, own) for path in source]
    if len(results) == 1:
        return results[0]
    root = Path(os.path.commonpath([path.absolute() for path in source]))
    taken = [file.absolute() for each in results for file in each.taken]
    twice = next((file for number, file in enumerate(taken) if file in taken[:number]), None)
    if twice is not None:
        raise UserError("a file that is given twice", where=str(twice), hint="name it once")
    left = [(f"{each.root.name}/{name}", why) for each in results for name, why in each.left]
    splits: dict[str, list[str]] = {}
    for each in results:
        for name, names in each.splits.items():
            splits.setdefault(name, []).extend(names)
    return Files(root, tuple(taken), "", tuple(left), splits)


def _find(path: Path, kind: str, own: Sequence[str]) -> Files:
    if not path.exists():
        beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UserError("no such file", where=str(path), expected=f"a file or a folder with {NOUNS[kind]}",
                        nearest=nearest(path.name, beside))  # fmt: skip
    if not path.is_dir():
        refuse_special(path, f"a file or a folder with {NOUNS[kind]}")
        format_of(path)
        name = split_of((stem_of(path),))
        return Files(path, (path,), name, (), {name: [path.name]})
    mine = next((path / name for name in own or OWN[kind] if (path / name).is_file()), None)
    if mine is not None:
        rest = [file for file in _data_files(path)[0] if file != mine]
        left = [(file.relative_to(path).as_posix(), f"beside `{mine.name}`, which comes first") for file in rest]
        return Files(path, (mine,), "", tuple(left), {"": [mine.name]})
    return _of_folder(path, kind, own or OWN[kind])


def _of_folder(path: Path, kind: str, own: Sequence[str]) -> Files:
    files, left = _data_files(path)
    if not files:
        what = "no file of rows in this folder" + (f"; what lies there: {some([n for n, _ in left])}" if left else "")
        raise UserError(what, where=str(path), expected=f"{own[-1]}, or files that end in {', '.join(SUFFIXES)}")
    named = train_files(path, files)
    meant = set(named or ())
    splits: dict[str, list[Path]] = {}
    for file in files:
        relative = file.relative_to(path)
        name = "" if named is None else "train" if file in meant else "not of the card's training split"
        name = split_of((*relative.parts[:-1], stem_of(file)), path) if named is None else name
        splits.setdefault(name, []).append(file)
    name = _chosen(splits, path)
    taken, other = _for_purpose(splits[name], kind)
    _refuse_twice(taken, path)
    left += [(f.relative_to(path).as_posix(), why) for f, why in other]
    left += [(f.relative_to(path).as_posix(), f"of the split `{s}`" if s in _HELD else s or "of no split")
             for s, members in splits.items() if s != name for f in members]  # fmt: skip
    listed = {s or "no name": [f.relative_to(path).as_posix() for f in members] for s, members in splits.items()}
    return Files(path, tuple(taken), name, tuple(sorted(left)), listed)


def split_of(parts: Sequence[str], where: Path | None = None) -> str:
    """Return the split that the names in a path tell, the last name first: `train`, the word of another split, or
    ""."""
    for part in reversed(parts):
        words = _words(part)
        train, held_out = words & _TRAIN, words & _HELD
        if train and held_out and where is not None:
            raise UserError(f"`{part}` names two splits: {', '.join(sorted(train | held_out))}", where=str(where),
                            hint="name the files themselves, or rename this one")  # fmt: skip
        if train or held_out:
            return "train" if train else min(held_out)
    return ""


def _words(part: str) -> set[str]:
    """Return the words of a name: `testData`, `test-set` and `testset` contain `test`."""
    name = _HUMP.sub("-", _SHARD.sub("", part)).lower()
    parts = _WORD.findall(re.sub(r"held[-_ ]out", "heldout", name))
    return {_NOUN.sub("", word) for word in parts} | set(_SPLIT.findall(name))


def _chosen(splits: dict[str, list[Path]], path: Path) -> str:
    """Return the split to train on; raises a `UserError` where the folder does not make it clear."""
    if "train" in splits and "" in splits:
        names = [file.relative_to(path).as_posix() for file in splits[""]]
        raise UserError(
            f"beside a training split lie files that name no split: {some(names)}", where=str(path),
            hint="name the files that are meant, separated by commas, or put the others elsewhere",
        )  # fmt: skip
    name = "train" if "train" in splits else ""
    if name not in splits:
        names = " and ".join(f"`{name}`" for name in sorted(splits))
        raise UserError(
            f"only {names} files are in this folder, and no training split",
            where=str(path), expected="files called train-..., or of no split",
            hint="name a file itself if it is meant all the same",
        )  # fmt: skip
    return name


def _for_purpose(files: list[Path], kind: str) -> tuple[list[Path], list[tuple[Path, str]]]:
    """Return the files of this kind among `train_sft` and `train_prefs`, where names tell, and the others with
    reasons."""
    words = {file: set(_WORD.findall(_SHARD.sub("", stem_of(file)).lower())) for file in files}
    other = set().union(*(names for name, names in _PURPOSE.items() if name != kind)) - _PURPOSE[kind]
    if not any(names & _PURPOSE[kind] for names in words.values()):
        return files, []
    left = {file: f"by its name not of {NOUNS[kind]}" for file in files
            if words[file] & other and not words[file] & _PURPOSE[kind]}  # fmt: skip
    return [file for file in files if file not in left], [*left.items()]


def _refuse_twice(files: list[Path], path: Path) -> None:
    """Raise a `UserError` for one name in two formats: most likely the same rows twice."""
    by_inode: dict[Path, Path] = {}
    for file in files:
        name = file.with_name(stem_of(file))
        if name in by_inode:
            both = f"{by_inode[name].relative_to(path)} and {file.relative_to(path)}"
            raise UserError(f"the same rows twice, it seems: {both}", where=str(path),
                            hint="name the file that is meant, or rename one of them")  # fmt: skip
        by_inode[name] = file


def _data_files(path: Path) -> tuple[list[Path], list[tuple[str, str]]]:
    """Return the files of rows below a folder in sorted order, and the names of other files with the reasons."""
    below, closed = files_below(path)
    why = {file: reason for file in below if (reason := _no_data(file))} | closed
    files = sorted((file for file in below if file not in why), key=lambda file: file.relative_to(path).as_posix())
    return files, sorted(
        (str(file.relative_to(path)).encode("utf-8", "replace").decode(), text) for file, text in why.items()
    )


def _no_data(file: Path) -> str:
    if file.name.startswith("."):
        return "a hidden file"
    if file.is_symlink() and not file.exists():
        return "a link to nothing"
    if not file.is_file():
        return "no plain file"
    if file.name.lower() in _ABOUT:
        return "a description, no rows"
    return "" if format_of(file, ask=False) else "a file of another type"


def some(names: Sequence[str]) -> str:
    """Return a few names, and how many more there are."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
