# ends: ok
import os

from attack import attempt

for name in (
    "memory/cgroup.procs",
    "pids/cgroup.procs",
    "cgroup.procs",
    "unified/cgroup.procs",
    "memory/release_agent",
):
    attempt(name, os.open, f"/sys/fs/cgroup/{name}", os.O_WRONLY)
attempt("a cgroup", os.mkdir, "/sys/fs/cgroup/planted")
