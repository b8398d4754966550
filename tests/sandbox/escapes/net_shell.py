# ends: ok
import subprocess

from attack import expect, host

done = subprocess.run(["/bin/bash", "-c", f"echo x > /dev/tcp/127.0.0.1/{host['port']}"], capture_output=True)
expect("the shell's /dev/tcp", done.returncode != 0)
