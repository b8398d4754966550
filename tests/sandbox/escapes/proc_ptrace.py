# ends: ok
from attack import attempt, others, syscall

for pid in others():
    for request in (16, 0x4206):
        attempt(f"ptrace {request} of {pid}", syscall, 101, 117, request, pid, 0, 0)
attempt("to be traced", syscall, 101, 117, 0, 0, 0, 0)
