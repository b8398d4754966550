# ends: memory|processes
import os
import time

print("refused, if it ends", flush=True)
for _ in range(6):
    if os.fork() == 0:
        block = bytearray(b"x" * (50 << 20))
        time.sleep(2)
        os._exit(0)
time.sleep(2)
print("ESCAPED")
