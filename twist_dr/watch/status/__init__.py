"""Whether you are safe: collected from catalog and disk, judged, and shown to people, programs and monitoring systems."""
