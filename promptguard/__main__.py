"""``python -m promptguard``: the command line."""

from promptguard.cli import main

main()
