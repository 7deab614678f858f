"""Scripts are divided where the server divides them, whatever names, comments and bodies hold."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twist_dr.postgres.roles import role_names, scratch_roles
from twist_dr.postgres.statements import statements
from twist_dr.repository.manifest import PostgresFacts


@pytest.mark.parametrize(
    "script",
    [
        [b"CREATE ROLE a;", b"COMMENT ON ROLE \"b;\n\" IS 'it''s; fine\n\\! x';"],
        [b"SELECT E'it\\'s; fine', 'back\\', ';';"],
        [b"CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $_$ SELECT 1; SELECT $1; $_$;", b"SELECT a$b$ FROM c$b$;"],
        [b"CREATE RULE r AS ON INSERT TO t DO (SELECT 1; SELECT 2);"],
        [
            b"CREATE OR REPLACE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; END;",
            b"SELECT 1;",
        ],
        [b"SELECT 1 /* a; /* b; */ c; */ + 2;", b"SELECT 3 -- no; end\n;"],
        [b"SELECT 1;", b"and the rest"],
    ],
)
@pytest.mark.parametrize("between", [b"\n", b"\n-- a 'quote; \"that stays open\n\\restrict x\n/* ; /* ' */ */ "])
def test_statements_end_where_the_server_ends_them(script: list[bytes], between: bytes) -> None:
    assert list(statements(between + between.join(script))) == script


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1), min_size=1, max_size=4))
def test_no_name_and_no_comment_ends_a_statement_or_begins_one(texts: list[str]) -> None:
    script, expected = [], []
    for text in texts:
        name, word = text.replace('"', '""'), text.replace("'", "''")
        expected += [f'CREATE ROLE "{name}";'.encode(), f"COMMENT ON ROLE \"{name}\" IS '{word}';".encode()]
        script += [*expected[-2:], f"CREATE TABLESPACE \"{name}\" OWNER x LOCATION '/{word}';".encode()]
    facts = PostgresFacts.model_construct(bootstrap_role="nobody here", client_version="18.6")
    kept = scratch_roles(b"\n".join(script), facts, 18)
    assert list(statements(kept)) == expected
    assert role_names(kept) == texts
