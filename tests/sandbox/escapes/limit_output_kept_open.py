# ends: ok
import os
import time

print("refused, if it ends", flush=True)
if os.fork() == 0:
    time.sleep(60)
