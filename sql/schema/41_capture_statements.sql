-- Capture statements: generators of the SQL that queues the changes of one statement. They turn a
-- registered table into text; 42_capture_functions.sql compiles it and decides which one runs.

-- The columns that travel: all but the version, generated ones, and what the table's lists leave out.
-- Key columns always travel.
create or replace function replication.data_columns(t replication.replicated_tables)
returns table (attnum smallint, attname name, type_id oid)
language sql stable set search_path = pg_catalog, pg_temp as $$
  select attnum, attname, atttypid
    from pg_attribute
   where attrelid = t.relation and attnum > 0 and not attisdropped and attgenerated = ''
     and attname <> 'replication_version'
     and (attname = any(t.key_columns)
          or (t.include is null or attname = any(t.include))
             and (t.exclude is null or attname <> all(t.exclude)))
   order by attnum
$$;

-- `n."id" as "id", n."balance"::text as "balance", …`
create or replace function replication.projection(t replication.replicated_tables, alias text)
returns text language sql stable set search_path = pg_catalog, pg_temp as $$
  select string_agg(format('%s as %I', replication.wire_expression(format('%s.%I', alias, attname), type_id),
                           attname), ', ' order by attnum)
    from replication.data_columns(t)
$$;

-- The fingerprint of the columns that travel: names and types, whatever their order and OIDs, so that equal
-- tables have it in common everywhere. The sign is always set: eight hexadecimal digits. A constant in the
-- compiled statements, so it costs nothing at capture and tells of the very shape that a row was written in.
create or replace function replication.shape_of(t replication.replicated_tables)
returns integer language sql stable set search_path = pg_catalog, pg_temp as $$
  select ('x' || left(md5(string_agg(c.attname || ' ' || format_type(a.atttypid, a.atttypmod), ','
                                     order by c.attname collate "C")), 8))::bit(32)::integer | (1 << 31)
    from replication.data_columns(t) c
    join pg_attribute a on a.attrelid = t.relation and a.attnum = c.attnum
$$;

-- For the applier, which writes rows `t` of a table as events: their key, and all their columns, those that
-- stay at home included.
create or replace function replication.whole_row(
  of_table integer, out key_expression text, out projection text, out shape text)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
  t replication.replicated_tables := replication.current_table(of_table);
begin
  key_expression := replication.key_expression(t, 't');
  shape := to_hex(replication.shape_of(t));
  t.include := null;
  t.exclude := null;
  projection := replication.projection(t, 't');
end $$;

-- SQL of the canonical key: a JSON object of the key columns, in key order, no white space.
create or replace function replication.key_expression(t replication.replicated_tables, alias text)
returns text language sql stable set search_path = pg_catalog, pg_temp as $$
  select string_agg(
           format('%L || %s', case k.position when 1 then '{' else ',' end || to_json(k.name) || ':',
                  case when replication.base_type(c.type_id)
                            in ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'bool'::regtype)
                       then format('%s.%I::text', alias, k.name)
                       else format('to_json(%s)::text',
                                   replication.wire_expression(format('%s.%I', alias, k.name), c.type_id))
                  end),
           ' || ' order by k.position) || ' || ''}'''
    from unnest(t.key_columns) with ordinality as k(name, position)
    join replication.data_columns(t) c on c.attname = k.name
$$;

-- A list over the key columns, such as `n.a as __k1, n.b as __k2`: in `form`, %1$s is the position of a column
-- and %2$I its name.
create or replace function replication.key_list(t replication.replicated_tables, form text, separator text)
returns text language sql stable set search_path = pg_catalog, pg_temp as $$
  select string_agg(format(form, k.position, k.name), separator order by k.position)
    from unnest(t.key_columns) with ordinality as k(name, position)
$$;

-- Both sets of names equal, as `n.a = o.a and n.b = o.b`, in forms as of key_list(). A type of the user's with an implicit cast may have no single =.
create or replace function replication.key_match(t replication.replicated_tables, one text, other text)
returns text language sql stable set search_path = pg_catalog, pg_temp as $$
  select string_agg(
           format(case when c.type_id >= 16384
                            and exists (select from pg_cast where castsource = c.type_id and castcontext = 'i')
                       then 'format(''%%s'', %s) = format(''%%s'', %s)' else '%s = %s' end,
                  format(one, k.position, k.name), format(other, k.position, k.name)),
           ' and ' order by k.position)
    from unnest(t.key_columns) with ordinality as k(name, position)
    join replication.data_columns(t) c on c.attname = k.name
