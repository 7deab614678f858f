"""Proof by restore: backups verified, recoveries rehearsed."""
