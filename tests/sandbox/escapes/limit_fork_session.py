# ends: processes|timeout|ok
import os
import time

print("refused, if it ends", flush=True)
for _ in range(60):
    try:
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                time.sleep(30)
            os._exit(0)
    except OSError:
        pass
