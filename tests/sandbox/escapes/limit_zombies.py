# ends: processes
import os
import time

print("refused, if it ends", flush=True)
for _ in range(200):
    if os.fork() == 0:
        os._exit(0)
time.sleep(2)
