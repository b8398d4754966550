# ends: ok
import fcntl
import os

from attack import host

reading, writing = os.pipe()
for pid in (host["victim"], host["runner"]):
    try:
        fcntl.fcntl(reading, fcntl.F_SETOWN, pid)
        fcntl.fcntl(reading, 10, 9)
        fcntl.fcntl(reading, fcntl.F_SETFL, os.O_ASYNC)
        os.write(writing, b"x")
    except OSError:
        pass
print("refused, if the victim lives")
