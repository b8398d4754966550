# ends: disk
import os
import time

print("refused, if it ends", flush=True)
for depth in range(300):
    os.mkdir("d")
    os.chdir("d")
time.sleep(1)
