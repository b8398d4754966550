# ends: output
import os

print("refused, if it ends", flush=True)
for _ in range(4):
    if os.fork() == 0:
        while True:
            os.write(1, b"x" * 60000)
os.wait()
