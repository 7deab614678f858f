"""What a storage target keeps and what may go, decided from facts alone: nothing here reads or deletes anything but plans.

``docs/retention.md`` has the rules as a table with examples.
"""
