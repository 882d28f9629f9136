-- Heartbeats and counters of workers.

-- name: worker_stopped
update replication.workers set stopped_at = clock_timestamp(), heartbeat_at = clock_timestamp()
 where instance = %(instance)s

-- name: identity
-- Who the connected database is.
select name, id, incarnation, schema_version from replication.contour

-- name: status
select * from replication.status

-- name: registered_tables
select table_name from replication.replicated_tables order by table_name
