# ends: ok
import ctypes
import os
import signal

from attack import expect, syscall

print("refused, if it ends", flush=True)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGRTMIN])
info, count = ctypes.create_string_buffer(128), 0
info[0:4], info[8:12] = int(signal.SIGRTMIN).to_bytes(4, "little"), (-1).to_bytes(4, "little", signed=True)
try:
    for count in range(100_000):
        syscall(129, 138, os.getpid(), int(signal.SIGRTMIN), info)
except OSError:
    pass
expect(f"{count} signals wait", count < 5000)
