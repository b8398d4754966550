# ends: ok|error
import fcntl
import os

from attack import expect

print("refused, if it ends", flush=True)
pipes, total = [], 0
try:
    for _ in range(100):
        pipes.append(os.pipe())
        os.set_blocking(pipes[-1][1], False)
        try:
            fcntl.fcntl(pipes[-1][1], 1031, 1 << 20)
        except OSError:
            pass
        total += os.write(pipes[-1][1], b"x" * (1 << 20))
except OSError:
    pass
expect(f"{total} bytes in pipes", total <= 128 << 20)
