# ends: ok
from attack import attempt, syscall

for number in (*range(451, 480), 548, 600, 10000):
    if number not in (452,):
        attempt(f"call {number}", syscall, number, number, -1, -1, -1, -1, -1)
