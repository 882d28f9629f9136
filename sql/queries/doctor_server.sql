-- What doctor asks about the server and about what piles up in the database. Reads only.

-- name: server
select current_setting('server_version'), current_setting('server_version_num')::int, pg_is_in_recovery(),
       c.schema_version, current_setting('track_counts')::boolean, current_setting('autovacuum')::boolean
  from replication.contour c

-- name: collation
-- The version of the collation that indexes were built with, and the one that the system has now.
select datcollversion, pg_database_collation_actual_version(oid) from pg_database
 where datname = current_database()
   and datcollversion is distinct from pg_database_collation_actual_version(oid)

-- name: old_transactions
-- Transactions of this database that hold back its vacuum, oldest first, with what ends them.
select who, remedy, seconds from (
  select format('session %%s of %%s (%%s), %%s', pid, usename, coalesce(nullif(application_name, ''), 'no name'), state)
           as who,
         format('select pg_terminate_backend(%%s);', pid) as remedy,
         date_part('epoch', clock_timestamp() - xact_start) as seconds
    from pg_stat_activity
   where datname = current_database() and pid <> pg_backend_pid() and xact_start is not null
     and (backend_xmin is not null or backend_xid is not null) and backend_type <> 'autovacuum worker'
  union all
  select format('prepared transaction %%L of %%s', gid, owner), format('rollback prepared %%L;', gid),
         date_part('epoch', clock_timestamp() - prepared)
    from pg_prepared_xacts where database = current_database()) t
 where seconds > %(longest)s order by seconds desc limit 5

-- name: sees_everybody
select pg_has_role(current_user, 'pg_read_all_stats', 'usage')

-- name: vacuum_off
-- Tables of ours whose autovacuum somebody has switched off.
select format('replication.%%I', c.relname) from pg_class c
 where c.relnamespace = 'replication'::regnamespace and c.relkind = 'r'
   and exists (select from unnest(c.reloptions) o where o ~ '^autovacuum_enabled=(false|off|no|0|f)$') order by 1

-- name: dead_rows
-- Of the queue and of what applying writes; those to be vacuumed.
select format('replication.%%I', relname), n_dead_tup, pg_size_pretty(pg_total_relation_size(relid))
  from pg_stat_all_tables
 where schemaname = 'replication' and n_dead_tup > %(most)s order by n_dead_tup desc

-- name: ring
-- Since when the queue's active partition is written to; cleanup takes another after half the retention time.
select date_part('epoch', clock_timestamp() - active_since) from replication.queue_ring
