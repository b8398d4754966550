# ends: disk
import time

print("refused, if it ends", flush=True)
for number in range(3000):
    open(f"f{number}", "w").close()
time.sleep(1)
