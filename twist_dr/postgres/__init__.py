"""What twist-dr does with PostgreSQL: find its programs, look at a cluster, dump, restore, run a scratch server."""
