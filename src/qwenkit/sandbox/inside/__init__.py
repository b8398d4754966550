"""What runs inside a sandbox, outside the program's reach: it starts the program, watches its limits and ends it.

This package imports nothing but a few modules of the standard library, and starts in milliseconds.

- `supervisor.py`: the process that obeys the host: one request after another
- `program.py`: the child that gives up its rights and becomes the program
- `watch.py`: processes, memory and time of the program's tree, and its end
- `folder.py`: the program's folder: files in, files out, what it takes, its removal
- `kernel.py`: the system calls that Python has no function for: Landlock, seccomp, capabilities, prctl
"""
