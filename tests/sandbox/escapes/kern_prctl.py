# ends: ok
from attack import attempt, syscall

for name, option in dict(
    mm=35, dumpable=4, ptracer=0x59616D61, subreaper=36, keepcaps=8, securebits=28, seccomp=22
).items():
    attempt(name, syscall, 157, 167, option, 1, 0, 0, 0)
