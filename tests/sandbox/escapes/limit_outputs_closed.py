# ends: timeout
import os
import time

print("refused, if it ends", flush=True)
for fd in range(3):
    os.close(fd)
time.sleep(60)
