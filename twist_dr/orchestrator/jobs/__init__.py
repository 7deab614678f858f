"""What someone launches: a thin job for each operation. ``history.py`` shortens Dagster's own history for the job ``cleanup``."""
