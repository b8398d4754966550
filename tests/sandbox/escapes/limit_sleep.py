# ends: timeout
import time

print("refused, if it ends", flush=True)
time.sleep(60)
