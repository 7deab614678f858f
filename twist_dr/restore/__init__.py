"""Restores: the gate, the impact, phase one beside the live system, phase two the cutover, and the way back.

``restore.py`` is the whole of it, ``tables.py`` and ``to_time.py`` restore some tables, or what a recovery brought back.
"""
