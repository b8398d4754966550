# ends: ok
import os
import threading

from attack import expect, host, read

open("mine", "w").write("mine")
stop, reads = [], set()


def swap():
    while not stop:
        for target in ("mine", host["canary"]):
            try:
                os.symlink(target, "next")
                os.replace("next", "name")
            except OSError:
                pass


thread = threading.Thread(target=swap)
thread.start()
for _ in range(3000):
    try:
        reads.add(read("name"))
    except OSError:
        pass
stop.append(1)
thread.join()
expect("a race of names", reads <= {"mine", ""})
