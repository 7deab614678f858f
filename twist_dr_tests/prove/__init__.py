"""``make prove``, before a release: what takes too long for each run. The README word for word, the week under the real daemon, the wide sweeps."""
