"""The scrub: what every storage target holds is read again in a rotation, and what went bad is repaired from a good copy."""
