"""What is kept and what goes, from settings, catalog and targets: looked at, planned, carried out, recorded.

``plan.py`` and ``wal_plan.py`` decide, from facts alone; ``recheck.py`` asks once more right before; ``deletion.py`` is the one place that deletes.
"""
