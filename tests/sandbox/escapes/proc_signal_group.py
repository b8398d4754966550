# ends: ok
import os

from attack import attempt, host

for pid in (os.getppid(), host["victim"], host["runner"]):
    if pid > 1:
        attempt(f"the group of {pid}", os.killpg, pid, 0)
print("refused")
