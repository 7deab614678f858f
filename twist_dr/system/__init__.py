"""The machine: processes, locks, folders, bounded documents, and words for people. Nothing here knows of backups."""
