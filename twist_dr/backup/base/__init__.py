"""Base backups: the files of a whole cluster, full or incremental, from which write-ahead log leads to any moment after."""
