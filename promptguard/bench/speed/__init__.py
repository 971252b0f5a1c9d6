"""The benchmark of speed: how fast this machine gives verdicts.

``traffic`` makes or reads the texts, ``load`` drives workers with them in a closed or an open loop. Quality is
measured apart from this, in ``promptguard.bench``.
"""