$$;

-- A number of 64 bits for a key, with a salt that is new in each statement. The exclusive or over two
-- sets of keys is equal when the sets are, and else by a chance of 2^-64 that nobody can steer. (Of the
-- text: hashint8extended() keeps 32 bits, and gives 0 and 2^32 + 1 the same.)
create or replace function replication.key_hash(t replication.replicated_tables, alias text)
returns text language sql stable set search_path = pg_catalog, pg_temp as $$
  select format('hashtextextended(%s, salt)',
                case when count(*) = 1 and bool_and(replication.base_type(c.type_id)
                                                      in ('int2'::regtype, 'int4'::regtype, 'int8'::regtype))
                     then format('%s.%I::text', alias, min(c.attname::text))
                     else replication.key_expression(t, alias) end)
    from replication.data_columns(t) c where c.attname = any(t.key_columns)
$$;

-- SQL of the stored size of the columns that may be large; null where none may.
create or replace function replication.size_expression(t replication.replicated_tables, alias text)
returns text language sql stable set search_path = pg_catalog, pg_temp as $$
  select string_agg(format('coalesce(pg_column_size(%s.%I), 0)', alias, c.attname), ' + ')
    from replication.data_columns(t) c
    join pg_attribute a on a.attrelid = t.relation and a.attnum = c.attnum
   where a.attlen = -1
     and not (replication.base_type(c.type_id) in ('varchar'::regtype, 'bpchar'::regtype)
              and a.atttypmod between 0 and 1000)
     and not (replication.base_type(c.type_id) = 'numeric'::regtype and a.atttypmod >= 0)
$$;

-- Whether no row of `n`, the new ones, or `o`, the old ones, is so large that its image may not fit into
-- 1 GB: 256 kB as stored, compressed, is far from that. Of old rows without images only keys matter.
create or replace function replication.small_expression(t replication.replicated_tables, alias text)
returns text language sql stable set search_path = pg_catalog, pg_temp as $$
  select coalesce(case when alias = 'n' or t.full_before then
    format('not exists (select from %s %s where ', case alias when 'n' then 'new_rows' else 'old_rows' end, alias)
    || replication.size_expression(t, alias) || ' > 262144)' end, 'true')
$$;

-- Whether the common way will do for the changes at hand, as SQL.
--   * INSERT: all versions come from the column's default, and are above every tombstone, and every
--     displaced row; the transaction sees the newest of them.
--   * UPDATE: the old and the new keys are the same, and every new version is above every old one. So
--     each row did change, once, and no key has a version from another row.
--   * No row is so large that its image may not fit into 1 GB.
--   * No trigger has written to the table within the statement, see `nested`.
--
-- Of tombstones only those above the lowest version are looked for: the index has none of them but in
-- the rare case. Sorted, because a mere EXISTS may be planned as a scan of the table.
create or replace function replication.guard_expression(t replication.replicated_tables, operation text)
returns text language sql stable set search_path = pg_catalog, pg_temp as $$
  select concat_ws(' and ',
    case when operation <> 'DELETE' then
      format('current_setting(''replication.nested_%s'', true) is distinct from ''yes''', t.table_id) end,
    case operation
      when 'INSERT' then format(
        'current_setting(''transaction_isolation'') = ''read committed'' '
        'and (select __l.__lowest > replication.earliest_version() and (select s.version '
        'from replication.replication_tombstones s where s.table_name = %2$L and s.version >= __l.__lowest '
        'order by s.version desc limit 1) is null%4$s from (select min(case when n.replication_version & 1023 = %1$s '
        'and n.replication_version >> 10 <= replication.clock()%3$s then n.replication_version else 0 end) '
        'as __lowest from new_rows n) __l)',
        (select id from replication.contour), t.table_name,
        ' and ' || replication.size_expression(t, 'n') || ' <= 262144',
        case when t.displace then format(
          ' and (select d.version from replication.displaced_keys d where d.table_name = %L '
          'and d.version >= __l.__lowest order by d.version desc limit 1) is null', t.table_name) end)
      when 'UPDATE IN PLACE' then format(
        '(select __n.__keys = __o.__keys and __n.__lowest > __o.__highest '
        'from (select bit_xor(%1$s) as __keys, min(%3$s) as __lowest from new_rows n) __n, '
        '(select bit_xor(%2$s) as __keys, max(%4$s) as __highest from old_rows o) __o)',
        replication.key_hash(t, 'n'), replication.key_hash(t, 'o'),
        coalesce('case when ' || replication.size_expression(t, 'n')
                 || ' <= 262144 then n.replication_version else -9223372036854775807 end',
                 'n.replication_version'),
        coalesce('case when ' || case when t.full_before then replication.size_expression(t, 'o') end
                 || ' <= 262144 then o.replication_version else 9223372036854775807 end',
                 'o.replication_version'))
      when 'DELETE' then replication.small_expression(t, 'o') end)
