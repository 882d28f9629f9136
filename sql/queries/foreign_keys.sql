-- What becomes of a row that another contour has deleted and that has children here. The names in
-- braces are filled in for each table by postgres/foreign_keys.py.

-- name: blocked_delete
-- The next delete that has waited for children to go until none of their own deletes can come any more.
-- The contour that deleted the row says so by its rounds: the first that ends behind the delete, and one
-- begun after that, below whose ends stands all that was committed together with it. Once that is read
-- here there is nothing to wait for. Without rounds, or when none comes for `longest`, time must do.
-- Lock: the parked row, FOR UPDATE SKIP LOCKED, so that several appliers share them.
select p.id, p.topic, p.partition, p.kafka_offset, p.event, p.table_name, p.record_key, p.version
  from replication.parked_events p
 cross join lateral (select convert_from(p.event, 'UTF8')::json -> 'source' ->> 'contour') o(origin)
  left join lateral (
    select n.ends from replication.contour_rounds m
      join replication.contour_rounds n on n.contour = m.contour and n.log_offset > m.log_offset
     where m.contour = o.origin
       and (m.ends -> p.topic ->> p.partition)::bigint > p.kafka_offset
     order by n.log_offset limit 1) complete on true
 where p.table_name = any(%(tables)s::text[]) and p.reason = 'referenced' and p.id > %(after)s
   and convert_from(p.event, 'UTF8')::json ->> 'op' = 'd'
   and p.parked_at < clock_timestamp() - %(patience)s::interval
   and case
         when complete.ends is not null then not exists (
           select from jsonb_each(complete.ends) t(topic, ends)
            cross join jsonb_array_elements_text(t.ends) with ordinality e(wanted, nth)
             left join replication.consumer_offsets c on c.topic = t.topic and c.partition = e.nth - 1
            where t.topic = any(%(topics)s::text[]) and e.wanted::bigint > coalesce(c.next_offset, 0))
         when exists (select from replication.contours c
                       where c.name = o.origin and c.state = 'active'
                         and exists (select from replication.contour_rounds r where r.contour = c.name))
         then p.parked_at < clock_timestamp() - %(longest)s::interval
         else true
       end
 order by p.id limit 1 for update of p skip locked

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
