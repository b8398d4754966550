"""Mistakes on the command line: options, names, changes, paths."""

from __future__ import annotations

from tests.errors.cases.case import CORPUS, TOKENIZER, Case, nothing, recipe
from tests.errors.desk import texts

CASES = [
    Case(
        "set without a value",
        recipe(TOKENIZER),
        "run my.toml --set seed",
        """\
error: --set: `seed` is not a change
  expected: KEY=VALUE or NODE.KEY=VALUE
""",
    ),
    Case(
        "set of an unknown node",
        recipe(TOKENIZER),
        "run my.toml --set tokeniser.extras=1",
        """\
error: --set tokeniser.extras=1: the recipe has no node `tokeniser`
  expected: one of tokenizer
  nearest: tokenizer
""",
    ),
    Case(
        "set of an unknown key",
        recipe(TOKENIZER),
        "run my.toml --set tokenizer.extra=1",
        """\
error: --set tokenizer.extra=1: unknown key `tokenizer.extra`
  expected: one of corpus, extras, fewer, kind, pad_to, pattern, planned_memory_mb, planned_minutes, seed, validation_share, vocab_size
  nearest: extras
""",
    ),
    Case(
        "set of a wrong type",
        recipe(TOKENIZER),
        "run my.toml --set tokenizer.extras=many",
        """\
error: --set tokenizer.extras=many: `tokenizer.extras` is "many"
  expected: an integer
""",
    ),
    Case(
        "set of a whole node",
        recipe(TOKENIZER),
        "run my.toml --set tokenizer=1",
        """\
error: --set: `tokenizer=1` is not a change
  expected: KEY=VALUE or NODE.KEY=VALUE
""",
    ),
    Case(
        "unknown node in --only",
        recipe(TOKENIZER),
        "run my.toml --only tokeniser",
        """\
error: my.toml: the recipe has no node `tokeniser`
  expected: one of tokenizer
  nearest: tokenizer
""",
    ),
    Case(
        "unknown node in --until",
        recipe(TOKENIZER),
        "run my.toml --until base",
        """\
error: my.toml: the recipe has no node `base`
  expected: one of tokenizer
""",
    ),
    Case(
        "only, without what it reads",
        recipe(CORPUS + '[tokenizer]\ncorpus = "corpus"\n'),
        "run my.toml --only tokenizer",
        """\
error: runs/my: `tokenizer` reads `corpus`, which has not been made
  hint: --until tokenizer makes all it needs
""",
    ),
    Case(
        "unknown verb",
        nothing,
        "pretrian --corpus x",
        """\
error: qwenkit: No such command 'pretrian'. Did you mean 'pretrain'?
  expected: qwenkit [OPTIONS] COMMAND [ARGS]...
  hint: qwenkit --help
""",
    ),
    Case(
        "unknown option",
        nothing,
        "run nano --treads 2",
        """\
error: qwenkit run: No such option: --treads (Possible options: --reuse)
  expected: qwenkit run [OPTIONS] {recipe}
  hint: qwenkit run --help
""",
    ),
    Case(
        "argument missing",
        nothing,
        "run",
        """\
error: qwenkit run: Missing argument 'recipe'
  expected: qwenkit run [OPTIONS] {recipe}
  hint: qwenkit run --help
""",
    ),
    Case(
        "option without its value",
        nothing,
        "run nano --out",
        """\
error: qwenkit: Option '--out' requires an argument
  hint: qwenkit --help
""",
    ),
    Case(
        "a verb without --out",
        nothing,
        "tokenizer --corpus x",
        """\
error: qwenkit tokenizer: Missing option '--out'
  expected: qwenkit tokenizer [OPTIONS]
  hint: qwenkit tokenizer --help
""",
    ),
    Case(
        "a verb without a required key",
        nothing,
        "tokenizer --out runs/o",
        """\
error: qwenkit tokenizer --corpus: missing key `tokenizer.corpus`
  expected: the corpus to learn merges from
""",
    ),
    Case(
        "a verb with a wrong value",
        lambda d: d.rows("t.jsonl", *texts()),
        "tokenizer --corpus t.jsonl --vocab-size big --out runs/o",
        """\
error: qwenkit tokenizer --vocab-size: `tokenizer.vocab_size` is "big"
  expected: an integer
""",
    ),
    Case(
        "a verb with a file that is not there",
        nothing,
        "tokenizer --corpus t.jsonl --out runs/o",
        """\
error: qwenkit tokenizer --corpus: `tokenizer.corpus` names what is not there: t.jsonl
  expected: the corpus to learn merges from
  hint: put it there, or name another path
""",
    ),
    Case(
        "init onto a file",
        lambda d: d.write("my.toml", "mine"),
        "init my.toml",
        """\
error: my.toml: the file exists already
  hint: choose another name, or remove it
""",
    ),
    Case(
        "init into no folder",
        nothing,
        "init no/my.toml",
        """\
error: no/my.toml: the file cannot be written (No such file or directory)
""",
    ),
    Case(
        "init from no recipe",
        nothing,
        "init my.toml --from nanno",
        """\
error: no recipe `nanno`
  expected: a .toml file, or one of finetune, nano, nano-quick, own, qwen-1.8b, qwen-14b, qwen-7b
  nearest: nano
""",
    ),
    Case(
        "chat on nothing",
        nothing,
        "chat runs/nothing",
        """\
error: runs/nothing: no such folder here, and it is not in the cache of the Hub's models
  expected: a folder, or org/name
  hint: for one of the Hub ask again with a network, and without HF_HUB_OFFLINE
""",
    ),
    Case(
        "chat with nothing",
        nothing,
        "chat nowhere -p hi",
        """\
error: nowhere: no such folder
  expected: a folder of a model, or org/name of the Hub
""",
    ),
    Case(
        "inspect on nothing",
        nothing,
        "inspect loss-mask no.jsonl --tokenizer nothing",
        """\
error: nothing: no such file or folder
  expected: a tokenizer folder, .tiktoken or .json
""",
    ),
    Case(
        "status of nothing",
        nothing,
        "status runs/nothing",
        """\
error: runs/nothing: no run in this folder
  expected: a folder that `qwenkit run` made
""",
    ),
    Case(
        "verify of nothing",
        nothing,
        "verify runs/nothing",
        """\
error: runs/nothing: no run in this folder
  expected: a folder that `qwenkit run` made
""",
    ),
    Case(
        "clean of nothing",
        lambda d: d.write("mine/letter", "dear"),
        "clean mine",
        """\
error: mine: no run in this folder
  expected: a folder that `qwenkit run` made
""",
    ),
    Case(
        "reuse from no run, planned",
        recipe(TOKENIZER),
        "run my.toml --dry-run --reuse mine",
        """\
error: --reuse mine: no run in this folder
  expected: a folder that `qwenkit run` made
""",
    ),
    Case(
        "only and until at once",
        recipe(TOKENIZER),
        "run my.toml --only tokenizer --until tokenizer",
        """\
error: --only and --until at once
  expected: one of them
  hint: leave one out
""",
    ),
    Case(
        "an empty --out",
        recipe(TOKENIZER),
        "run my.toml --out ''",
        """\
error: qwenkit run: Invalid value for '--out': an empty path
  expected: qwenkit run [OPTIONS] {recipe}
  hint: qwenkit run --help
""",
    ),
    Case(
        "an empty --out of a verb",
        recipe(TOKENIZER),
        "tokenizer --corpus text.jsonl --out ''",
        """\
error: qwenkit tokenizer: Invalid value for '--out': an empty path
  expected: qwenkit tokenizer [OPTIONS]
  hint: qwenkit tokenizer --help
""",
    ),
    Case(
        "reuse from no run",
        recipe(TOKENIZER),
        "run my.toml --reuse mine",
        """\
error: --reuse mine: no run in this folder
  expected: a folder that `qwenkit run` made
""",
    ),
]
