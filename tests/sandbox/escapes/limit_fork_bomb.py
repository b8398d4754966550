# ends: processes
import os
import time

print("refused, if it ends", flush=True)
for _ in range(9):
    os.fork()
time.sleep(2)
