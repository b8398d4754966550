# ends: ok
import resource

from attack import attempt, others

for pid in others():
    attempt(f"limits of {pid}", resource.prlimit, pid, resource.RLIMIT_NOFILE, (10, 10))
