"""The jobs that restore, and that take a restore back: launched as they are, they plan and change nothing."""

from __future__ import annotations

from typing import TypeVar

import dagster as dg

from twist_dr.operations import Config, Operation
from twist_dr.orchestrator.jobs.operation_job import operation_job
from twist_dr.orchestrator.jobs.restore_page import watched
from twist_dr.restore.record import RestoreRecord
from twist_dr.settings import Application, Settings

C = TypeVar("C", bound=Config)


def restore_job(settings: Settings, launched: Operation[C, RestoreRecord]) -> dg.JobDefinition:
    """``restore``, ``restore_to_time`` or ``undo_restore``, and a page to show what it comes to."""

    def work(context: dg.OpExecutionContext, app: Application, config: C) -> None:
        with watched(context, app):
            launched(app, config)

    return operation_job(settings, launched, work)
