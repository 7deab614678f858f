-- The two roles of twist-dr, with the passwords that are in the file environment. Once, as a superuser:
--   psql --dbname=@database@ --file=roles.sql
-- For PostgreSQL 14 and newer; on 17 and newer, after it: GRANT SET ON PARAMETER event_triggers TO @backup@;

-- Backs up: reads everything, past row-level security, and changes nothing.
CREATE ROLE @backup@ LOGIN BYPASSRLS PASSWORD '@backup_password@' IN ROLE pg_read_all_data;

-- Restores: makes and renames databases, and ends sessions. It needs to be a member of each role that owns something in the database.
CREATE ROLE @restorer@ LOGIN CREATEDB BYPASSRLS PASSWORD '@restore_password@'
  IN ROLE pg_read_all_data, pg_read_all_stats, pg_read_all_settings, pg_signal_backend;
GRANT @owner@ TO @restorer@;
