# ends: memory|timeout

print("refused, if it ends", flush=True)
x = 7 ** (7**11)
print("ESCAPED")
