# ends: output
import sys

print("refused, if it ends", flush=True)
while True:
    print("x" * 1000, file=sys.stderr)