$$;

-- A row's image as JSON; with `largest`, none for a row whose size is above it.
create or replace function replication.image_expression(
  t replication.replicated_tables, alias text, largest bigint)
returns text language sql stable set search_path = pg_catalog, pg_temp as $$
  select format(case when largest is null then '%s' else 'case when %2$s <= %3$s then %1$s end' end,
                format('(select row_to_json(__row.*) from (select %s) __row)', replication.projection(t, alias)),
                coalesce(replication.size_expression(t, alias), '0'), largest)
$$;

-- Keys of numbers and the like are short; only others need the care of tombstone_key().
create or replace function replication.buried_key(t replication.replicated_tables, key text)
returns text language sql stable set search_path = pg_catalog, pg_temp as $$
  select case when bool_and(y.typlen > 0) then key else format('replication.tombstone_key(%s)', key) end
    from replication.data_columns(t) c join pg_type y on y.oid = c.type_id
   where c.attname = any(t.key_columns)
$$;

-- What an event tells of its row beyond the image, of a table that merges columns: see merge_event().
create or replace function replication.merge_expression(t replication.replicated_tables)
returns text language sql stable set search_path = pg_catalog, pg_temp as $$
  select format($sql$
       case when __operation <> 'SNAPSHOT' then (
         select case when m.image is not null
                       then jsonb_build_object('deleted', greatest(m.deleted, m.version)::text)
                     when __operation <> 'INSERT' then jsonb_strip_nulls(jsonb_build_object(
                       'versions', m.versions, 'totals', m.totals, 'bases', m.bases, 'deleted', m.deleted::text)) end
           from replication.merge_states m
          where m.table_name = %1$L and m.record_key = %2$s and __operation <> 'DELETE')
       else (  -- the whole state, also of a row that is as its INSERT made it
         select (k - 'row' - 'version' - 'deleted')
                || jsonb_strip_nulls(jsonb_build_object('deleted', k ->> 'deleted'))
           from replication.merge_known(
                  __payload::jsonb, __version,
                  (select m from replication.merge_states m where m.table_name = %1$L and m.record_key = %2$s),
                  (select b.version from replication.replication_tombstones b
                    where b.table_name = %1$L and b.record_key = %2$s and b.version > 1), %3$L, %4$L) k) end$sql$,
    t.table_name, replication.buried_key(t, '__key'), t.key_columns, t.delta_columns)
$$;

-- The common end of a capture statement: events into the queue, deleted keys into the tombstones.
-- `snapshot_to`: SQL of where a snapshot's events go; null for changes.
drop function if exists replication.queue_insert(
  replication.replicated_tables, text, boolean, boolean, text, text);
create or replace function replication.queue_insert(
  t replication.replicated_tables, events text, buries boolean, may_lack_image boolean, seed text, txid text,
  snapshot_to text default null)
