# ends: disk

print("refused, if it ends", flush=True)
with open("big", "wb") as file:
    for _ in range(64):
        file.write(b"x" * (1 << 20))
print("ESCAPED")
