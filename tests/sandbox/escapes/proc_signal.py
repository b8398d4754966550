# ends: ok
import os

from attack import attempt, host

for pid in (os.getppid(), host["victim"], host["runner"]):
    for number in (0, 9, 19):
        attempt(f"signal {number} to {pid}", os.kill, pid, number)
