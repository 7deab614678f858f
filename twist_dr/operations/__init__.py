"""What somebody can launch or change: each with a name, the permission it needs, its settings, what does it, and what comes of it.

Jobs, commands and whatever else lets people launch something derive from the one table in ``table.py``. Nothing here knows the orchestrator.
"""

from twist_dr.operations.operation import Config, Operation

__all__ = ["Config", "Operation"]
