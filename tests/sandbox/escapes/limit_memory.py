# ends: memory

print("refused, if it ends", flush=True)
block = bytearray(400 << 20)
print("ESCAPED")
