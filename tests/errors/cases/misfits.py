"""Recipes whose parts do not fit together, and numbers that nobody could have meant: refused before anything runs."""

from __future__ import annotations

import os
from collections.abc import Callable

from tests.errors.cases.case import CORPUS, TOKENIZER, Case, broken, recipe
from tests.errors.desk import Desk

BASE = '[base]\nkind = "pretrain"\ncorpus = "text.jsonl"\ntokenizer = "tokenizer"\n'


def shaped(keys: str) -> Callable[[Desk], Desk]:
    """A tokenizer, and a base model of this shape."""
    return recipe(TOKENIZER + BASE + keys)


CASES = [
    Case(
        "heads that do not divide the width",
        shaped("hidden_size = 63\nnum_attention_heads = 2\n"),
        "run my.toml",
        """\
error: my.toml, line 4: `base`: hidden_size = 63 does not divide into 2 heads; head_dim = 31 is odd, but rotary positions turn pairs of channels
""",
    ),
    Case(
        "groups of heads that do not fit",
        shaped("hidden_size = 64\nnum_attention_heads = 2\nnum_key_value_heads = 3\n"),
        "run my.toml",
        """\
error: my.toml, line 4: `base`: num_attention_heads = 2 is not a multiple of num_key_value_heads = 3
""",
    ),
    Case(
        "more tokens than anybody has",
        shaped("tokens = 1e300\n"),
        "run my.toml",
        """\
error: my.toml, line 8: `base.tokens` is 1e+300
  expected: at most 1000000000000000000
""",
    ),
    Case(
        "an embedding without end",
        recipe(TOKENIZER + "pad_to = 1_000_000_000\n"),
        "run my.toml",
        """\
error: my.toml, line 4: `tokenizer.pad_to` is 1000000000
  expected: at most 65536
""",
    ),
    Case(
        "a corpus for a tokenizer",
        recipe(CORPUS + TOKENIZER + BASE.replace('"tokenizer"', '"corpus"')),
        "run my.toml",
        """\
error: my.toml, line 9: `base.tokenizer` names `corpus`, whose kind is corpus
  expected: tokenizer: the tokenizer of the whole family
  nearest: tokenizer
""",
    ),
    Case(
        "a tokenizer for a model",
        recipe(TOKENIZER + '[chat]\nkind = "sft"\nmodel = "tokenizer"\ndata = "text.jsonl"\n'),
        "run my.toml",
        """\
error: my.toml, line 6: `chat.model` names `tokenizer`, whose kind is tokenizer
  expected: model: the base model
""",
    ),
    Case(
        "a chat model for a reward model",
        recipe(
            TOKENIZER
            + BASE
            + '[chat]\nkind = "sft"\nmodel = "base"\ndata = "text.jsonl"\n[rl]\nkind = "ppo"\nmodel = "chat"\nreward = "chat"\nprompts = "text.jsonl"\nptx_coef = 0.0\n'
        ),
        "run my.toml",
        """\
error: my.toml, line 15: `rl.reward_model` names `chat`, whose kind is sft
  expected: scorer: the reward model; the value model starts from it too (ours)
""",
    ),
    Case(
        "an artifact of another kind by its path",
        lambda d: d.family(),
        "sft --model runs/family/tokenizer --data chat.jsonl --out runs/o",
        """\
error: qwenkit sft --model: `sft.model` names `runs/family/tokenizer`, whose kind is tokenizer
  expected: model: the base model
""",
    ),
    Case(
        "a corpus for text of one's own",
        recipe(CORPUS + '[more]\nkind = "corpus"\nextra = "corpus"\n'),
        "run my.toml",
        """\
error: my.toml, line 6: `more.extra` names `corpus`, whose kind is corpus
  expected: text: your own text: folders, JSONL, Parquet, CSV, WARC, pages, code
""",
    ),
    Case(
        "a language that is none",
        recipe(CORPUS + 'languages = ["en", "klingon"]\n'),
        "run my.toml",
        """\
error: my.toml, line 2: `corpus`: `klingon` is not a language
  expected: codes of ISO 639, like en and zh
""",
    ),
    Case(
        "more copies than a corpus can hold",
        recipe(CORPUS + "upsample = {extra = 1e9}\n"),
        "run my.toml",
        """\
error: my.toml, line 2: `corpus`: `upsample` wants 1e+09 copies of extra; from above 0 to 1000 can be
""",
    ),
    Case(
        "no copy of a source",
        recipe(CORPUS + "upsample = {extra = 0.0}\n"),
        "run my.toml",
        """\
error: my.toml, line 2: `corpus`: `upsample` wants 0 copies of extra; from above 0 to 1000 can be
""",
    ),
    Case(
        "a report on nothing",
        recipe(CORPUS + "[report]\nof = []\n"),
        "run my.toml",
        """\
error: my.toml, line 5: `report.of` is []
  expected: a list that is not empty
""",
    ),
    Case(
        "a reward model without temperatures",
        recipe('[reward]\nmodel = "text.jsonl"\ndata = "text.jsonl"\ntemperatures = []\n'),
        "run my.toml",
        """\
error: my.toml, line 5: `reward.temperatures` is []
  expected: a list that is not empty
""",
    ),
    Case(
        "a reward model without comparisons",
        recipe('[reward]\nmodel = "text.jsonl"\nprompts = "text.jsonl"\n'),
        "run my.toml",
        """\
error: my.toml, line 2: `reward`: no comparisons: neither `data` nor both `policy` and `prompts`
""",
    ),
    Case(
        "test sets of nothing",
        recipe("[testsets]\n"),
        "run my.toml",
        """\
error: my.toml, line 2: `testsets`: no test sets: neither `world` nor `extra`
""",
    ),
    Case(
        "a schema below 1",
        broken("schema = 0\n[tokenizer]\n"),
        "run my.toml",
        """\
error: my.toml, line 1: `schema` is 0
  expected: 2
""",
    ),
    Case(
        "an empty title",
        broken('title = ""\n[tokenizer]\n'),
        "run my.toml",
        """\
error: my.toml, line 1: `title` is ""
  expected: a name
""",
    ),
    Case(
        "an out that is no name of a folder",
        broken('out = "a\\u0000b"\n[tokenizer]\n'),
        "run my.toml",
        """\
error: my.toml, line 1: `out` is "a\\u0000b"
  expected: a folder, like runs/mine
""",
    ),
    Case(
        "a seed of 5000 digits",
        broken("seed = " + "9" * 5000 + "\n[tokenizer]\n"),
        "run my.toml",
        """\
error: my.toml: broken TOML: a number with too many digits
""",
    ),
    Case(
        "brackets nested 5000 deep",
        broken("seed = " + "[" * 5000 + "\n[tokenizer]\n"),
        "run my.toml",
        """\
error: my.toml: broken TOML: brackets too deep
""",
    ),
    Case(
        "a node of 300 letters",
        broken("[" + "a" * 300 + ']\nkind = "tokenizer"\n'),
        "run my.toml",
        """\
error: my.toml, line 1: `aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa` is not a node name
  expected: letters, digits, - and _, at most 64
""",
    ),
    Case(
        "a home that nobody has",
        recipe('[corpus]\nextra = ["~nosuchuser/x"]\n'),
        "run my.toml",
        """\
error: my.toml, line 3: `corpus.extra`: there is no home folder ~nosuchuser
  expected: a node, or a path
""",
    ),
    Case(
        "a path with a zero byte",
        recipe('[corpus]\nextra = ["a\\u0000b/c"]\n'),
        "run my.toml",
        """\
error: my.toml, line 3: `corpus.extra` = "a\\u0000b/c" is not a path: it holds a zero byte
  expected: a node, or a path
""",
    ),
    Case(
        "a path that leads in a circle",
        lambda d: (recipe('[corpus]\nextra = ["circle/x"]\n')(d), (d.tmp / "circle").symlink_to("circle")),
        "run my.toml",
        """\
error: my.toml, line 3: `corpus.extra` names what is not there: circle/x
  expected: your own text: folders, JSONL, Parquet, CSV, WARC, pages, code
  hint: put it there, or name another path
""",
    ),
    Case(
        "a pipe for a corpus",
        lambda d: (recipe('[corpus]\nextra = ["pipe"]\n')(d), os.mkfifo(d.tmp / "pipe")),
        "run my.toml",
        """\
error: my.toml, line 3: `corpus.extra` names neither a file nor a folder: pipe
  expected: a file or a folder
""",
    ),
    Case(
        "set with a comment",
        recipe(TOKENIZER),
        "run my.toml --set 'seed=2 # mine'",
        """\
error: --set seed: "2 # mine" is not a value
  expected: one value: no comment, line or endless number
""",
    ),
    Case(
        "set with a second line",
        recipe(TOKENIZER),
        "run my.toml --set 'seed=2\nthreads=4'",
        """\
error: --set seed: "2\\u000athreads=4" is not a value
  expected: one value: no comment, line or endless number
""",
    ),
    Case(
        "set of an endless number",
        recipe(TOKENIZER),
        "run my.toml --set seed=" + "9" * 5000,
        """\
error: --set seed: "999999999999999999999999999999999999999999999999999999999999..." is not a value
  expected: one value: no comment, line or endless number
""",
    ),
    Case(
        "a value of a verb with a comment",
        recipe(TOKENIZER),
        "tokenizer --corpus text.jsonl --vocab-size '300 # small' --out runs/o",
        """\
error: --vocab-size: "300 # small" is not a value
  expected: one value: no comment, line or endless number
""",
    ),
    Case(
        "an artifact for the run folder",
        lambda d: d.family(),
        "run family.toml --out runs/family/chat",
        """\
error: runs/family/chat: the output folder is an artifact, not a run
  expected: an empty or new folder, or a run of this recipe
  hint: choose another with --out
""",
    ),
    Case(
        "a run folder that leads in a circle",
        lambda d: (recipe(TOKENIZER)(d), (d.tmp / "circle").symlink_to("circle")),
        "run my.toml --out circle/x",
        """\
error: circle/x: Too many levels of symbolic links
""",
    ),
]
