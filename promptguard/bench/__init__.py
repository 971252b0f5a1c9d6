"""The benchmark: how good the verdicts are, on the caller's own records.

``records`` reads labelled records, ``scoring`` asks a guard about them, ``quality`` makes figures of what it said
and ``run_quality`` does all of it. What needs the ``bench`` extra says so when imported without it.
"""
