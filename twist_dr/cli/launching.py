"""twist-dr backup, verify, restore, undo, cleanup and so on: each launches the job of its operation, and shows what it does."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TextIO, get_args, get_origin

from twist_dr.cli.output import add_json, show, show_error, wants_json
from twist_dr.errors import LaunchRefused, RestoreUnconfirmed
from twist_dr.system.events import Ended, Event, Line, Listener, Planned
from twist_dr.system.words import command

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from twist_dr.operations import Operation

#: The setting in which the application's name is typed, and the one that says why.
_CONFIRM, _REASON = "confirm", "reason"


@dataclass(frozen=True)
class Launched:
    """How a run ended. ``defect``: by an error that nobody expected. ``results``: what its page shows, by step or asset."""

    run_id: str
    succeeded: bool
    defect: bool
    results: Mapping[str, Mapping[str, Any]]


#: Runs the job of that name, told these settings, to its end.
Launch = Callable[[str, Mapping[str, Any], Listener], Launched]


def add_commands(commands: Any, launch: Launch) -> None:
    """Add a command for each operation that is launched as a job."""
    from twist_dr.operations.table import JOBS

    for launched in JOBS:
        parser = commands.add_parser(
            command(launched.name).split()[1], help=_short(launched.does), description=launched.does,
            epilog=_settings(launched.config.model_fields), formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        parser.add_argument("told", nargs="*", metavar="SETTING=VALUE")
        add_json(parser, "print the outcome as JSON; what is said on the way goes to standard error")
        parser.set_defaults(run=partial(_run, launched, launch), plan=False, yes=True)
        if launched.plan:
            parser.add_argument("--plan", action="store_true", help="only show what it would do")
            parser.add_argument("--yes", action="store_true", help="do it without showing that first and asking")
            parser.set_defaults(yes=False)


def _short(does: str) -> str:
    """The first clause, as commands are told of in a list."""
    clause = re.split(r"[:;]|\.(?: |$)", does)[0]
    return clause[0].lower() + clause[1:]


def _settings(fields: Mapping[str, FieldInfo]) -> str | None:
    """All that it can be told, for --help."""

    def lines() -> Iterator[str]:
        yield "settings:"
        for name, field in fields.items():
            default = json.dumps(field.default) if isinstance(field.default, bool) else field.default
            yield f"  {name}={_type(field.annotation)}" + (f"  (default: {default})" if default != "" else "")
            yield textwrap.fill(field.description or "", 100, initial_indent=" " * 6, subsequent_indent=" " * 6)

    return "\n".join(lines()) if fields else None


def _type(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return "|".join(map(str, get_args(annotation)))
    return {bool: "true|false", int: "NUMBER", float: "NUMBER"}.get(annotation, "TEXT")


class _Watch:
    """Listens for a person: prints each line, with a bar beneath where that is a terminal, and keeps what was planned and how it ended."""

    def __init__(self, lines: TextIO, errors: TextIO) -> None:
        from twist_dr.system.progress import Bar

        self._lines, self._errors = lines, errors
        self._bar = Bar(errors)
        self.planned: Mapping[str, str] = {}
        self.ended: Ended | None = None

    def __call__(self, event: Event) -> None:
        self._bar(event)
        if isinstance(event, Line):
            # Whoever has read enough (head, less) ends no backup.
            with suppress(OSError):
                text, stream = (f"warning: {event.text}", self._errors) if event.warning else (event.text, self._lines)
                print(text, file=stream, flush=True)
        elif isinstance(event, Planned):
            self.planned = event.settings
        elif isinstance(event, Ended) and event.state != "succeeded":
            self.ended = event if event.state == "failed" else replace(event, error="stopped")

    @property
    def why(self) -> str | None:
        """Why it did not succeed, as far as that was told."""
        return self.ended.error if self.ended is not None else None


@contextmanager
def _kept(stream: TextIO) -> Iterator[TextIO]:
    """The same terminal or file: while a job runs, its own output is not what the process writes to."""
    try:
        # A name that cannot be written there ends no backup either.
        kept = os.fdopen(os.dup(stream.fileno()), "w", encoding=stream.encoding, errors="backslashreplace")
    except OSError:  # no file
        yield stream
        return
    try:
        yield kept
    finally:
        with suppress(OSError):
            kept.close()


def _run(launched: Operation[Any, Any], launch: Launch, options: argparse.Namespace) -> int:
    from twist_dr.operations.told import understood

    try:
        told = understood(launched, _pairs(options.told)).model_dump(exclude_unset=True)
    except LaunchRefused as mistakes:
        show_error(options, mistakes)
        return 2
    if not os.environ.get("DAGSTER_HOME"):
        print("warning: DAGSTER_HOME is not set, so Dagster forgets this run; set it, as the file environment does", file=sys.stderr)  # fmt: skip
    if options.plan or _is_plan(launched, told):
        told |= launched.plan
    elif launched.plan and not told.get(_CONFIRM):
        agreed = _confirmed(launched, told) if options.yes else _asked(launched, launch, told, options)
        if agreed is None:
            return 1
        told = agreed
    done, watch = _launch(launched, launch, told, options)
    ended = watch.ended
    if wants_json(options):
        error = {"code": ended.error_code, "message": ended.error} if ended is not None else None
        show(options, lambda: {"job": launched.name, "told": told, **asdict(done), "error": error}, str)
    return int(not done.succeeded)


def _pairs(words: Sequence[str]) -> dict[str, str]:
    """Raises ``LaunchRefused``."""
    told: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or name in told:
            what = "is told twice" if equals else "is no SETTING=VALUE"
            raise LaunchRefused(f"{word if not equals else name!r} {what}", remedy="see with --help what can be told")
        told[name] = value
    return told


def _launch(
    launched: Operation[Any, Any], launch: Launch, told: Mapping[str, Any], options: argparse.Namespace
) -> tuple[Launched, _Watch]:
    """Run it, and say why it failed, last."""
    with _kept(sys.stdout) as output, _kept(sys.stderr) as errors:
        watch = _Watch(errors if wants_json(options) else output, errors)
        done = launch(launched.name, told, watch)
    if not done.succeeded:
        page = f"; this is a defect, and the page of the run {done.run_id} has all of it" if done.defect else ""
        # Also where nobody reads it any more, the run has failed.
        with suppress(OSError):
            print(f"twist-dr: {watch.why or f'{launched.name} failed'}{page}", file=sys.stderr)
    return done, watch


# -- whether it is meant ----------------------------------------------------------------------------------------------


def _is_plan(launched: Operation[Any, Any], told: Mapping[str, Any]) -> bool:
    """Whether it is told to show only what it would do. That the confirmation is missing does not say so here: it is asked for."""
    settings = launched.config(**told).model_dump()
    return bool(launched.plan) and _CONFIRM not in launched.plan and launched.plan.items() <= settings.items()


def _confirmed(launched: Operation[Any, Any], told: Mapping[str, Any]) -> dict[str, Any]:
    """The same, with the application's name typed where that is asked for."""
    from twist_dr.settings import load_settings

    asks = _CONFIRM in launched.config.model_fields
    return {**told, _CONFIRM: load_settings().application} if asks else dict(told)


