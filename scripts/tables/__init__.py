"""The tables of README.md and docs/, each written from a result file; see ``write_tables.py``."""
