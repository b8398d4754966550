"""How far a reader walks: the files and functions of the package that one token, and one training sample, pass through.

    python benchmarks/walks.py runs/nano/chat runs/nano/world                   # this tree
    python benchmarks/walks.py runs/nano/chat runs/nano/world --src ../before/src --names   # another

Two walks are followed while they run, each function counted once however often it is called: `Engine.chat` of one
conversation until its first token has been returned, and `sft` from a file of chats to the loss of its first step.
Functions of comprehensions belong to the function around them and are not counted, nor is code that imports run.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

Place = tuple[str, str]


def walk(run: Callable[[], Any], begins: str | None = None) -> list[Place]:
    """Return (file, function) of the package's functions that `run` calls, in the order of their first call.

    With `begins`, a file's end such as `stages/sft.py`, only while its function `run` is active.
    """
    import qwenkit

    root = str(Path(qwenkit.__file__).parent) + "/"
    places: dict[Place, None] = {}
    depth = 0 if begins else 1

    def profile(frame: FrameType, event: str, _: object) -> None:
        nonlocal depth
        code = frame.f_code
        if not code.co_filename.startswith(root):
            return
        if begins and code.co_name == "run" and code.co_filename.endswith(begins):
            depth += (event == "call") - (event == "return")
        if event == "call" and depth > 0 and not code.co_name.startswith("<"):
            places[code.co_filename.removeprefix(root), code.co_qualname] = None

    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        run()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return list(places)


def one_token(model: Path) -> list[Place]:
    """Walk from a conversation to its first token."""
    from qwenkit import Engine, SamplingParams
    from qwenkit.chat import load_tokenizer

    engine = Engine(model, load_tokenizer(model))
    chat: list[Any] = [{"role": "user", "content": "What is 2 + 3?"}]
    params = SamplingParams(temperature=1.0, top_p=0.9, max_tokens=1, seed=0)
    engine.chat([chat], params)  # what loads on first use is loaded
    return walk(lambda: engine.chat([chat], params))


def one_sample(model: Path, world: Path, length: str) -> list[Place]:
    """Walk from a file of chats to the loss of the first step of supervised fine-tuning."""
    from qwenkit.cli import main

    with tempfile.TemporaryDirectory() as folder:
        rows = (world / "chat.jsonl").read_text(encoding="utf-8").splitlines()[:64]
        chats = Path(folder, "chats.jsonl")
        chats.write_text("\n".join(rows) + "\n", encoding="utf-8")
        options = ["--steps", "1", "--epochs", "0", "--warmup-steps", "0", length, "256", "--threads", "1"]
        edges = ["--model", str(model), "--data", str(chats), "--out", str(Path(folder, "out"))]
        sys.argv[1:] = ["sft", *edges, *options]
        return walk(main, "stages/sft.py")


def main() -> None:
    """Print the two walks."""
    parser = argparse.ArgumentParser(description="files and functions that a token and a training sample pass through")
    parser.add_argument("model", type=Path, help="a chat model")
    parser.add_argument("world", type=Path, help="a folder with chat.jsonl, as the kind `world` writes it")
    parser.add_argument("--src", type=Path, help="another tree's src")
    parser.add_argument("--length", default="--seq-length", help="what that tree calls the tokens of a row")
    parser.add_argument("--names", action="store_true", help="print each function")
    args = parser.parse_args()
    if args.src:
        sys.path.insert(0, str(args.src.resolve()))
    os.environ["HF_HUB_OFFLINE"] = "1"
    walks = {"a token": one_token(args.model), "a sample": one_sample(args.model, args.world, args.length)}
    for name, places in walks.items():
        print(json.dumps({"walk": name, "files": len({file for file, _ in places}), "functions": len(places)}))
        for file, function in places if args.names else ():
            print(f"  {file:<40} {function}")


if __name__ == "__main__":
    main()
