"""All of Dagster: what exists, what someone launches, what happens by itself, and what every step does around its work.

What we lean on. Much of it is not public API, so versions are bounded and ``twist_dr_tests/orchestrator/test_dagster.py`` pins it.

- Resources are plain objects: who may launch a job could otherwise override where backups go, in the run config.
- Nothing does I/O when definitions are loaded or resources set up: Dagster does both more than once per run.
- boto3, psycopg, cryptography and zstandard are imported inside functions; dagster_aws and dagster_webserver never. So ``dagster job execute``
  starts in about a second; ``test_architecture.py`` watches over it.
- Copies are one multi_asset with threads inside: all targets at once in one process, each with its own place in the lineage. The specs are
  skippable, as a launch may choose some targets; the step fails by itself when one is missing.
- A failure that may pass by itself (a server that restarts, a network) is tried again twice, in the step that met it; what cannot get better fails
  at once. A retry policy would start an interrupted step anew, so there is none. Runs are never started again by themselves.
- Dagster's history has no retention; ``jobs/history.py`` is one. Deleting a run deletes its materializations. So the runs stay from which the
  newest event of each kind of each asset and check came, and the newest run of each job and launcher (by its run key Dagster knows what it has
  launched). Events without a run go by their own rule. In SQLite the run's file goes as a whole.
- Every definition's owner is the permission that launching it needs.
"""
