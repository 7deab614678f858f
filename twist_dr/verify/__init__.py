"""Proof by restore: backups verified, recoveries rehearsed and timed.

``choosing.py`` says which backup, ``backup.py`` tries its copies and records what came out, ``proof.py`` knows what proves each kind:
``verification.py`` a full backup, ``rehearsal.py`` a base backup, ``configuration.py`` a configuration backup.
"""
