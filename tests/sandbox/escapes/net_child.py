# ends: ok
import subprocess
import sys

from attack import expect, host

code = f"import socket; socket.create_connection(('127.0.0.1', {host['port']}))"
expect("a child's connection", subprocess.run([sys.executable, "-c", code], capture_output=True).returncode != 0)
