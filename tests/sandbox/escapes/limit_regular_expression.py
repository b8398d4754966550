# ends: timeout
import re

print("refused, if it ends", flush=True)
re.match(r"(a+)+$", "a" * 60 + "b")
