-- Retention. Every delete is bounded by %(limit)s rows and its own transaction, so that cleaning up
-- never holds a snapshot for long. Unpublished and parked rows are never removed.

-- name: rotate_queue
select replication.rotate_queue(%(age)s::interval)

-- name: remove_published
select replication.remove_published(%(age)s::interval, %(limit)s)

-- name: remove_processed
-- Index: processed_events_age.
delete from replication.processed_events
 where ctid = any(array(
   select ctid from replication.processed_events
    where processed_at < clock_timestamp() - %(age)s::interval limit %(limit)s))

-- name: remove_conflicts
delete from replication.replication_conflicts
 where ctid = any(array(
   select ctid from replication.replication_conflicts
    where recorded_at < clock_timestamp() - %(age)s::interval limit %(limit)s))

-- name: fold_workers
-- Workers that ended, or died, more than an hour ago become part of one row per role.
with ended as (
  delete from replication.workers
   where heartbeat_at < clock_timestamp() - interval '1 hour' and instance not like 'ended %%'
  returning *
), counted as (
  delete from replication.worker_counts where instance in (select instance from ended)
  returning *
), folded as (
  insert into replication.workers as w
    (instance, role, stopped_at, last_success_at, batches, processed, failed, applied, skipped,
     conflicts, bytes)
  select 'ended ' || role || 's', role, clock_timestamp(), max(last_success_at), sum(batches),
         sum(processed), sum(failed), sum(applied), sum(skipped), sum(conflicts), sum(bytes)
    from (select role, last_success_at, batches, processed, failed, applied, skipped, conflicts, bytes
            from ended
           union all
          select 'publisher', last_success_at, batches, processed, failed, 0, 0, 0, bytes
            from counted) e
   group by role
  on conflict (instance) do update
     set last_success_at = greatest(w.last_success_at, excluded.last_success_at),
         batches = w.batches + excluded.batches, processed = w.processed + excluded.processed,
         failed = w.failed + excluded.failed, applied = w.applied + excluded.applied,
         skipped = w.skipped + excluded.skipped, conflicts = w.conflicts + excluded.conflicts,
         bytes = w.bytes + excluded.bytes
)
select count(*) from ended

-- name: clock
-- µs by this server's clock.
select (date_part('epoch', clock_timestamp()) * 1000000)::bigint

-- name: tables_with_tombstones
-- An event parked without its key may be of any key of its table, so nothing of that is forgotten.
select t.table_name,
       exists (select from replication.parked_events p
                where p.table_name = t.table_name and p.record_key is null and p.reason <> 'malformed')
  from (select distinct table_name from replication.replication_tombstones where version > 1) t

-- name: applied_offsets
select topic, partition, next_offset from replication.consumer_offsets order by topic, partition

-- name: remove_tombstones
-- Deletes that happened and are dated before %(before)s. Not those that still wait to settle, nor those
-- of keys with a parked event, which may be older. What was forgotten raises the table's floor in the
-- same transaction, so an older write meets one of both. Locks: tombstones nobody else holds.
-- Index: replication_tombstones_version.
with gone as (
  delete from replication.replication_tombstones
   where ctid = any(array(
     select b.ctid from replication.replication_tombstones b
      where b.table_name = %(table)s and b.version > 1 and b.version < %(before)s::bigint << 10
        and b.deleted_at < to_timestamp(%(before)s / 1000000.0) and not b.unsettled
        and not exists (select from replication.parked_events p
                         where p.table_name = b.table_name
                           and replication.tombstone_key(p.record_key) = b.record_key)
      limit %(limit)s for update skip locked))
  returning record_key, version
), states as (
  delete from replication.merge_states m using gone g
   where m.table_name = %(table)s and m.record_key = g.record_key and m.image is not null
), floor as (
  insert into replication.tombstone_floors as f (table_name, version)
  select %(table)s, max(version) from gone having count(*) > 0
  on conflict (table_name) do update set version = greatest(f.version, excluded.version)
)
select count(*) from gone

-- name: count_old_tombstones
select count(*) from replication.replication_tombstones
 where table_name = %(table)s and version > 1 and deleted_at < to_timestamp(%(before)s / 1000000.0)
