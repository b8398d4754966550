# ends: ok
import os
import signal

# the victim alone ends at this signal, which everybody else ignores
try:
    os.kill(-1, signal.SIGURG)
except OSError:
    pass
print("refused, if the victim lives")