def _asked(
    launched: Operation[Any, Any], launch: Launch, told: Mapping[str, Any], options: argparse.Namespace
) -> dict[str, Any] | None:
    """What a person at the terminal who has seen the plan agrees to. Raises ``LaunchRefused`` where there is none."""
    if not sys.stdin.isatty():
        raise LaunchRefused(
            f"{command(launched.name)} changes something, and there is no terminal to ask at",
            remedy="add --yes to do it, or --plan to see what it would do",
        )
    plan, watch = _launch(launched, launch, {**told, **launched.plan}, options)
    if not plan.succeeded and (watch.ended is None or watch.ended.error_code != RestoreUnconfirmed.code):
        return None
    # While the question stands, "latest" may become another one, which nobody agreed to.
    agreed = _confirmed(launched, {**told, **watch.planned})
    fields = launched.config.model_fields
    if _REASON in fields and not told.get(_REASON):
        agreed[_REASON] = _answer("Why, for those who find it later: ")
    grave = _CONFIRM in agreed and told.get("mode", "replace") == "replace"
    wanted = agreed[_CONFIRM] if grave else "yes"
    if _answer(f"Type {wanted} to do it: ") == wanted:
        return agreed
    print("twist-dr: nothing was changed", file=sys.stderr)
    return None


def _answer(question: str) -> str:
    print(question, end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip()
