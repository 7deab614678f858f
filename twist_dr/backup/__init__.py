"""Backups taken, staged and copied to the storage targets."""
