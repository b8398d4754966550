# ends: ok
import os

from attack import expect, host, others, read

for pid in others():
    for name in ("environ", "cmdline", "maps", "mem", "stack", "syscall", "auxv"):
        if pid == os.getpid():
            continue
        try:
            text = read(f"/proc/{pid}/{name}")
        except (OSError, ValueError):
            text = ""
        expect(f"{name} of {pid}", host["secret"] not in text and "victim" not in text)
