# ends: ok
import subprocess

from attack import expect

for command in (
    ["su", "-c", "id -u"],
    ["sudo", "-n", "id", "-u"],
    ["mount"],
    ["ping", "-c1", "127.0.0.1"],
    ["unshare", "-r", "id", "-u"],
):
    try:
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=2)
    except (OSError, subprocess.TimeoutExpired):
        continue
    expect(command[0], done.stdout.strip() != "0" and not (command[0] == "ping" and done.returncode == 0))
expect("nothing else", True)
