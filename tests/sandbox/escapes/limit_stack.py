# ends: killed|memory|error|timeout
import sys

print("refused, if it ends", flush=True)
sys.setrecursionlimit(10**9)


def deeper(n):
    return repr(deeper(n + 1)) + str(n)


deeper(0)
