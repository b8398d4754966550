# ends: killed
import os
import signal

print("refused nothing: a core", flush=True)
os.kill(os.getpid(), signal.SIGQUIT)
