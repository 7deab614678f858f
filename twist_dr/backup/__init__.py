"""Backups of every kind: taken, staged, and copied to the storage targets. What the kinds differ in is in ``repository/kinds.py``."""
