#!/usr/bin/env python
"""Runs a command of the sample ERP, from any working directory."""

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    # First, so that the apps beside this file win over packages of the same name elsewhere.
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "erp_site.settings")
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)
