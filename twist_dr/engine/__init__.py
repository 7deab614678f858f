"""How things are done, in plain Python. Nothing here imports Dagster, so that recovery works when the orchestrator does not."""
