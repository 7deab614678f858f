"""twist-dr: disaster recovery for Django + PostgreSQL applications, on Dagster."""

__version__ = "0.1.0"
