-- Heartbeats and counters of workers.

-- name: worker_stopped
update replication.workers set stopped_at = clock_timestamp(), heartbeat_at = clock_timestamp()
 where instance = %(instance)s

-- name: another
-- Whether a worker of this role is alive beside this one.
select exists (select from replication.workers
                where role = %(role)s and instance <> %(instance)s and stopped_at is null
                  and heartbeat_at > clock_timestamp() - interval '30 seconds')

-- name: identity
-- Who the connected database is.
select name, id, incarnation, schema_version from replication.contour

-- name: status
select * from replication.status

-- name: registered_tables
select table_name from replication.replicated_tables order by table_name
