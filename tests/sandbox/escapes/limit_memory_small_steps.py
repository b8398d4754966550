# ends: memory

print("refused, if it ends", flush=True)
blocks = [bytearray(1 << 20) for _ in range(400)]
print("ESCAPED")
