# ends: ok
import os

from attack import attempt

names = (
    "mem kmem port kmsg sda vda nvme0n1 loop0 loop-control tty tty0 console ptmx fuse kvm net/tun uinput userfaultfd "
    "vhost-net vsock mapper/control input/event0 snd/timer nvidia0 dri/card0"
)
for name in names.split():
    attempt(name, os.open, f"/dev/{name}", os.O_RDWR | os.O_NONBLOCK)
