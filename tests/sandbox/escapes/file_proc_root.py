# ends: ok
from attack import attempt, host, others, read

for pid in ["self", *others()]:
    attempt(f"root of {pid}", read, f"/proc/{pid}/root{host['canary']}")
    attempt(f"folder of {pid}", read, f"/proc/{pid}/cwd/../../../../../../..{host['canary']}")
