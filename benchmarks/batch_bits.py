"""When do the bits of a row depend on how many rows are computed with it? The limit of what the engine promises.

    python benchmarks/batch_bits.py [--threads 2]

Asks torch's linear kernel on this machine's CPU, at the shapes of nano and of Qwen's small models: a row's output in
batches of many sizes against its output in the smallest batch that the engine makes (16 rows in float32, 1 in bf16).
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F

SHAPES = [(128, 128), (128, 352), (352, 128), (128, 1536), (256, 688), (688, 256), (384, 1024), (1024, 384),
          (512, 1376), (1376, 512), (896, 896), (896, 128), (896, 4864), (4864, 896), (1536, 8960),
          (8960, 1536)]  # fmt: skip
LEAST = {torch.float32: 16, torch.bfloat16: 1}
COUNTS = (1, 2, 3, 4, 8, 16, 32, 48, 64, 96, 128, 144, 256, 512, 1024, 2048)


def other_bits(width: int, out: int, dtype: torch.dtype) -> list[int]:
    """The batch sizes in which one of the first 128 rows differs from the same row in the least batch."""
    generator = torch.Generator().manual_seed(0)
    weight, bias, batch = (
        torch.randn(*shape, generator=generator).to(dtype) for shape in ((out, width), (out,), (2048, width))
    )
    wanted = torch.cat([F.linear(rows, weight, bias) for rows in batch[:128].split(LEAST[dtype])])
    found = []
    for count in (count for count in COUNTS if count % LEAST[dtype] == 0):
        if not torch.equal(F.linear(batch[:count], weight, bias)[:128], wanted[:count]):
            found.append(count)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    torch.set_num_threads(parser.parse_args().threads)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; rows that change the bits")
    for dtype in LEAST:
        for width, out in SHAPES:
            found = other_bits(width, out, dtype)
            print(f"{dtype!s:15} {width:5} to {out:5}: {', '.join(map(str, found)) or 'none'}", flush=True)


if __name__ == "__main__":
    main()
