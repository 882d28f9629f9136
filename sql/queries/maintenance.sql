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
