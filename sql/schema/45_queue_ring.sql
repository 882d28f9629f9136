-- The ring of the queue's partitions: retention without deleting rows one by one.
--
-- Capture writes into one partition for half the retention time, then into the next. A partition whose
-- rows are all published and older than the retention time is emptied by TRUNCATE: no dead rows, no
-- vacuum, and nothing to make or drop. When nobody turns the ring, the queue goes on in the partition
-- it has. Never emptied: a partition with a row that waits or is parked. From such a partition, and
-- from one that stays active for too long, old rows are deleted in batches.
--
-- Locks: TRUNCATE takes ACCESS EXCLUSIVE on one partition that nobody writes to; it gives up after
-- 200 ms, so that publishers hardly notice, and comes again with the next cleanup.

-- Empties and turns. Returns the rows thrown away, by the statistics of the server.
create or replace function replication.rotate_queue(retention interval)
returns bigint language plpgsql security definer
set search_path = pg_catalog, pg_temp set lock_timeout = '200ms' as $$
declare
  ring replication.queue_ring;
  slot smallint;
  leaf regclass;
  found_some boolean;
  removed bigint := 0;
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception using errcode = 'feature_not_supported',
      message = 'rotate_queue() needs the isolation level read committed',
      hint = 'An older snapshot would not show rows that wait in the partition to be emptied.';
  end if;
  select * into ring from replication.queue_ring for update skip locked;
  if not found then
    return 0;  -- another cleanup is at it
  end if;
  foreach slot in array array[0, 1, 2, 3] loop
    continue when slot = ring.active_slot;
    leaf := format('replication.replication_queue_%s', slot);
    execute format('select exists (select from %s)', leaf) into found_some;
    continue when not found_some;
    execute format('select exists (select from %1$s where not published) '
                   'or exists (select from %1$s where published_at >= clock_timestamp() - $1)', leaf)
       into found_some using retention;
    continue when found_some;
    begin
      execute format('lock table %s in access exclusive mode', leaf);
      -- Rows may have come to wait again meanwhile.
      execute format('select exists (select from %s where not published)', leaf) into found_some;
      if not found_some then
        removed := removed + (select greatest(reltuples, 0) from pg_class where oid = leaf);
        execute format('truncate %s', leaf);
      end if;
    exception when lock_not_available then
      null;
    end;
  end loop;
  if ring.active_since < clock_timestamp() - retention / 2 then
    slot := (ring.active_slot + 1) % 4;
    execute format('select exists (select from replication.replication_queue_%s)', slot) into found_some;
    if not found_some then
      update replication.queue_ring set active_slot = slot, active_since = clock_timestamp();
      perform replication.follow_schema_changes();  -- a table in the middle of DDL follows later
    end if;
  end if;
  -- Placeholders of REPEATABLE READ writers, see lock_statement().
  delete from replication.replication_tombstones s
   where s.ctid = any(array(
     select p.ctid from replication.replication_tombstones p
      where p.table_name in (select table_name from replication.replicated_tables) and p.version = 1
        and p.deleted_at < clock_timestamp() - interval '1 hour' for update skip locked));
  -- No INSERT has waited since, and no clock is behind it.
  delete from replication.displaced_keys d
   where d.ctid = any(array(
     select p.ctid from replication.displaced_keys p
      where p.displaced_at < clock_timestamp() - interval '1 day'
        and p.version >> 10 < replication.clock() - 86400000000 for update skip locked));
  return removed;
end $$;

-- Deletes up to `most` old published rows from partitions that can't be emptied whole before long.
create or replace function replication.remove_published(retention interval, most integer)
returns bigint language plpgsql security definer
set search_path = pg_catalog, pg_temp as $$
declare
  leaf regclass;
  stays boolean;
  removed bigint := 0;
  gone bigint;
begin
  for leaf in
    select inhrelid from pg_inherits where inhparent = 'replication.replication_queue'::regclass order by 1
  loop
    stays := leaf = (select format('replication.replication_queue_%s', active_slot)::regclass
                       from replication.queue_ring);
    if not stays then
      execute format('select exists (select from %s where not published)', leaf) into stays;
    end if;
    continue when not stays;
    execute format('delete from %1$s where ctid = any(array('
                   '  select ctid from %1$s where published and published_at < clock_timestamp() - $1 '
                   '   limit $2 for update skip locked))', leaf)
      using retention, most - removed;
    get diagnostics gone = row_count;
    removed := removed + gone;
    exit when removed >= most;
  end loop;
  return removed;
end $$;
