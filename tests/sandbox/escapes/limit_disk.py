# ends: disk
import time

print("refused, if it ends", flush=True)
for number in range(32):
    with open(f"part{number}", "wb") as file:
        file.write(b"x" * (2 << 20))
time.sleep(1)
