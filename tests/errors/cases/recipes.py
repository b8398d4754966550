"""Mistakes in a recipe: TOML, keys, values, references."""

from __future__ import annotations

from tests.errors.cases.case import CORPUS, TOKENIZER, Case, broken, nothing, recipe

CASES = [
    Case(
        "broken TOML: value missing",
        broken("seed = 1\n[base]\nlr = \n"),
        "run my.toml",
        """\
error: my.toml, line 3: broken TOML: not a TOML value; a string needs quotes
""",
    ),
    Case(
        "broken TOML: string not closed",
        broken('title = "my\nseed = 1\n'),
        "run my.toml",
        """\
error: my.toml, line 1: broken TOML: the string is not closed on its line
""",
    ),
    Case(
        "broken TOML: key twice",
        broken("[base]\nseq_length = 8\nseq_length = 9\n"),
        "run my.toml",
        """\
error: my.toml, line 3: broken TOML: the key is given twice
""",
    ),
    Case(
        "broken TOML: table twice",
        broken("[base]\n[base]\n"),
        "run my.toml",
        """\
error: my.toml, line 2: broken TOML: the table [base] is given twice
""",
    ),
    Case(
        "broken TOML: bracket not closed",
        broken("[base\nseq_length = 8\n"),
        "run my.toml",
        """\
error: my.toml, line 1: broken TOML: Expected ']' at the end of a table declaration
""",
    ),
    Case(
        "invalid UTF-8 in a recipe",
        broken(b'seed = 1\ntitle = "\xff"\n'),
        "run my.toml",
        """\
error: my.toml, line 2: invalid UTF-8
""",
    ),
    Case(
        "a list of tables",
        broken("[[base]]\nseq_length = 8\n"),
        "run my.toml",
        """\
error: my.toml, line 1: `base` is a list of tables
  expected: one table for each node: [base]
""",
    ),
    Case(
        "empty recipe",
        broken(""),
        "run my.toml",
        """\
error: my.toml: the recipe has no nodes
  expected: at least one table, like [tokenizer]
""",
    ),
    Case(
        "no such recipe file",
        nothing,
        "run my.toml",
        """\
error: my.toml: no such recipe
  hint: `qwenkit init my.toml --from nano` writes one
""",
    ),
    Case(
        "no such recipe name",
        nothing,
        "run nono",
        """\
error: no recipe `nono`
  expected: a .toml file, or one of finetune, nano, nano-quick, own, qwen-1.8b, qwen-14b, qwen-7b
  nearest: nano
""",
    ),
    Case(
        "a folder for a recipe",
        lambda d: d.write("my.toml/x", ""),
        "run my.toml",
        """\
error: my.toml: a folder, where a file was expected
  expected: a recipe, which is a TOML file
""",
    ),
    Case(
        "unknown run key",
        broken("sede = 1\n"),
        "run my.toml",
        """\
error: my.toml, line 1: unknown key `sede`
  expected: one of schema, seed, device, threads, out, title, about, accept_unknown, deterministic
  nearest: seed
""",
    ),
    Case(
        "newer schema of a recipe",
        broken("schema = 3\n"),
        "run my.toml",
        """\
error: my.toml, line 1: recipe schema 3 is newer than this qwenkit
  expected: 2 or older
  hint: upgrade qwenkit
""",
    ),
    Case(
        "run key of a wrong type",
        broken('seed = "one"\n'),
        "run my.toml",
        """\
error: my.toml, line 1: `seed` is "one"
  expected: an integer
""",
    ),
    Case(
        "seed below 0",
        broken("seed = -1\n"),
        "run my.toml",
        """\
error: my.toml, line 1: `seed` is -1
  expected: 0 to 9223372036854775807
""",
    ),
    Case(
        "unknown device",
        broken('device = "tpu"\n'),
        "run my.toml",
        """\
error: my.toml, line 1: `device` is "tpu"
  expected: auto, cpu, cuda, cuda:N (the one of that number), or mps (experimental)
""",
    ),
    Case(
        "unknown node key",
        recipe(TOKENIZER + "vocab_sise = 300\n"),
        "run my.toml",
        """\
error: my.toml, line 4: unknown key `tokenizer.vocab_sise`
  expected: one of corpus, extras, fewer, kind, pad_to, pattern, planned_memory_mb, planned_minutes, seed, validation_share, vocab_size
  nearest: vocab_size
""",
    ),
    Case(
        "unknown kind",
        recipe('[words]\nkind = "tokeniser"\n'),
        "run my.toml",
        """\
error: my.toml, line 3: unknown kind `tokeniser`
  expected: one of world, testsets, corpus, tokenizer, extend, pretrain, sft, preference, reward, ppo, evaluate, quantize, export, report
  nearest: tokenizer
""",
    ),
    Case(
        "missing required key",
        recipe("[tokenizer]\nvocab_size = 300\n"),
        "run my.toml",
        """\
error: my.toml, line 2: missing key `tokenizer.corpus`
  expected: the corpus to learn merges from
""",
    ),
    Case(
        "wrong type: a text for a number",
        recipe(TOKENIZER + 'vocab_size = "300"\n'),
        "run my.toml",
        """\
error: my.toml, line 4: `tokenizer.vocab_size` is "300"
  expected: an integer
""",
    ),
    Case(
        "wrong type: a truth value for a number",
        recipe(TOKENIZER + "vocab_size = true\n"),
        "run my.toml",
        """\
error: my.toml, line 4: `tokenizer.vocab_size` is true
  expected: an integer
""",
    ),
    Case(
        "wrong type: a number for a list",
        recipe('[exam]\nkind = "evaluate"\nmodels = 3\ntests = "text.jsonl"\n'),
        "run my.toml",
        """\
error: my.toml, line 4: `exam.models` is 3
  expected: a list, like ["a", "b"]
""",
    ),
    Case(
        "out of range",
        recipe(TOKENIZER + "vocab_size = 100\n"),
        "run my.toml",
        """\
error: my.toml, line 4: `tokenizer.vocab_size` is 100
  expected: at least 256
""",
    ),
    Case(
        "not a finite number",
        recipe(TOKENIZER + "validation_share = nan\n"),
        "run my.toml",
        """\
error: my.toml, line 4: `tokenizer.validation_share` is nan
  expected: a finite number
""",
    ),
    Case(
        "not one of the choices",
        recipe('[world]\nscale = "nanno"\n'),
        "run my.toml",
        """\
error: my.toml, line 3: `world.scale` is "nanno"
  expected: 'nano', 'quick' or 'tiny'
  nearest: nano
""",
    ),
    Case(
        "a mask and a style that are none",
        recipe('[chat]\nkind = "sft"\nmodel = "base"\ndata = "text.jsonl"\nmask = "quen"\nstyle = "chatlm"\n'),
        "run my.toml",
        """\
error: my.toml, line 6: `chat.mask` is "quen"
  expected: 'qwen' or 'assistant'
  nearest: qwen
my.toml, line 7: `chat.style` is "chatlm"
  expected: 'own', 'qwen1', 'chatml', 'qwen2', 'qwen2.5', 'qwen3' or 'qwq'
  nearest: chatml
""",
    ),
    Case(
        "a pattern that is none",
        recipe(TOKENIZER + 'pattern = "qwenn"\n'),
        "run my.toml",
        """\
error: my.toml, line 4: `tokenizer.pattern` is "qwenn"
  expected: 'qwen' or 'cl100k', or a regular expression
  nearest: qwen
""",
    ),
    Case(
        "two mistakes at once",
        recipe(TOKENIZER + "vocab_size = 1\npad_too = 8\n"),
        "run my.toml",
        """\
error: my.toml, line 4: `tokenizer.vocab_size` is 1
  expected: at least 256
my.toml, line 5: unknown key `tokenizer.pad_too`
  expected: one of corpus, extras, fewer, kind, pad_to, pattern, planned_memory_mb, planned_minutes, seed, validation_share, vocab_size
  nearest: pad_to
""",
    ),
    Case(
        "a path that is not there",
        recipe('[tokenizer]\ncorpus = "texts.jsonl"\n'),
        "run my.toml",
        """\
error: my.toml, line 3: `tokenizer.corpus` names what is not there: texts.jsonl
  expected: the corpus to learn merges from
  nearest: text.jsonl
  hint: put it there, or name another path
""",
    ),
    Case(
        "a path that is not there, in a list",
        recipe('[corpus]\nextra = ["text.jsonl", "texts.jsonl"]\n'),
        "run my.toml",
        """\
error: my.toml, line 3: `corpus.extra` names what is not there: texts.jsonl
  expected: your own text: folders, JSONL, Parquet, CSV, WARC, pages, code
  nearest: text.jsonl
  hint: put it there, or name another path
""",
    ),
    Case(
        "wrong type, in a list",
        recipe(CORPUS + 'languages = ["en", 3]\n'),
        "run my.toml",
        """\
error: my.toml, line 4: `corpus.languages` holds 3
  expected: a string in quotes
""",
    ),
    Case(
        "an empty out",
        broken('out = ""\n[tokenizer]\n'),
        "run my.toml",
        """\
error: my.toml, line 1: `out` is ""
  expected: a folder, like runs/mine
""",
    ),
    Case(
        "misspelt node",
        recipe(CORPUS + '[tokenizer]\ncorpus = "corpsu"\n'),
        "run my.toml",
        """\
error: my.toml, line 5: `tokenizer.corpus` = "corpsu" is neither a node nor a path that exists
  expected: a node of this recipe (corpus) or a path
  nearest: corpus
""",
    ),
    Case(
        "both node and path",
        lambda d: recipe(CORPUS + '[tokenizer]\ncorpus = "corpus"\n')(d).write("corpus", "x"),
        "run my.toml",
        """\
error: my.toml, line 5: `tokenizer.corpus` = "corpus" is both a node and a path
  expected: the node "corpus" or the path "./corpus"
  hint: write "./corpus" for the path, or rename the node
""",
    ),
    Case(
        "a cycle",
        recipe(
            '[a]\nkind = "preference"\nmodel = "b"\ndata = "text.jsonl"\n'
            '[b]\nkind = "preference"\nmodel = "a"\ndata = "text.jsonl"\n'
        ),
        "run my.toml",
        """\
error: my.toml, line 2: nodes wait for each other: a -> b -> a
  expected: a graph without cycles
""",
    ),
    Case(
        "no node name",
        recipe('["my node"]\nkind = "tokenizer"\n'),
        "run my.toml",
        """\
error: my.toml, line 2: `my node` is not a node name
  expected: letters, digits, - and _, at most 64
""",
    ),
]
