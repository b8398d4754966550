# ends: disk
import os
import time

print("refused, if it ends", flush=True)
for number in range(1000):
    os.mkdir(f"d{number}")
time.sleep(1)