returns text language sql stable set search_path = pg_catalog, pg_temp as $$
  select case when buries then format($sql$,
__buried as (
  insert into replication.replication_tombstones as s (table_name, record_key, long_key, version)
  select %1$L, %2$s, nullif(__key, %2$s), __version from __events where __operation = 'DELETE'
  on conflict on constraint replication_tombstones_pkey
  do update set version = greatest(s.version, excluded.version), deleted_at = excluded.deleted_at
)$sql$, t.table_name, replication.buried_key(t, '__key')) else '' end || format($sql$
insert into replication.replication_queue_%1$s
  (id, event_id, table_name, operation, record_key, payload, before, version, base_version, shard, shape,
   txid%9$s%11$s%2$s)
select __id, (%3$s || to_hex(140737488355328 + __id))::uuid, %4$L, __operation, __key, __payload, __before,
       __version, __base, (hashtext(__key) & 15)::smallint, %8$s, %5$s%10$s%12$s%6$s
  from %7$s$sql$,
    (select active_slot from replication.queue_ring),
    case when may_lack_image then ', held, parked_at, last_error' else '' end,
    seed, t.table_name, txid,
    case when may_lack_image then $sql$,
       __payload is null and __operation <> 'DELETE',
       case when __payload is null and __operation <> 'DELETE' then clock_timestamp() end,
       case when __payload is null and __operation <> 'DELETE'
            then 'the row is too large to be written as an event' end$sql$ else '' end,
    events, replication.shape_of(t),
    case when t.merge = 'columns' then ', merge' else '' end,
    case when t.merge = 'columns' then ',' || replication.merge_expression(t) else '' end,
    case when snapshot_to is null then '' else ', snapshot_to' end, coalesce(', ' || snapshot_to, ''))
$$;

-- The INSERT that queues the changes of one statement.
--   operation  INSERT; UPDATE; UPDATE IN PLACE, one that changed no key; DELETE; TRUNCATE, all rows of
--              the partition `source` as deletes
--   careful    INSERT and UPDATE: the form for everything that guard_expression() tells of. It compares
--              each key with its tombstone, and with the row of it that was displaced, and raises versions, by updating the replicated table
--              itself; the caller switches triggers off around it (session_replication_role, granted
--              to this role)
--   largest    rows with more bytes than this are queued without their image, parked
--   seed, txid, earliest
--              SQL of the first 20 digits of the statement's event ids, of the transaction id, and of the
--              lowest version that a row of an INSERT may have
--   guarded    queue nothing when guard_expression() says no; the caller sees by FOUND
--
-- The table's columns may be called anything: they appear only behind n., o. or t., and the names of
-- the statement's own begin with two underscores.
create or replace function replication.capture_statement(
  t replication.replicated_tables, operation text, careful boolean, largest bigint default null,
  source text default 'old_rows', seed text default '$1', txid text default '$2',
  earliest text default '$3', guarded boolean default false)
returns text language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  -- On the common ways a row's image is joined to it: a subquery in its place would be a plan of its own.
  in_line constant boolean := guarded and operation in ('INSERT', 'UPDATE IN PLACE');
  join_images constant text := case when in_line then
    format(' cross join lateral (select %s) __image', replication.projection(t, 'n'))
    || case when t.full_before and operation = 'UPDATE IN PLACE' then
         format(' cross join lateral (select %s) __old_image', replication.projection(t, 'o')) else '' end
    else '' end;
  image constant text := case when in_line then 'row_to_json(__image.*)'
                              else replication.image_expression(t, 'n', largest) end;
  old_image constant text := case when not t.full_before then 'null::json'
                                  when in_line then 'row_to_json(__old_image.*)'
                                  else replication.image_expression(t, 'o', largest) end;
  new_rows text := format(
    'select %s as __key, n.replication_version as __version, %s as __payload, %s from new_rows n%s',
    replication.key_expression(t, 'n'), image, replication.key_list(t, 'n.%2$I as __k%1$s', ', '),
    join_images);
  old_rows text := format(
    'select %s as __key, o.replication_version as __version, %s as __before, %s from %s o',
    replication.key_expression(t, 'o'), old_image, replication.key_list(t, 'o.%2$I as __k%1$s', ', '),
    source);
  -- yields __key, __payload, __before, __version, __base, __operation, and but for IN PLACE __k1, …
  changes text;
  same_row constant text := replication.key_match(t, 't.%2$I', 'c.__k%1$s');
  unchanged text := case
    when t.include is null and t.exclude is null then 'o.* *= n.*'
    else format('%s::text = %s::text', replication.image_expression(t, 'o', null),
                replication.image_expression(t, 'n', null)) end;
  guard constant text := case when guarded then replication.guard_expression(t, operation) end;
