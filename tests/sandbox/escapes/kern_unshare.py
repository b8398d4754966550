# ends: ok
from attack import attempt, syscall

for name, flag in dict(
    user=0x10000000,
    mount=0x20000,
    net=0x40000000,
    pid=0x20000000,
    uts=0x4000000,
    ipc=0x8000000,
    cgroup=0x2000000,
    time=0x80,
).items():
    attempt(f"a namespace ({name})", syscall, 272, 97, flag)
