"""What the role that restores may do on its server, as far as a dump can ask for it."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

from twist_dr.postgres.cluster import Connection, query
from twist_dr.repository.table_names import in_quotes

#: Roles of providers whose servers let their members do some of what PostgreSQL keeps for superusers: which, only they know.
_PROVIDERS = ["rds_superuser", "cloudsqlsuperuser", "azure_pg_admin", "alloydbsuperuser", "supabase_admin"]
#: From this version on everybody may make nothing in the schema public, which belongs to the database's owner (release notes of 15).
_PUBLIC_CLOSED = 15
#: From this version on a member may do with a role what it was granted: to use its rights, to give it something (release notes of 16).
_MEMBERS_TOLD_APART = 16
SUPERUSER = "name a superuser in restore.database_url"
_PLAIN = re.compile(r"[a-z_][a-z0-9_]*")


@dataclass(frozen=True)
class RestoringRole:
    """The role of a connection. ``database_owner``: who is to own the database that is restored.

    ``provided``: a provider's own rules may let it do what PostgreSQL keeps for superusers; which, only the provider knows.
    """

    connection: Connection
    database_owner: str
    name: str
    superuser: bool
    makes_roles: bool
    provided: bool

    @classmethod
    def of(cls, connection: Connection, database_owner: str) -> RestoringRole:
        """Raises psycopg's errors."""
        row = query(
            connection,
            """SELECT current_user::text, rolsuper, rolcreaterole,
                      EXISTS (SELECT 1 FROM pg_roles p WHERE p.rolname = ANY(%(providers)s) AND pg_has_role(p.oid, 'USAGE'))
                 FROM pg_roles WHERE rolname = current_user""",
            {"providers": _PROVIDERS},
        )[0]
        return cls(connection, database_owner, *row)

    @property
    def _major(self) -> int:
        return self.connection.info.server_version // 10000

    @cached_property
    def _roles(self) -> dict[str, bool]:
        """Every role of the server, and whether this one may both use its rights and give it something."""
        rows = query(
            self.connection,
            "SELECT rolname, pg_has_role(oid, 'USAGE') AND pg_has_role(oid, %(give)s) FROM pg_roles",
            {"give": "SET" if self._major >= _MEMBERS_TOLD_APART else "MEMBER"},
        )
        return {str(name): bool(ours) for name, ours in rows}

    def exists(self, role: str) -> bool:
        return self._named(role) in self._roles

    def acts_for(self, role: str) -> bool:
        """Whether it may make something, give it to ``role``, and go on working on it."""
        return self._roles.get(self._named(role), False)

    def creates_in(self, role: str, home: str) -> bool:
        """Whether ``role`` may have something in what ``home`` owns, before any grant is given."""
        return bool(
            query(
                self.connection,
                """SELECT 1 FROM pg_roles r, pg_roles h WHERE r.rolname = %(role)s AND h.rolname = %(home)s AND pg_has_role(r.oid, h.oid, 'USAGE')""",
                {"role": self._named(role), "home": self._named(home)},
            )
        )

    @property
    def owner_of_public(self) -> str | None:
        """Who owns the schema public of a new database; None where everybody may make something in it."""
        return self.database_owner if self._major >= _PUBLIC_CLOSED else None

    def _named(self, role: str) -> str:
        return self.database_owner if role == "pg_database_owner" else role

    @cached_property
    def installs(self) -> frozenset[str]:
        """Extensions that whoever may make something in a database may install there."""
        rows = query(
            self.connection,
            f"""SELECT v.name FROM pg_available_extension_versions v JOIN pg_available_extensions a
                    ON a.name = v.name AND a.default_version = v.version WHERE NOT superuser {"OR trusted" if self._major >= 13 else ""}""",
        )
        return frozenset(str(name) for (name,) in rows)

    def may_set(self, parameters: Collection[str]) -> set[str]:
        """Which of these it may set for a database, a role or a function.

        What PostgreSQL does not know, of the application's own, only who was granted it (GRANT ON PARAMETER, since 15).
        """
        granted = "has_parameter_privilege(p.name, 'SET')" if self._major >= 15 else "false"
        rows = query(
            self.connection,
            f"""SELECT p.name FROM unnest(%(parameters)s::text[]) p(name) LEFT JOIN pg_settings s ON lower(s.name) = lower(p.name)
                 WHERE s.context = 'user' OR {granted}""",
            {"parameters": list(parameters)},
        )
        return {str(name) for (name,) in rows}

    def may_alter(self, role: str) -> bool:
        """Whether it may set something for a role ("ALTER ROLE", Description): for itself, or as its administrator (before 16, for all but superusers)."""
        admin = "pg_has_role(oid, 'MEMBER WITH ADMIN OPTION')" if self._major >= _MEMBERS_TOLD_APART else "true"
        rows = query(
            self.connection,
            f"SELECT rolname = current_user OR (NOT rolsuper AND %(makes_roles)s AND {admin}) FROM pg_roles WHERE rolname = %(role)s",
            {"role": role, "makes_roles": self.makes_roles},
        )
        return all(allowed for (allowed,) in rows)

    # -- what helps ----------------------------------------------------------------------------------------------------

    def joining(self, role: str) -> str:
        """SQL that lets it act for another role."""
        how = " WITH INHERIT TRUE, SET TRUE" if self._major >= _MEMBERS_TOLD_APART else ""
        return f"GRANT {self.in_sql(role)} TO {self.in_sql(self.name)}{how}"

    def granting(self, parameter: str) -> str:
        """What lets it set a parameter."""
        if self._major < 15:
            return SUPERUSER
        quoted = ".".join(map(self.in_sql, parameter.split(".")))
        return f"as a superuser: GRANT SET ON PARAMETER {quoted} TO {self.in_sql(self.name)}"

    @staticmethod
    def in_sql(name: str) -> str:
        """A name as it stands in SQL."""
        return name if _PLAIN.fullmatch(name) else in_quotes(name)
