-- Recorded conflicts, for operators. Lists show keys, contours and reasons, and no row values. `{…}` are
-- identifiers and lists that postgres/conflicts.py fills in; %(…)s are parameters.

-- name: list
-- Newest first; a filter that is null lets everything pass. Index: replication_conflicts_age.
select id, recorded_at, table_name, record_key, reason, winner, incoming_contour, incoming_version,
       current_version, event_id, resolved_at, resolved_by, resolution
  from replication.replication_conflicts
 where (%(table)s::text is null or table_name = %(table)s)
   and (%(key)s::text is null or record_key::jsonb = %(key)s::jsonb)
   and (%(since)s::timestamptz is null or recorded_at >= %(since)s)
   and (%(id)s::bigint is null or id = %(id)s)
   and (%(open)s is false or resolved_at is null)
 order by recorded_at desc, id desc
 limit %(limit)s

-- name: images
-- Index: the primary key.
select incoming_row, current_row from replication.replication_conflicts where id = %(id)s

-- name: lock
-- Lock: the conflict's row, so that two operators resolve one after the other.
select table_name, record_key, winner, greatest(incoming_version, current_version), resolved_at,
       incoming_row, current_row
  from replication.replication_conflicts where id = %(id)s for update

-- name: lock_row
-- The row as it is now. Lock: the row. Index: primary key.
select coalesce(t.replication_version, 0)
  from {table} t, jsonb_to_record(%(key)s::jsonb) as r({key_definitions})
 where {ripe_key} for update of t

-- name: buried
-- Index: the primary key of the tombstones.
select version from replication.replication_tombstones
 where table_name = %(table)s and record_key = replication.tombstone_key(%(key)s)

-- name: restore_update
-- The image's columns; what is generated, or GENERATED ALWAYS, is the database's. Index: primary key.
update {table} t set {assignments}
  from json_to_record(%(image)s::json) as i({definitions}), jsonb_to_record(%(key)s::jsonb) as r({key_definitions})
 where {ripe_key}

-- name: restore_insert
insert into {table} ({columns}) overriding system value
select {values} from json_to_record(%(image)s::json) as i({definitions})

-- name: restore_delete
-- Index: primary key.
delete from {table} t using jsonb_to_record(%(key)s::jsonb) as r({key_definitions}) where {ripe_key}

-- name: mark
update replication.replication_conflicts
   set resolved_at = clock_timestamp(), resolved_by = session_user || %(who)s, resolution = %(chosen)s
 where id = %(id)s
