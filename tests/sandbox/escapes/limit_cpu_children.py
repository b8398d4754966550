# ends: timeout
import os

print("refused, if it ends", flush=True)
for _ in range(8):
    if os.fork() == 0:
        while True:
            pass
os.wait()
