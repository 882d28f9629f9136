-- Resending: what this contour has of some keys is queued once more, for contours that lack it (`repair`).
-- Events as all others: published, applied where they are newer, skipped where they are not.
--
-- Key order: whoever reads a topic as upserts takes the last event of a key. So the caller keeps writers from these
-- keys until it commits, and ids are drawn here, behind those of all that was written before.

-- Queues a SNAPSHOT of each row that lies there (`leaves`: the partition, or the table itself; `places`: its
-- ctid); the caller has locked them. The row goes with its own version; where `above` is not null, it is first
-- raised to the version next above that, not to the clock's: what was written since then, anywhere, is newer and
-- stays. A SNAPSHOT may come back below a forgotten delete, and is no conflict. Returns how many rows were queued.
create or replace function replication.resend_rows(
  of_table integer, leaves oid[], places tid[], above bigint[])
returns bigint language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  t constant replication.replicated_tables := replication.current_table(of_table);
  c constant replication.contour := (select c from replication.contour c);
  seed constant text := to_hex(replication.clock() >> 4) || replication.event_origin(c);
  replication_role constant text := current_setting('session_replication_role');
  row constant text := format('%s as __key, %s as __payload, t.replication_version as __version',
    replication.key_expression(t, 't'), replication.image_expression(t, 't', null));
  former text[];
  sent bigint;
begin
  -- No trigger may alter the rows or capture them a second time; values are written as capture does.
  perform set_config('session_replication_role', 'replica', true);
  former := replication.pin_text_settings(t);
  if t.merge = 'columns' then  -- all columns of a raised row get its version, as after an INSERT
    execute format($sql$
delete from replication.merge_states m
 using %1$s t join unnest($1, $2, $3) as w(leaf, place, above) on t.tableoid = w.leaf and t.ctid = w.place
 where w.above is not null and m.table_name = %2$L and m.record_key = %3$s$sql$,
      t.relation, t.table_name, replication.buried_key(t, replication.key_expression(t, 't')))
      using leaves, places, above;
  end if;
  execute format($sql$
with __raised as (
  update %1$s t
     set replication_version = (((w.above >> 10) + 1) << 10) | %2$s
    from unnest($3, $4, $5) as w(leaf, place, above)
   where t.tableoid = w.leaf and t.ctid = w.place and w.above is not null
  returning %3$s
),
__same as (
  select %3$s
    from %1$s t join unnest($3, $4, $5) as w(leaf, place, above) on t.tableoid = w.leaf and t.ctid = w.place
   where w.above is null
)$sql$, t.relation, c.id, row)
    || replication.queue_insert(t, $sql$(
  select nextval('replication.replication_queue_id_seq') as __id, r.*, null::json as __before,
         null::bigint as __base, 'SNAPSHOT' as __operation
    from (select * from __raised union all select * from __same) r) __e$sql$,
         false, false, '$1', '$2', '''*''')
    using seed, pg_current_xact_id()::text::bigint, leaves, places, above;
  get diagnostics sent = row_count;
  perform replication.restore_settings(former);
  perform set_config('session_replication_role', replication_role, true);
  return sent;
end $$;

-- Queues a DELETE with the tombstone's own version for each key whose tombstone has that version. The caller
-- keeps all writers from the table (SHARE), and has seen that the keys have no rows: an insert that is not
-- committed could not be seen, and its event would come to stand before an older delete. Returns the keys.
create or replace function replication.resend_deletes(of_table integer, keys text[], versions bigint[])
returns text[] language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  t constant replication.replicated_tables := replication.current_table(of_table);
  c constant replication.contour := (select c from replication.contour c);
  found_keys text[];
  found_versions bigint[];
begin
  select array_agg(w.key), array_agg(w.version) into found_keys, found_versions
    from unnest(keys, versions) as w(key, version)
    join replication.replication_tombstones s
      on s.table_name = t.table_name and s.record_key = replication.tombstone_key(w.key) and s.version = w.version;
  execute replication.queue_insert(t, $sql$(
  select nextval('replication.replication_queue_id_seq') as __id, w.key as __key, null::json as __payload,
         null::json as __before, w.version as __version, null::bigint as __base, 'DELETE' as __operation
    from unnest($3, $4) as w(key, version)) __e$sql$, false, false, '$1', '$2', '''*''')
    using to_hex(replication.clock() >> 4) || replication.event_origin(c),
          pg_current_xact_id()::text::bigint, found_keys, found_versions;
  return coalesce(found_keys, '{}');
end $$;
