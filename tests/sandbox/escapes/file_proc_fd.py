# ends: ok
import os

from attack import attempt, others

for pid in others():
    for fd in range(12):
        attempt(f"descriptor {fd} of {pid}", lambda: os.open(f"/proc/{pid}/fd/{fd}", os.O_RDONLY | os.O_NONBLOCK))
