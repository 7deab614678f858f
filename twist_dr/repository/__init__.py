"""The format: manifests, streams, keys and archives, as they lie on a storage target; and what kinds of backups differ in (``kinds.py``)."""
