"""``twist-dr recover``: listing, checking and restoring with a storage target, the keys and this package alone.

For the day when everything else is gone: no settings file, no catalog, no orchestrator, no server that is known. Nothing of
this room imports them.
"""