begin
  if largest is not null and replication.size_expression(t, 'n') is not null then
    -- Comparing would be too much as well: with its old version, such a row counts as unchanged.
    unchanged := format('case when greatest(%s, %s) > %s then true else %s end',
                        replication.size_expression(t, 'n'), replication.size_expression(t, 'o'), largest,
                        unchanged);
  end if;
  if operation = 'UPDATE' then
    -- A row that stayed as it was is on both sides. So is what came in between, where a statement
    -- changed a row twice, as two cascades do.
    new_rows := new_rows || format(
      ' where not exists (select from old_rows o where o.replication_version = n.replication_version and %s)',
      unchanged);
    old_rows := old_rows || format(
      ' where not exists (select from new_rows n where o.replication_version = n.replication_version and %s)',
      unchanged);
  end if;
  changes := case operation
    when 'INSERT' then format(
      'select __n.*, null::json as __before, null::bigint as __base, ''INSERT'' as __operation from (%s) __n',
      new_rows)
    when 'UPDATE IN PLACE' then format(
      'select %s as __key, %s as __payload, %s as __before, n.replication_version as __version, '
      '       o.replication_version as __base, ''UPDATE'' as __operation '
      '  from new_rows n full join old_rows o on %s%s',  -- no nested loop, whatever the cached plan thinks
      replication.key_expression(t, 'n'), image, old_image, replication.key_match(t, 'n.%2$I', 'o.%2$I'),
      join_images)
    when 'UPDATE' then format(
      'select coalesce(__n.__key, __o.__key) as __key, __n.__payload, __o.__before, '
      '       case when __n.__key is null then replication.next_version(__o.__version) '
      '            else __n.__version end as __version, __o.__version as __base, %4$s, '
      '       case when __o.__key is null then ''INSERT'' when __n.__key is null then ''DELETE'' '
      '            else ''UPDATE'' end as __operation '
      '  from (%1$s) __n full join (%2$s) __o on %3$s',
      new_rows, old_rows, replication.key_match(t, '__n.__k%1$s', '__o.__k%1$s'),
      replication.key_list(t, 'coalesce(__n.__k%1$s, __o.__k%1$s) as __k%1$s', ', '))
    else format(
      'select __o.__key, null::json as __payload, __o.__before, %2$s, '
      '       replication.next_version(__o.__version) as __version, __o.__version as __base, '
      '       ''DELETE'' as __operation from (%1$s) __o',
      old_rows, replication.key_list(t, '__o.__k%1$s', ', '))
    end;
  if operation in ('UPDATE', 'DELETE') then
    -- A trigger, or another part of the statement, may have brought a deleted key back; then the event
    -- of that tells the end of the story.
    changes := format(
      'select * from (%s) c where c.__operation <> ''DELETE'' or not exists (select from %s t where %s)',
      changes, t.relation, same_row);
  end if;

  if not careful then
    changes := format('select nextval(''replication.replication_queue_id_seq'') as __id, c.* from (%s) c%s',
                      changes, ' where ' || guard);
    if operation in ('INSERT', 'UPDATE IN PLACE') then
      return replication.queue_insert(t, format('(%s) __e', changes), false, largest is not null, seed, txid);
    end if;
    return format('with __events as (%s)', changes)
           || replication.queue_insert(t, '__events', true, largest is not null, seed, txid);
  end if;
  -- A new key is compared with its tombstone and with what was displaced, a key that changed hands with its
  -- former row. An inserted row with a version that is not of this contour and statement was given it by the
  -- application. A row that is no longer at its version was changed by a trigger since; that change has its
  -- own event.
  return format($sql$
with __changes as materialized (
  select c.*, (greatest(s.version, c.__base%7$s) >> 10) + 1 as __lifted_clock, %6$s as __forged
    from (%1$s) c
    left join replication.replication_tombstones s
      on s.table_name = %2$L and s.record_key = %5$s%8$s
   where c.__operation = 'DELETE' or exists (
     select from %3$s t where %4$s and t.replication_version is not distinct from c.__version)
),
__lifted as (
  update %3$s t
     set replication_version = greatest(c.__lifted_clock, case when c.__forged then replication.clock() end)
                               << 10 | (select id from replication.contour)
    from __changes c
   where %4$s and c.__operation <> 'DELETE'
     and (c.__forged or c.__version >> 10 < c.__lifted_clock)
     and t.replication_version is not distinct from c.__version
  returning c.__key, t.replication_version as __version
),
__events as (
  select nextval('replication.replication_queue_id_seq') as __id, c.__key, c.__payload, c.__before,
         coalesce(l.__version, c.__version) as __version, c.__base, c.__operation
    from __changes c left join __lifted l on l.__key = c.__key
   order by c.__operation <> 'DELETE'
)$sql$,
    changes, t.table_name, t.relation, same_row, replication.buried_key(t, 'c.__key'),
    case when operation = 'INSERT'
         then format('coalesce(c.__version & 1023 <> %s or c.__version < %s '
                     'or c.__version >> 10 > replication.clock(), true)',
                     (select id from replication.contour), earliest)
         else 'false' end,
    case when t.displace then ', d.version' end,
    case when t.displace then format($sql$
    left join replication.displaced_keys d
      on d.table_name = %L and d.record_key = %s$sql$, t.table_name, replication.buried_key(t, 'c.__key')) end)
    || replication.queue_insert(t, '__events', operation = 'UPDATE', largest is not null, seed, txid);
