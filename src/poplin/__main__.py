"""`python -m poplin` is the command `poplin`; start at `cli.py`."""

from poplin.cli import main

main()
