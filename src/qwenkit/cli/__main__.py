"""`python -m qwenkit.cli`: the same as `qwenkit`."""

from qwenkit.cli import main

main()
