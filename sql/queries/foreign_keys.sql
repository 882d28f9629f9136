-- What becomes of a row that another contour has deleted and that has children here. The names in
-- braces are filled in for each table by postgres/foreign_keys.py.

-- name: blocked_delete
-- The next delete that has waited for children to go, and as long as events that are still on their way
-- need. Lock: the parked row, FOR UPDATE SKIP LOCKED, so that several appliers share them.
select id, topic, partition, kafka_offset, event, table_name, record_key, version
  from replication.parked_events
 where table_name = any(%(tables)s::text[]) and reason = 'referenced' and id > %(after)s
   and convert_from(event, 'UTF8')::json ->> 'op' = 'd'
   and parked_at < clock_timestamp() - %(patience)s::interval
 order by id limit 1 for update skip locked

-- name: unsettled_parents
-- Deletes that came before the row, which then came in unseen and has children by now. Index:
-- replication_tombstones_unsettled. Lock: the tombstones, FOR UPDATE SKIP LOCKED.
select coalesce(long_key, record_key), version from replication.replication_tombstones
 where table_name = %(table)s and unsettled and settle_horizon < pg_snapshot_xmin(pg_current_snapshot())
   and deleted_at < clock_timestamp() - %(patience)s::interval
 order by record_key limit 100 for update skip locked

-- name: lock_parent
-- Locks: the row, so that no child can come meanwhile. Index: primary key.
select t.tableoid, t.ctid::text, t.replication_version
  from {table} t, jsonb_to_record(%(key)s::jsonb) as r({key_definitions})
 where {ripe_key} for update of t

-- name: has_children
-- Index: that of the child's foreign key, if it has one.
select exists (select from {child} c, {parent_row} where {child_of_it})

-- name: delete_children
-- As a change of this contour: triggers fire, capture queues it, cascades go on.
delete from {child} c using {parent_row} where {child_of_it}

-- name: set_null
-- As above.
update {child} c set {nulls} from {parent_row} where {child_of_it}

-- name: restore_parent
select replication.renew_rows(%(table_id)s, array[%(leaf)s::oid], array[%(place)s::tid],
                              array[%(above)s::bigint])

-- name: as_writer
-- From here on triggers fire: what follows is a change of this contour.
select set_config('session_replication_role', 'origin', true)

-- name: as_applier
select set_config('session_replication_role', 'replica', true)

-- name: check_now
set constraints all immediate

-- name: check_later
set constraints all deferred
