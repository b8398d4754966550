"""Rows of text, chats, comparisons and prompts that say nothing a stage can use."""

from __future__ import annotations

import gzip
import json

from tests.errors.cases.case import (
    CORPUS,
    PAIRS,
    PPO,
    SFT,
    TOKENIZER,
    Case,
    bad_bytes,
    bad_rows,
    chat,
    recipe,
    said,
    without,
)
from tests.errors.desk import chats, pairs, prompts, texts

CASES = [
    Case(
        "empty corpus",
        lambda d: recipe(CORPUS)(d).write("text.jsonl", ""),
        "run my.toml",
        """\
error: my.toml, [corpus], source extra: text.jsonl: no document in this source
""",
        started=True,
    ),
    Case(
        "corpus of broken lines only",
        lambda d: recipe(CORPUS)(d).write("text.jsonl", b'{"a"\n\xff\n[1]\n'),
        "run my.toml",
        """\
error: my.toml, [corpus], text.jsonl: nothing is kept of the source extra (1 broken JSON, 1 invalid UTF-8, 1 a list where an object was expected)
  expected: text that can be read and passes the rules
  hint: read runs/my/.work/corpus-KEY/quarantine.jsonl and samples.jsonl beside it, or take the source out
""",
        started=True,
    ),
    Case(
        "one of two sources broken",
        lambda d: recipe('[corpus]\nextra = ["text.jsonl", "mine.jsonl"]\n')(d).rows("mine.jsonl", {"txt": "x"}),
        "run my.toml",
        """\
error: my.toml, [corpus], mine.jsonl: nothing is kept of the source extra1 (1 no key 'text', but a text in 'txt' (name it in `text_keys`))
  expected: text that can be read and passes the rules
  hint: text_keys = {extra1 = ["txt"]} takes the text from there; or read runs/my/.work/corpus-KEY/quarantine.jsonl and samples.jsonl beside it, or take the source out
""",
        started=True,
    ),
    Case(
        "a source of copies only",
        lambda d: recipe('[corpus]\nextra = ["text.jsonl", "mine.jsonl"]\n')(d).rows("mine.jsonl", texts()[0]),
        "run my.toml",
        """\
error: my.toml, [corpus], mine.jsonl: nothing is kept of the source extra1 (1 exact_copy)
  expected: text that can be read and passes the rules
  hint: read runs/my/.work/corpus-KEY/quarantine.jsonl and samples.jsonl beside it, or take the source out
""",
        started=True,
    ),
    Case(
        "a folder without readable files",
        lambda d: recipe('[corpus]\nextra = "mine"\n')(d.write("mine/a.bin", "x")),
        "run my.toml",
        """\
error: my.toml, [corpus], source extra: mine: no readable file in this folder; there are 1 x a file of unknown type
  expected: .txt, .md, .html, .jsonl, .json, .csv, .parquet, .warc, .wet, code; packed (.gz, .zst, .bz2, .xz) or not
""",
        started=True,
    ),
    Case(
        "no sources",
        recipe("[corpus]\n"),
        "run my.toml",
        """\
error: my.toml, line 2: `corpus`: no sources: neither `world` nor `extra`
""",
    ),
    Case(
        "upsampled source that is none",
        recipe(CORPUS + "upsample = {cod = 2.0}\n"),
        "run my.toml",
        """\
error: my.toml, line 2: `corpus`: `upsample` names no source: cod; there are extra
""",
    ),
    Case(
        "decontaminate against nothing",
        lambda d: recipe(CORPUS + 'decontaminate = "mine"\n')(d.write("mine/a.txt", "x")),
        "run my.toml",
        """\
error: my.toml, [corpus], mine: no test set in this folder
  expected: *.jsonl
""",
        started=True,
    ),
    Case(
        "tokenizer without text",
        lambda d: recipe(TOKENIZER)(d).write("text.jsonl", ""),
        "run my.toml",
        """\
error: my.toml, line 3, `tokenizer.corpus`, text.jsonl: no documents in this file
  expected: one JSON object a line, with `text`
""",
        started=True,
    ),
    Case(
        "a document without text",
        lambda d: recipe(TOKENIZER)(d).rows("text.jsonl", texts()[0], {"txt": "x"}),
        "run my.toml",
        """\
error: my.toml, [tokenizer], text.jsonl, row 2: missing key `text`
  expected: a string
""",
        started=True,
    ),
    Case(
        "vocabulary larger than its text",
        recipe(TOKENIZER + "vocab_size = 5000\n"),
        "run my.toml",
        """\
error: my.toml, [tokenizer]: the texts hold only 332 different tokens, 5000 were asked for
  hint: give more text, or set vocab_size to at most 332
""",
        started=True,
    ),
    Case(
        "no chats",
        bad_bytes(b""),
        SFT,
        """\
error: qwenkit sft --data, `sft.data`, bad.jsonl: no chats here
  expected: one JSON object a line, with `messages`
""",
        started=True,
    ),
    Case(
        "a broken line of chats",
        bad_bytes(json.dumps(chats()[0]).encode() + b"\n{\n"),
        SFT,
        """\
error: qwenkit sft --data, `sft.data`, bad.jsonl: 1 of 2 rows cannot be used (50 %)
  1 broken JSON (first: bad.jsonl, row 2, Expecting property name enclosed in double quotes)
  expected: at most 1 % of them (`max_bad` = 0.01)
  hint: `qwenkit inspect data` tells of every row; fix the data, or raise max_bad
""",
        started=True,
    ),
    Case(
        "invalid UTF-8 in chats",
        bad_bytes(b"\xff\n"),
        SFT,
        """\
error: qwenkit sft --data, `sft.data`, bad.jsonl, row 1: invalid UTF-8
  expected: one JSON object a line
""",
        started=True,
    ),
    Case(
        "a list for a chat",
        bad_bytes(b"[1]\n"),
        SFT,
        """\
error: qwenkit sft --data, `sft.data`, bad.jsonl, row 1: a number where an object was expected
  expected: one JSON object a line
""",
        started=True,
    ),
    Case(
        "gzip cut in the middle",
        lambda d: d.family().write("bad.jsonl.gz", gzip.compress(b"{}\n" * 9)[:-12]),
        SFT.replace("bad.jsonl", "bad.jsonl.gz"),
        """\
error: qwenkit sft --data, `sft.data`, bad.jsonl.gz: truncated file: it cannot be read to its end
  hint: fetch or write it again
""",
        started=True,
    ),
    Case(
        "gzip with wrong bytes",
        lambda d: d.family().write("bad.jsonl.gz", gzip.compress(b"")[:10] + b"\xff" * 20),
        SFT.replace("bad.jsonl", "bad.jsonl.gz"),
        """\
error: qwenkit sft --data, `sft.data`, bad.jsonl.gz: corrupted file: it cannot be read to its end
  hint: fetch or write it again
""",
        started=True,
    ),
    Case(
        "no gzip at all",
        lambda d: d.family().write("bad.jsonl.gz", b"\2 no gzip"),
        SFT.replace("bad.jsonl", "bad.jsonl.gz"),
        """\
error: qwenkit sft --data, `sft.data`, bad.jsonl.gz: corrupted file: it cannot be read to its end
  hint: fetch or write it again
""",
        started=True,
    ),
    Case(
        "a chat without messages",
        bad_rows(chats()[0], {"id": "x"}),
        SFT,
        """\
error: qwenkit sft --data, `sft.data`, bad.jsonl: 1 of 2 rows cannot be used (50 %)
  1 missing key `messages` (first: bad.jsonl, row 2; expected: messages, conversations, instruction and output, or prompt and completion)
  expected: at most 1 % of them (`max_bad` = 0.01)
  hint: `qwenkit inspect data` tells of every row; fix the data, or raise max_bad
""",
        started=True,
    ),
    Case(
        "two answers in a row",
        bad_rows(chats()[0], chat("user", "assistant", "assistant")),
        SFT,
        """\
error: qwenkit sft --data, `sft.data`, bad.jsonl: 1 of 2 rows cannot be used (50 %)
  1 assistant after assistant (first: bad.jsonl, row 2, message 2; expected: user)
  expected: at most 1 % of them (`max_bad` = 0.01)
  hint: `qwenkit inspect data` tells of every row; fix the data, or raise max_bad
""",
        started=True,
    ),
    Case(
        "system in the middle",
        bad_rows(chat("user", "system")),
        SFT,
        """\
error: qwenkit sft --data, `sft.data`, bad.jsonl, row 1, message 1: system after user
  expected: assistant
""",
        started=True,
    ),
    Case(
        "unknown role",
        bad_rows(chat("user", "asistant")),
        SFT,
        """\
error: qwenkit sft --data, `sft.data`, bad.jsonl, row 1, message 1: unknown role 'asistant'
  expected: system, user, assistant, tool (or human, gpt)
  nearest: assistant
""",
        started=True,
    ),
    Case(
        "tool calls that are a text",
        bad_rows(chats()[0], said(tool_calls="x")),
        SFT,
        """\
error: qwenkit sft --data, `sft.data`, bad.jsonl: 1 of 2 rows cannot be used (50 %)
  1 tool_calls is a string (first: bad.jsonl, row 2, message 1; expected: a list of tool calls)
  expected: at most 1 % of them (`max_bad` = 0.01)
  hint: `qwenkit inspect data` tells of every row; fix the data, or raise max_bad
""",
        started=True,
    ),
    Case(
        "a tool call that is a number",
        bad_rows(chats()[0], said(tool_calls=[3])),
        SFT,
        """\
error: qwenkit sft --data, `sft.data`, bad.jsonl: 1 of 2 rows cannot be used (50 %)
  1 a tool call is a number (first: bad.jsonl, row 2, message 1; expected: {"function": {"name": ..., "arguments": {...}}})
  expected: at most 1 % of them (`max_bad` = 0.01)
  hint: `qwenkit inspect data` tells of every row; fix the data, or raise max_bad
""",
        started=True,
    ),
    Case(
        "a tool call without a name",
        bad_rows(chats()[0], said(tool_calls=[{"function": {"arguments": {}}}])),
        SFT,
        """\
error: qwenkit sft --data, `sft.data`, bad.jsonl: 1 of 2 rows cannot be used (50 %)
  1 a tool call without a name (first: bad.jsonl, row 2, message 1; expected: {"function": {"name": ..., "arguments": {...}}})
  expected: at most 1 % of them (`max_bad` = 0.01)
  hint: `qwenkit inspect data` tells of every row; fix the data, or raise max_bad
""",
        started=True,
    ),
    Case(
        "a part without text",
        bad_rows(chats()[0], said(content=[{"type": "text"}])),
        SFT,
        """\
error: qwenkit sft --data, `sft.data`, bad.jsonl: 1 of 2 rows cannot be used (50 %)
  1 the text of a content part is missing (first: bad.jsonl, row 2, message 1; expected: {"type": "text", "text": ...})
  expected: at most 1 % of them (`max_bad` = 0.01)
  hint: `qwenkit inspect data` tells of every row; fix the data, or raise max_bad
""",
        started=True,
    ),
    Case(
        "a part that is a number",
        bad_rows(chats()[0], said(content=["yes", 3])),
        SFT,
        """\
error: qwenkit sft --data, `sft.data`, bad.jsonl: 1 of 2 rows cannot be used (50 %)
  1 a content part is a number (first: bad.jsonl, row 2, message 1; expected: {"type": "text", "text": ...})
  expected: at most 1 % of them (`max_bad` = 0.01)
  hint: `qwenkit inspect data` tells of every row; fix the data, or raise max_bad
""",
        started=True,
    ),
    Case(
        "a part for the eyes",
        bad_rows(chats()[0], said(content=[{"type": "image", "image": "x.png"}])),
        SFT,
        """\
error: qwenkit sft --data, `sft.data`, bad.jsonl: 1 of 2 rows cannot be used (50 %)
  1 a content part of type 'image' (first: bad.jsonl, row 2, message 1, part 0; expected: text parts only, for a text model)
  expected: at most 1 % of them (`max_bad` = 0.01)
  hint: `qwenkit inspect data` tells of every row; fix the data, or raise max_bad
""",
        started=True,
    ),
    Case(
        "a warm-up longer than the training",
        lambda d: d.family(),
        SFT.replace("bad.jsonl", "chat.jsonl").replace("--steps 1", "--steps 40"),
        """\
error: qwenkit sft: a warm-up of 1430 steps in a training of 40
  expected: 0 to 40
  hint: set warmup_steps = 4, a tenth of the training, or train longer
""",
        started=True,
    ),
    Case(
        "a chat without an answer",
        bad_rows(chat("user")),
        SFT,
        """\
error: qwenkit sft --data, `sft.data`, bad.jsonl, row 1: a chat without an answer
  expected: an assistant's turn
""",
        started=True,
    ),
    Case(
        "inspect of bad roles",
        bad_rows(chat("assistant")),
        "inspect loss-mask bad.jsonl --tokenizer runs/family/base",
        """\
error: bad.jsonl, row 1, message 0: assistant at the start
  expected: system or user
""",
    ),
    Case(
        "inspect with an unknown style",
        lambda d: d.family(),
        "inspect loss-mask chat.jsonl --tokenizer runs/family/base --style chatlm",
        """\
error: unknown chat style 'chatlm'
  expected: qwen1, chatml, qwen2, qwen2.5, qwen3, qwq, react, qwen-vl
  nearest: chatml
""",
    ),
    Case(
        "inspect with an unknown mask",
        lambda d: d.family(),
        "inspect loss-mask chat.jsonl --tokenizer runs/family/base --mask quen",
        """\
error: unknown mask 'quen'
  expected: qwen or assistant
  nearest: qwen
""",
    ),
    Case(
        "a pair without a side",
        bad_rows(pairs()[0], without(pairs()[1], "rejected")),
        PAIRS,
        """\
error: qwenkit preference --data, `preference.data`, bad.jsonl: 1 of 2 rows cannot be used (50 %)
  1 missing key `rejected` (first: bad.jsonl, row 2; expected: messages (or prompt), chosen, rejected)
  expected: at most 1 % of them (`max_bad` = 0.01)
  hint: `qwenkit inspect data` tells of every row; fix the data, or raise max_bad
""",
        started=True,
    ),
    Case(
        "a pair with a number for a side",
        bad_rows({**pairs()[0], "chosen": 3}),
        PAIRS,
        """\
error: qwenkit preference --data, `preference.data`, bad.jsonl, row 1: `chosen` is a number
  expected: a string, or messages that end with the answer
""",
        started=True,
    ),
    Case(
        "a pair that ends with an answer",
        bad_rows({**pairs()[0], **chat("user", "assistant")}),
        PAIRS,
        """\
error: qwenkit preference --data, `preference.data`, bad.jsonl, row 1, message 1: nothing to answer: the last turn is assistant
  expected: user or tool
""",
        started=True,
    ),
    Case(
        "a prompt without a question",
        bad_rows(without(prompts()[0], "messages")),
        PPO,
        """\
error: qwenkit ppo --prompts, `ppo.prompts`, bad.jsonl, row 1: missing key `messages`
  expected: messages, or prompt
  hint: this row has `id`, `rubric`
""",
        started=True,
    ),
    Case(
        "a prompt with an unknown rubric",
        bad_rows({**prompts()[0], "rubric": {"right": {"kind": "nubmer"}}}),
        PPO,
        """\
error: qwenkit ppo --prompts, `ppo.prompts`, bad.jsonl, row 1: unknown kind of right answer `nubmer`
  expected: number, mention, exact, json, refusal
  nearest: number
""",
        started=True,
    ),
    Case(
        "a rubric without a part",
        bad_rows({**prompts()[0], "rubric": without(prompts()[0]["rubric"], "limit")}),
        PPO,
        """\
error: qwenkit ppo --prompts, `ppo.prompts`, bad.jsonl, row 1: missing key `rubric.limit`
  expected: language, right, parts, limit, manners, system
""",
        started=True,
    ),
    Case(
        "ptx without a corpus",
        bad_rows(*prompts()),
        PPO + " --ptx-coef 0.1",
        """\
error: qwenkit ppo: `ptx_coef` is 0.1, but there is no `corpus`: name a corpus, or set ptx_coef = 0
""",
    ),
    Case(
        "prompts that do not fit",
        bad_rows(*prompts()),
        PPO + " --seq-length 16 --max-tokens 16 --ptx-coef 0",
        """\
error: qwenkit ppo: no prompt fits: the shortest has 21 tokens, `seq_length` = 16 less `max_tokens` = 16 leaves 0
  hint: raise `seq_length`, or lower `max_tokens`
""",
        started=True,
    ),
]
