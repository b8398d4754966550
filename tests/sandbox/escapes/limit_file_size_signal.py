# ends: disk
import os

print("refused, if it ends", flush=True)
os.execv("/bin/dd", ["dd", "if=/dev/zero", "of=big", "bs=1M", "count=64"])