end $$;

-- Where a deleted key lives again, and the new row's version is not above the old one's because the
-- clock has been set back: raises it, in the row and in its event where that is queued already.
create or replace function replication.revive_statement(t replication.replicated_tables)
returns text language sql stable set search_path = pg_catalog, pg_temp as $$
  select format($sql$
with __found as materialized (
  select t.replication_version as __former, o.replication_version as __base, %5$s
    from old_rows o join %1$s t on %2$s
   where coalesce(t.replication_version, 0) <= o.replication_version
     for update of t
),
__lifted as (
  update %1$s t
     set replication_version = ((c.__base >> 10) + 1) << 10 | (select id from replication.contour)
    from __found c where %7$s
  returning %3$s as __key, %4$s as __payload, null::json as __before, t.replication_version as __version,
            c.__base, c.__former, 'UPDATE' as __operation
),
__raised as (
  update replication.replication_queue q set version = l.__version
    from __lifted l
   where q.shard = hashtext(l.__key) & 15 and q.txid = $2 and q.table_name = %6$L and q.record_key = l.__key and q.version = l.__former
     and not q.published
  returning q.record_key
)$sql$,
    t.relation, replication.key_match(t, 't.%2$I', 'o.%2$I'), replication.key_expression(t, 't'),
    replication.image_expression(t, 't', null), replication.key_list(t, 't.%2$I as __k%1$s', ', '),
    t.table_name, replication.key_match(t, 't.%2$I', 'c.__k%1$s'))
    || replication.queue_insert(
         t, '(select nextval(''replication.replication_queue_id_seq'') as __id, c.* from __lifted c '
            'where c.__key not in (select record_key from __raised)) __e',
         false, false, '$1', '$2')
$$;

-- Locks the tombstones of a statement's new keys, making them where there are none. Version 1 is older
-- than any write: such a row buries nothing. So with the keys of displaced rows.
create or replace function replication.lock_statement(t replication.replicated_tables, operation text)
returns text language sql stable set search_path = pg_catalog, pg_temp as $$
  select format(case when t.displace then $sql$
with __displaced as (
  insert into replication.displaced_keys as d (table_name, record_key, version)
  select %1$L, replication.tombstone_key(k.key), 1
    from (select %2$s as key from new_rows n %3$s) k order by 2
  on conflict on constraint displaced_keys_pkey do update set version = d.version
)$sql$ else '' end || $sql$
insert into replication.replication_tombstones as s (table_name, record_key, long_key, version)
select %1$L, replication.tombstone_key(k.key), nullif(k.key, replication.tombstone_key(k.key)), 1
  from (select %2$s as key from new_rows n %3$s) k order by 2
on conflict on constraint replication_tombstones_pkey do update set version = s.version$sql$,
    t.table_name, replication.key_expression(t, 'n'),
    case when operation = 'UPDATE' then format('where not exists (select from old_rows o where %s)',
      replication.key_match(t, 'n.%2$I', 'o.%2$I'))
    else '' end)
$$;
