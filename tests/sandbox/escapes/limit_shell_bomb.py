# ends: processes|error|timeout|ok
import subprocess

print("refused, if it ends", flush=True)
subprocess.run(
    ["/bin/sh", "-c", "i=0; while [ $i -lt 200 ]; do sleep 3 & i=$((i+1)); done; wait"], stderr=subprocess.DEVNULL
)
