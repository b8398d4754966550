# ends: ok
import os

from attack import attempt, host

for name in (host["folder"], "/usr", "/usr/lib", "/etc", "/", "/proc", "/dev", "/sys", "/var/tmp", "/home", "/run"):
    attempt(f"a file in {name}", open, f"{name}/planted", "x")
    attempt(f"a folder in {name}", os.mkdir, f"{name}/planted.d")
