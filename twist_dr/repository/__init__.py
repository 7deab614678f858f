"""The format: manifests, streams, keys and archives, as they lie on a storage target."""
