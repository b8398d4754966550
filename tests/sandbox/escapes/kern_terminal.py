# ends: ok
import fcntl
import termios

from attack import attempt

for fd in (0, 1, 2):
    attempt(f"a character pushed to {fd}", fcntl.ioctl, fd, termios.TIOCSTI, b"x")
    attempt(f"the console's paste at {fd}", fcntl.ioctl, fd, 0x541C, b"\x03")
