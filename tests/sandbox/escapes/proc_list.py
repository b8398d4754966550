# ends: ok
import os

from attack import expect

try:
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
except OSError:
    pids = []
expect(f"processes {pids}", set(pids) <= {1, os.getpid()})
