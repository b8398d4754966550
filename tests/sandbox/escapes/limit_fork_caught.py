# ends: processes|timeout
import os
import time

print("refused, if it ends", flush=True)
end = time.monotonic() + 4
count = 0
while time.monotonic() < end and count < 400:
    try:
        if os.fork() == 0:
            time.sleep(4)
            os._exit(0)
        count += 1
    except OSError:
        pass
print("ESCAPED" if count > 30 else "refused", count)
