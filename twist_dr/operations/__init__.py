"""What somebody can launch or change: each with a name, the permission it needs, its settings, what does it, and what comes of it.

Jobs, commands and whatever else lets people launch something derive from this one table. Nothing here knows the orchestrator.
"""

from twist_dr.operations.operation import Config, Operation
from twist_dr.operations.table import OPERATIONS

__all__ = ["OPERATIONS", "Config", "Operation"]
