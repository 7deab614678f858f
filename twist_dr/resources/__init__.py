"""What operations work with, built from the settings.

All are plain objects, inert until a method of theirs is called: Dagster sets resources up twice in a run, and plain
objects do not let run config override where backups go.
"""
