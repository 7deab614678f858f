"""The machine: processes, locks, folders, and words for people."""
