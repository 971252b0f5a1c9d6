"""The benchmark: how good the verdicts are, and what they cost, on the caller's own records and machine.

``records`` reads labelled records and needs nothing but the base install; ``quality`` and
``baselines`` need the ``bench`` extra and say so when imported without it.
"""
