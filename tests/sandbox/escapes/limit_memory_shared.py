# ends: memory
import mmap
import time

print("refused, if it ends", flush=True)
area = mmap.mmap(-1, 400 << 20)
for at in range(0, 400 << 20, 4096):
    area[at] = 1
time.sleep(1)
print("ESCAPED")
