# ends: ok
import os

from attack import attempt, host

for name in (host["folder"], "/usr", "/", "/etc", "/var/tmp", "/run", "/proc"):
    attempt(f"a nameless file in {name}", os.open, name, os.O_TMPFILE | os.O_RDWR)
