# ends: ok
from attack import attempt, read

for name in (
    "passwd",
    "shadow",
    "group",
    "hostname",
    "hosts",
    "resolv.conf",
    "machine-id",
    "ssh/sshd_config",
    "sudoers",
):
    attempt(name, read, f"/etc/{name}")
