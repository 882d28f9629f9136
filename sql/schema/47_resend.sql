-- Resending: what this contour has of some keys is queued once more, for contours that lack it (`repair`).
-- Events as those of a snapshot (47_snapshots.sql): published, applied where they are newer, skipped where they are
-- not. A SNAPSHOT may come back below a forgotten delete, and is no conflict.
--
-- Key order: whoever reads a topic as upserts takes the last event of a key. So the caller keeps writers from these
-- keys until it commits, and ids are drawn here, behind those of all that was written before.

-- Queues a SNAPSHOT of each row that lies there (`leaves`: the partition, or the table itself; `places`: its
-- ctid); the caller has locked them. The row goes with its own version; where `above` is not null, it is first
-- raised to the version next above that, not to the clock's: what was written since then, anywhere, is newer and
-- stays. Returns how many rows were queued.
create or replace function replication.resend_rows(
  of_table integer, leaves oid[], places tid[], above bigint[])
returns bigint language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  t constant replication.replicated_tables := replication.current_table(of_table);
  c constant replication.contour := (select c from replication.contour c);
  replication_role constant text := current_setting('session_replication_role');
  former text[];
  raised_leaves oid[];
  raised_places tid[];
  sent bigint;
begin
  -- No trigger may alter the rows or capture them a second time.
  perform set_config('session_replication_role', 'replica', true);
  if t.merge = 'columns' then  -- all columns of a raised row get its version, as after an INSERT
    former := replication.pin_text_settings(t);  -- keys as capture writes them
    execute format($sql$
delete from replication.merge_states m
 using %1$s t join unnest($1, $2, $3) as w(leaf, place, above) on t.tableoid = w.leaf and t.ctid = w.place
 where w.above is not null and m.table_name = %2$L and m.record_key = %3$s$sql$,
      t.relation, t.table_name, replication.buried_key(t, replication.key_expression(t, 't')))
      using leaves, places, above;
    perform replication.restore_settings(former);
  end if;
  execute format($sql$
with raised as (
  update %s t
     set replication_version = (((w.above >> 10) + 1) << 10) | %s
    from unnest($1, $2, $3) as w(leaf, place, above)
   where t.tableoid = w.leaf and t.ctid = w.place and w.above is not null
  returning t.tableoid, t.ctid
)
select array_agg(tableoid), array_agg(ctid) from raised$sql$, t.relation, c.id)
    into raised_leaves, raised_places using leaves, places, above;
  perform set_config('session_replication_role', replication_role, true);
  select sum(replication.snapshot_rows(of_table, of_leaf.leaf, of_leaf.places, null)) into sent
    from (select w.leaf, array_agg(w.place) as places
            from (select leaf, place from unnest(raised_leaves, raised_places) as r(leaf, place)
                  union all
                  select leaf, place from unnest(leaves, places, above) as s(leaf, place, above)
                   where s.above is null) w
           group by w.leaf) of_leaf;
  return coalesce(sent, 0);
end $$;

-- Queues a DELETE with the tombstone's own version for each key whose tombstone has that version. The caller
-- keeps all writers from the table (SHARE), and has seen that the keys have no rows: an insert that is not
-- committed could not be seen, and its event would come to stand before an older delete. Returns the keys.
create or replace function replication.resend_deletes(of_table integer, keys text[], versions bigint[])
returns text[] language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  found_keys text[];
  tombstones text[];
begin
  select array_agg(w.key), array_agg(s.record_key) into found_keys, tombstones
    from unnest(keys, versions) as w(key, version)
    join replication.replication_tombstones s
      on s.table_name = (replication.current_table(of_table)).table_name
     and s.record_key = replication.tombstone_key(w.key) and s.version = w.version;
  perform from replication.snapshot_deletes(of_table, tombstones, null);
  return coalesce(found_keys, '{}');
end $$;
