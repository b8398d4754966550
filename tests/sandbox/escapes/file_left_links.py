# ends: ok
import os

from attack import host

for number, target in enumerate((host["canary"], "/etc/shadow", "/dev/zero", "/proc/1/environ", ".", "left0")):
    os.symlink(target, f"left{number}")
print("refused nothing: links are left")
