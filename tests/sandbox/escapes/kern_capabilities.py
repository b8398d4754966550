# ends: ok
import ctypes

from attack import attempt, expect, read, syscall

rights = {
    line.split(":")[0]: line.split()[1] for line in read("/proc/self/status").splitlines() if line.startswith("Cap")
}
for name in ("CapEff", "CapPrm", "CapInh", "CapAmb"):  # at most to pass folders, which Landlock then judges
    expect(f"{name} {rights[name]}", int(rights[name], 16) & ~4 == 0)
header = (ctypes.c_uint32 * 2)(0x20080522, 0)
data = (ctypes.c_uint32 * 6)(*[0xFFFFFFFF] * 6)
attempt("capset", syscall, 126, 91, header, data)
