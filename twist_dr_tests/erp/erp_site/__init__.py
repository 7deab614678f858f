"""The project package of the sample ERP. The version below is the only place that names it."""

__version__ = "1.4.1"
