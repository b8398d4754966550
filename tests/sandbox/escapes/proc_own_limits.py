# ends: ok
import resource

from attack import attempt, expect

for name in ("CPU", "DATA", "FSIZE", "NPROC", "NOFILE", "MEMLOCK", "CORE"):
    number = getattr(resource, f"RLIMIT_{name}")
    hard = resource.getrlimit(number)[1]
    expect(f"{name} is limited", hard != resource.RLIM_INFINITY)
    attempt(f"a higher limit of {name}", resource.setrlimit, number, (hard + 1, hard + 1))
