# ends: disk
import os
import time

print("refused, if it ends", flush=True)
kept = []
for number in range(32):
    kept.append(open("name", "wb"))
    kept[-1].write(b"x" * (2 << 20))
    kept[-1].flush()
    os.unlink("name")
time.sleep(1)
