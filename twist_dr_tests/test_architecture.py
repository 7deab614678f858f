"""The arrows of ARCHITECTURE.md, and what loading the definitions may cost."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import twist_dr
from twist_dr_tests.site import ROOT, Site

PACKAGE = Path(twist_dr.__file__).parent

#: Whoever stands higher may import what stands lower, and nothing else: the rooms of ARCHITECTURE.md from top to bottom.
ROOMS = (
    "__main__", "definitions", "orchestrator", "cli", "operations", "doctor", "verify", "scrub", "retention", "watch", "restore", "recovery", "backup", "wal",
    "settings", "catalog", "postgres", "django_app", "repository", "storage", "system", "errors", "redaction",
)  # fmt: skip
DAGSTER_ROOMS = {"definitions", "orchestrator"}


def _modules() -> list[Path]:
    return [path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py"]


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", _modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down_only(path: Path) -> None:
    used = {name.split(".")[1] for name in _imports(path) if re.match(rf"twist_dr\.({'|'.join(ROOMS)})\b", name)}
    assert used <= set(ROOMS[ROOMS.index(_room(path)) :])


def _named(path: Path) -> dict[str, str]:
    """Names of classes and of types that a module makes for others, with what tells one from another."""
    found = {}
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef):
            found[node.name] = f"the class of {path.relative_to(PACKAGE)}"
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = ast.unparse(node.value)
    return {name: meaning for name, meaning in found.items() if re.fullmatch(r"[A-Z]\w*[a-z]\w*", name)}


def test_no_name_stands_for_two_things() -> None:
    meanings: dict[str, set[str]] = {}
    for path in _modules():
        for name, meaning in _named(path).items():
            meanings.setdefault(name, set()).add(meaning)
    assert {name: found for name, found in meanings.items() if len(found) > 1} == {}


@pytest.mark.promise(9)
@pytest.mark.parametrize("path", _modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_dagster_stays_in_its_rooms(path: Path) -> None:
    if _room(path) not in DAGSTER_ROOMS:
        assert not [name for name in _imports(path) if name.split(".")[0].startswith("dagster")]


def test_loading_the_definitions_imports_no_client_library(site: Site) -> None:
    """``dagster job execute`` starts in about a second; each of these would add a good part of one."""
    heavy = [
        "twist_dr.storage.rclone_target",
        "twist_dr.storage.rclone_process",
        "boto3",
        "botocore",
        "psycopg",
        "alembic",
        "dagster_aws",
        "dagster_webserver",
        "dagster_postgres",
        "zstandard",
        "tqdm",
        "apprise",
        "cronsim",
        "matplotlib",
        "numpy",
        "prometheus_client",
        "cryptography",
        "twist_dr.repository.secrets_file",
        "twist_dr.storage.oauth_http",
    ]
    program = (
        f"import json, sys, twist_dr.definitions; print(json.dumps([name for name in {heavy} if name in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **site.environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_the_command_line_does_not_import_dagster() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys, twist_dr.cli; print('dagster' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "False"


def test_what_a_page_shows_in_words_goes_through_one_place() -> None:
    """Whoever makes metadata of a text by another way would show what must not leave us."""
    makers = re.compile(r"MetadataValue\.(text|md|json)\b")
    assert [path.name for path in _modules() if makers.search(path.read_text())] == ["metadata.py"]


def test_every_child_is_given_its_environment() -> None:
    """None inherits ours, which holds secrets: one place makes the short list (``child_environment``)."""
    makers = {"Popen", "run", "call", "check_call", "check_output"}
    others = ("os.system(", "os.popen(", "os.exec", "os.spawn", "os.posix_spawn", "getoutput(", "import pty")
    found = 0
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        assert not [word for word in others if word in text], path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in makers:
                if not (isinstance(node.func.value, ast.Name) and node.func.value.id == "subprocess"):
                    continue
                found += 1
                given = [keyword.value for keyword in node.keywords if keyword.arg == "env"]
                assert [ast.unparse(each).partition("(")[0] for each in given] == ["child_environment"], (
                    f"{path}:{node.lineno}"
                )
    assert found >= 3


def test_what_no_test_runs_can_be_imported() -> None:
    """The demo, the benchmarks and the long fuzzing: a name that went is else met by whoever runs them."""
    folder = ROOT / "twist_dr_tests"
    for path in (folder / "demo.py", *(folder / "bench").glob("*.py"), *(folder / "fuzz").glob("*.py")):
        importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))


def test_the_demo_needs_nothing_that_only_the_tests_install() -> None:
    """``make demo`` installs the extra ``demo`` alone."""
    text = (ROOT / "pyproject.toml").read_text()
    only = re.findall(r'"([\w-]+)', text.partition("\ntest = [")[2].partition("\n]")[0])
    assert "pytest" in only
    modules = {name.replace("-", "_"): None for name in only}
    program = f"import sys; sys.modules.update({modules}); import twist_dr_tests.demo"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
