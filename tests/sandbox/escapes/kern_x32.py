# ends: killed
import os

from attack import syscall

if os.uname().machine == "x86_64":
    print("refused, if this is the last line", flush=True)
    syscall(0x40000000 + 39, 0)
    print("ESCAPED")
print("refused: another machine")
os.kill(os.getpid(), 9)
