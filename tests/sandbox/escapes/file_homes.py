# ends: ok
import os

from attack import attempt, read

for name in (
    "/root/.bashrc",
    "/root/.profile",
    "/root/.ssh",
    "/root/.bash_history",
    "/home",
    "/var/log",
    "/var/lib",
    "/srv",
):
    attempt(name, lambda: os.listdir(name) if os.path.isdir(name) else read(name))
