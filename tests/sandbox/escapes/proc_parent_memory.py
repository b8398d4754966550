# ends: ok
import os

from attack import attempt, others

for pid in others():
    attempt(f"memory of {pid}", os.open, f"/proc/{pid}/mem", os.O_RDWR)
