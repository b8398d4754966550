# ends: disk
import tempfile
import time

print("refused, if it ends", flush=True)
kept = []
for number in range(32):
    kept.append(tempfile.NamedTemporaryFile())
    kept[-1].write(b"x" * (2 << 20))
    kept[-1].flush()
time.sleep(1)
