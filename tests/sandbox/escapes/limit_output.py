# ends: output

print("refused, if it ends", flush=True)
while True:
    print("x" * 1000)
