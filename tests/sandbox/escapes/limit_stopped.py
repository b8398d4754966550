# ends: timeout
import os
import signal

print("refused, if it ends", flush=True)
os.kill(os.getpid(), signal.SIGSTOP)
