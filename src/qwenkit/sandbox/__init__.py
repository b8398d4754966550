"""A sandbox: programs that a model wrote run here and nowhere else.

- `sandbox.py`: `Sandbox`, which runs a program and returns what came of it
- `limits.py`: `Limits`, `Result` and the statuses
- `probe.py`: which tier works here
- `launch.py`: how a tier is started, and what its supervisor is asked
- `worker.py`: supervisors that serve one program after another
- `session.py`: the conversation with a supervisor
- `places.py`: what a program sees of the machine
- `seccomp.py`: the system calls that it may make; `syscalls.tsv` has their numbers
- `cgroup.py`: the kernel's own count of memory
- `verdict.py`: one verdict for a program and its unit tests; `languages.py`: languages beside Python
- `inside`: the supervisor and the child that becomes the program
"""

from qwenkit.sandbox.limits import Limits, Result, Status
from qwenkit.sandbox.probe import Tier, choose, probe
from qwenkit.sandbox.sandbox import Running, Sandbox
from qwenkit.sandbox.session import SandboxError
from qwenkit.sandbox.verdict import Problem, Verdict, run_tests

__all__ = [
    "Limits", "Problem", "Result", "Running", "Sandbox", "SandboxError", "Status", "Tier", "Verdict", "choose", "probe",
    "run_tests",
]  # fmt: skip
