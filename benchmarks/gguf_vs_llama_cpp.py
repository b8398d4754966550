"""A GGUF file in qwenkit and in llama.cpp: the same ids of texts, the same greedy answers up to near-ties.

    python3 -m venv .peers-engine && .peers-engine/bin/pip install -r benchmarks/peers-engine.txt
    python benchmarks/gguf_vs_llama_cpp.py MODEL.gguf [--tokens 48] [--folder MODEL] [--out FILE.json]

Twenty prompts are rendered by the file's chat template and cut into ids by both programs; llama.cpp (`xllamacpp`, in
the peers' environment, one process) continues ours greedily. qwenkit continues them with the layers in their bits
(bf16, as `qwenkit chat` does) and in float32, where every weight is what the file says. Where two answers part, the
margin is the difference of the float32 logits of the two tokens: what is near zero there is a matter of rounding.
llama.cpp rounds the inputs of its products to 8 bits, so it has margins of its own. `--folder` is the same model as a
folder, whose float32 logits are compared with the file's. The last line is the largest margin at which llama.cpp parts
from float32.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import urllib.request
import warnings
from pathlib import Path
from typing import Any

PEERS = Path(".peers-engine/bin/python")
PROMPTS = (
    "What is the capital of France?", "Write a haiku about the sea.", "Why is the sky blue?", "Count from 1 to 12.",
    "Name three animals that live in the desert.", "What is 27+58?", "Explain what a tokenizer does.",
    "Translate to French: good morning, my friends.", "Who wrote Hamlet?", "Give me a recipe for pancakes.",
    "Write a Python function that reverses a list.", "What's the difference between a crow and a raven?",
    "List the planets of the solar system.", "How do vaccines work?", "Tell me a joke about a robot.",
    "In 1969, what happened on the 20th of July?", "Summarize: The cat sat on the mat. The dog barked. The cat left.",
    "What does HTTP 404 mean?", "Continue: Once upon a time, in a small village,", "Is 91 a prime number?",
)  # fmt: skip


def peer(model: str, tokens: int) -> None:
    """Answer in the peers' environment: texts and ids from standard input, llama.cpp's ids and answers to it."""
    import xllamacpp

    asked = json.load(sys.stdin)
    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel, params.n_gpu_layers = model, 2048, 1, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        params.port = probe.getsockname()[1]
    server = xllamacpp.Server(params)
    plain = {"add_special": False, "parse_special": True}
    greedy = {"n_predict": tokens, "temperature": 0, "return_tokens": True, "cache_prompt": False}
    ids = [post(server, "tokenize", {"content": text, **plain}) for text in asked["texts"]]
    answers = [post(server, "completion", {"prompt": prompt, **greedy}) for prompt in asked["prompts"]]
    print(json.dumps({"ids": ids, "answers": answers}), flush=True)
    os._exit(0)  # its threads would keep the process


def post(server: Any, path: str, body: dict[str, Any]) -> list[int]:
    """Return the tokens of the answer of llama.cpp's server to a request."""
    asked = urllib.request.Request(f"{server.listening_address}/{path}", json.dumps(body).encode(),
                                   {"Content-Type": "application/json"})  # fmt: skip
    with urllib.request.urlopen(asked, timeout=600) as reply:
        return json.load(reply)["tokens"]


def ended(ids: list[int], end: int, tokens: int) -> list[int]:
    """Return an answer with the token that ended it, which programs give or not."""
    ids = ids[:-1] if ids[-1:] == [end] else ids
    return [*ids, end] if len(ids) < tokens else ids


def margins(model: Any, prompt: list[int], ours: list[int], theirs: list[int]) -> dict[str, Any] | None:
    """Return where two answers part and how far apart the float32 logits of the two tokens are; None where nowhere."""
    import torch

    at = next((i for i, pair in enumerate(zip(ours, theirs)) if pair[0] != pair[1]), None)
    if at is None:
        return None
    with torch.no_grad():
        logits = model(torch.tensor([prompt + ours[:at]]))[0, -1]
    return {"token": at, "margin": round(float(logits[ours[at]] - logits[theirs[at]]), 4),
            "best": round(float(logits.max() - logits[[ours[at], theirs[at]]].max()), 4)}  # fmt: skip


def distance(model: Any, folder: str, prompts: list[list[int]]) -> float:
    """Return the largest difference of a logit between the file and a folder, both in float32."""
    import torch

    from qwenkit.model import load_model

    other, largest = load_model(folder, dtype="float32", device="cpu"), 0.0
    with torch.no_grad():
        for prompt in prompts:
            ids = torch.tensor([prompt])
            rows = min(model.config.vocab_size, other.config.vocab_size)
            difference = model(ids)[..., :rows] - other(ids)[..., :rows]
            largest = max(largest, float(difference.abs().max()))
    return largest


def main() -> None:
    """Ask both, compare, print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--folder")
    parser.add_argument("--peers", default=str(PEERS))
    parser.add_argument("--out")
    parser.add_argument("--peer", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer:
        peer(args.model, args.tokens)
        return
    from qwenkit import Engine, SamplingParams, load_model, load_tokenizer

    warnings.simplefilter("ignore")
    tok = load_tokenizer(args.model)
    chats = [[{"role": "user", "content": text}] for text in PROMPTS]
    prompts = [tok.render(chat, add_generation_prompt=True).ids for chat in chats]
    texts = [tok.decode(ids) for ids in prompts]
    command = [args.peers, __file__, args.model, "--peer", "--tokens", str(args.tokens)]
    asked = json.dumps({"texts": texts, "prompts": prompts})
    done = subprocess.run(command, input=asked, capture_output=True, text=True, timeout=1800)
    if done.returncode:
        sys.exit(f"llama.cpp did not run:\n{done.stderr[-3000:]}")
    theirs = json.loads(done.stdout.splitlines()[-1])
    params = SamplingParams.plain(temperature=0, max_tokens=args.tokens)
    exact, kept = (load_model(args.model, dtype=dtype, device="cpu") for dtype in ("float32", "auto"))
    full, bits, answers = (
        [ended(ids, tok.im_end_id, args.tokens) for ids in several]
        for several in (*([output.ids for output in Engine(model, tok).generate(prompts, params)]
                          for model in (exact, kept)), theirs["answers"])
    )  # fmt: skip
    rows = []
    for number, prompt in enumerate(prompts):
        rows.append({
            "prompt": PROMPTS[number], "same_ids": theirs["ids"][number] == prompt,
            "llama.cpp": margins(exact, prompt, full[number], answers[number]),
            "in bits": margins(exact, prompt, full[number], bits[number]),
        })  # fmt: skip
    found: dict[str, Any] = {"model": Path(args.model).name, "tokens": args.tokens, "rows": rows}
    found["same ids"] = sum(row["same_ids"] for row in rows)
    for name in ("llama.cpp", "in bits"):
        parted = [row[name] for row in rows if row[name] is not None]
        found[f"{name}, equal answers"] = len(rows) - len(parted)
        found[f"{name}, largest margin"] = max((abs(row["margin"]) for row in parted), default=0.0)
    if args.folder:
        found["largest difference of a logit from the folder"] = distance(exact, args.folder, prompts)
    for name, value in found.items():
        if name != "rows":
            print(f"{name}: {value}")
    if args.out:
        Path(args.out).write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    print(f"margin {found['llama.cpp, largest margin']}")


if __name__ == "__main__":
    main()
