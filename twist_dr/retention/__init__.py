"""What is kept and what goes, from settings, catalog and targets: looked at, planned, carried out, recorded.

``plan.py`` and what it stands on have the rules, ``deletion.py`` the deed; the rest is what they are told, and what becomes of it.
"""
