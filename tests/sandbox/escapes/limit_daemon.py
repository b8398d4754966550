# ends: ok
import os
import signal
import time

if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for number in range(1, 65):
            try:
                signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError):
                pass
        for fd in range(3):
            os.close(fd)
        time.sleep(30)
    os._exit(0)
print("refused, if nothing is left")
