-- Installs replication_pipeline in one contour's database, or upgrades it in place.
--
--   psql -v contour=a -v contour_id=1 -f sql/00_master_setup.sql
--
-- Run it as a superuser, or as a role that owns the database, has CREATEROLE, and may
-- GRANT SET ON PARAMETER session_replication_role (docs/security.md). Safe to run again at any time: every statement
-- is idempotent, and the whole is one transaction. PostgreSQL 15 or newer.
-- `replication-pipeline init` runs these same files.

\set ON_ERROR_STOP on
\set QUIET on
\if :{?contour}
\else
  \set contour ''
\endif
\if :{?contour_id}
\else
  \set contour_id ''
\endif
begin;
set local client_min_messages = warning;
select set_config('replication.setup_contour', :'contour', true) as contour,
       set_config('replication.setup_contour_id', :'contour_id', true) as contour_id \gset setup_
\ir schema/10_roles.sql
\ir schema/15_locks.sql
\ir schema/20_tables.sql
\ir schema/25_contours.sql
\ir schema/30_clock.sql
\ir schema/35_merge_states.sql
\ir schema/40_wire_forms.sql
\ir schema/41_capture_statements.sql
\ir schema/42_capture_functions.sql
\ir schema/45_queue_ring.sql
\ir schema/46_renewal.sql
\ir schema/47_snapshots.sql
\ir schema/47_resend.sql
\ir schema/50_setup_table.sql
\ir schema/55_event_value.sql
\ir schema/60_monitoring.sql
\ir schema/61_metrics.sql
\ir schema/90_grants.sql
commit;
\echo replication_pipeline is installed: contour :contour, id :contour_id
