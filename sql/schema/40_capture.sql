-- Capture: one AFTER STATEMENT trigger per operation writes a whole statement's changes at once.
--
-- Invariants
--   * In the user's transaction: an event exists exactly when its change is committed.
--   * Values travel as text that PostgreSQL made under pinned settings; forms as in docs/events.md.
--   * A key never lives at or below its tombstone: an inserted row whose version is not above the
--     tombstone of its key (a skewed clock, or a delete that committed while the insert waited for
--     it) is lifted above it, row and event alike, in one statement. So is a row whose version the
--     application gave.
--   * A column that was added, dropped, renamed or retyped is seen by the next statement.
--   * Nothing here can fail because of a value.
--   * Within a statement, the delete of a key comes before the insert of another.
--
-- The statements are generated for each table by capture_statement() and compiled into one function
-- per table, replication.capture_<table_id>(). When the table's columns have changed since, the same
-- generator makes the statement on the fly until refresh_capture() compiles it again.
--
-- Cost decides the form (docs/capture-cost.md): no CTE on the common ways, because one with nextval()
-- is materialized; randomness once a statement; the active partition of the queue by name, because
-- routing rows to it costs a tenth of all.

-- The shape of a table as a short text; changes with every change of a column.
--
-- Declared IMMUTABLE on purpose, although it reads the catalog: PostgreSQL then computes it while
-- planning and keeps it in the cached plan, and throws that plan away when the table is altered.
-- The check on every statement therefore costs nothing. It holds only in a query that also reads
-- the table or one of its transition tables, which is what ties the plan to the table.
create or replace function replication.table_fingerprint(relation regclass)
returns text language sql immutable set search_path = pg_catalog, pg_temp as $$
  select md5(concat(c.oid, ':', n.nspname, ':', c.relname, ':', k.conkey, ':', string_agg(
           concat_ws(':', a.attnum, a.attname, a.atttypid, a.atttypmod, a.attgenerated), ','
           order by a.attnum)))
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    join pg_attribute a on a.attrelid = c.oid
    left join pg_constraint k on k.conrelid = c.oid and k.contype = 'p'
   where c.oid = relation and a.attnum > 0 and not a.attisdropped
   group by c.oid, n.nspname, c.relname, k.conkey
$$;

create or replace function replication.base_type(type_id oid)
returns oid language sql stable set search_path = pg_catalog, pg_temp as $$
  with recursive chain as (
    select oid, typtype, typbasetype from pg_type where oid = type_id
    union all
    select t.oid, t.typtype, t.typbasetype from pg_type t join chain on t.oid = chain.typbasetype
     where chain.typtype = 'd'
  )
  select oid from chain where typtype <> 'd'
$$;

-- SQL that turns one column into its wire form: a JSON scalar where that is lossless, an array for
-- plain one-dimensional arrays, and PostgreSQL's text in a string for all else.
create or replace function replication.wire_expression(reference text, type_id oid)
returns text language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  base constant oid := replication.base_type(type_id);
  element constant oid := (select typelem from pg_type where oid = base and typsubscript = 'array_subscript_handler'::regproc);
  element_kind constant "char" := (select typtype from pg_type where oid = element);
  -- A cast to text may be the work of a user: it would decide what travels, and run with our rights.
  -- format() calls the output function.
  as_text constant text := case when base < 16384 then reference || '::text'
    else format('case when num_nulls(%1$s) = 0 then format(''%%s'', %1$s) end', reference) end;
begin
  if base in ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'bool'::regtype, 'text'::regtype,
              'varchar'::regtype, 'bpchar'::regtype, 'uuid'::regtype) then
    return reference;
  elsif base in ('float4'::regtype, 'float8'::regtype) then  -- JSON numbers have no negative zero
    return format('case when %1$s = 0 and %1$s::text = ''-0'' then to_json(''-0''::text) else to_json(%1$s) end',
                  reference);
  elsif base = 'timestamptz'::regtype then  -- UTC by the pinned TimeZone
    return format('case when %1$s >= ''0001-01-01Z''::timestamptz and %1$s < ''10000-01-01Z''::timestamptz '
                  'then replace(replace(%1$s::text, '' '', ''T''), ''+00'', ''Z'') else %1$s::text end',
                  reference);
  elsif base = 'timestamp'::regtype then
    return format('case when %1$s >= ''0001-01-01''::timestamp and %1$s < ''10000-01-01''::timestamp '
                  'then replace(%1$s::text, '' '', ''T'') else %1$s::text end', reference);
  elsif base = 'bytea'::regtype then
    return format('translate(encode(%s, ''base64''), E''\n'', '''')', reference);
  elsif element in ('json'::regtype, 'jsonb'::regtype) or element_kind in ('c', 'd') then
    return as_text;
  elsif element <> 0 then
    return format('case when array_ndims(%1$s) is null or (array_ndims(%1$s) = 1 and array_lower(%1$s, 1) = 1) '
                  'then %2$s else to_json(%3$s) end', reference,
                  case when element in ('float4'::regtype, 'float8'::regtype)
                       then format(
                         'case when ''0'' = any(%1$s) then regexp_replace(to_json(%1$s)::text, '
                         '''([[,])-0(?=[],])'', ''\1"-0"'', ''g'')::json else to_json(%1$s) end', reference)
                       when element in ('int2'::regtype, 'int4'::regtype, 'int8'::regtype,
                                        'bool'::regtype, 'text'::regtype, 'varchar'::regtype,
                                        'bpchar'::regtype, 'uuid'::regtype)
                       then format('to_json(%s)', reference)
                       else format('to_json(%s::text[])', case when base < 16384 then reference else as_text end)
                  end, as_text);
  end if;
  return as_text;
end $$;

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

-- A list over the key columns, such as `n.a = o.a and …`: in `form`, %1$s is the position of a column
-- and %2$I its name.
create or replace function replication.key_list(t replication.replicated_tables, form text, separator text)
returns text language sql stable set search_path = pg_catalog, pg_temp as $$
  select string_agg(format(form, k.position, k.name), separator order by k.position)
    from unnest(t.key_columns) with ordinality as k(name, position)
$$;

-- The same, comparing two sets of names. A type of the user's with an implicit cast may have no single =.
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

create or replace function replication.small_expression(
  t replication.replicated_tables, alias text, rows_of text)
returns text language sql stable set search_path = pg_catalog, pg_temp as $$
  select coalesce('not exists (select from ' || rows_of || ' ' || alias || ' where '
                  || replication.size_expression(t, alias) || ' > 262144)', 'true')
$$;

-- Whether the common way will do for the changes at hand, as SQL.
--   * No row is so large that its image may not fit into 1 GB.
--   * INSERT: all versions come from the column's default, and are above every tombstone; the
--     transaction sees the newest tombstones.
--   * UPDATE: the old and the new keys are the same, and every new version is above every old one. So
--     each row did change, once, and no key has a version from another row.
--   * No trigger has written to the table within the statement, see `nested`.
create or replace function replication.guard_expression(t replication.replicated_tables, operation text)
returns text language sql stable set search_path = pg_catalog, pg_temp as $$
  select concat_ws(' and ',
    case when operation <> 'DELETE' then
      format('current_setting(''replication.nested_%s'', true) is distinct from ''yes''', t.table_id) end,
    case operation
      when 'INSERT' then format(
        'current_setting(''transaction_isolation'') = ''read committed'' '
        'and not exists (select from new_rows n where (n.replication_version & 1023 = %1$s '
        'and n.replication_version > greatest(earliest, (select max(s.version) '
        'from replication.replication_tombstones s where s.table_name = %2$L)) '
        'and n.replication_version >> 10 <= clock) is not true%3$s)',
        (select id from replication.contour), t.table_name,
        ' or ' || replication.size_expression(t, 'n') || ' > 262144')
      when 'UPDATE IN PLACE' then format(
        '%3$s and (select (bit_xor(%1$s), min(n.replication_version) > '
        '(select max(o.replication_version) from old_rows o)) from new_rows n) '
        '= (select (bit_xor(%2$s), true) from old_rows o)',
        replication.key_hash(t, 'n'), replication.key_hash(t, 'o'),
        replication.small_expression(t, 'n', 'new_rows')) end,
    case when operation <> 'INSERT' and t.full_before
         then replication.small_expression(t, 'o', 'old_rows') end,
    case when operation = 'DELETE' and not t.full_before then 'true' end)
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

-- The common end of a capture statement: events into the queue, deleted keys into the tombstones.
create or replace function replication.queue_insert(
  t replication.replicated_tables, events text, buries boolean, may_lack_image boolean, seed text, txid text)
returns text language sql stable set search_path = pg_catalog, pg_temp as $$
  select case when buries then format($sql$,
__buried as (
  insert into replication.replication_tombstones as s (table_name, record_key, long_key, version)
  select %1$L, %2$s, nullif(__key, %2$s), __version from __events where __operation = 'DELETE'
  on conflict on constraint replication_tombstones_pkey
  do update set version = greatest(s.version, excluded.version), deleted_at = excluded.deleted_at
)$sql$, t.table_name, replication.buried_key(t, '__key')) else '' end || format($sql$
insert into replication.replication_queue_%1$s
  (id, event_id, table_name, operation, record_key, payload, before, version, base_version, shard, txid%2$s)
select __id, (%3$s || to_hex(140737488355328 + __id))::uuid, %4$L, __operation, __key, __payload, __before,
       __version, __base, (hashtext(__key) & 15)::smallint, %5$s%6$s
  from %7$s$sql$,
    (select active_slot from replication.queue_ring),
    case when may_lack_image then ', parked_at, last_error' else '' end,
    seed, t.table_name, txid,
    case when may_lack_image then $sql$,
       case when __payload is null and __operation <> 'DELETE' then clock_timestamp() end,
       case when __payload is null and __operation <> 'DELETE'
            then 'the row is too large to be written as an event' end$sql$ else '' end,
    events)
$$;

-- The INSERT that queues the changes of one statement.
--   operation  INSERT; UPDATE; UPDATE IN PLACE, one that changed no key; DELETE; TRUNCATE, all rows of
--              the partition `source` as deletes
--   careful    INSERT and UPDATE: the form for everything that guard_expression() tells of. It compares
--              each key with its tombstone and raises versions, by updating the replicated table
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
  image constant text := replication.image_expression(t, 'n', largest);
  old_image constant text := case when t.full_before then replication.image_expression(t, 'o', largest)
                                  else 'null::json' end;
  new_rows text := format(
    'select %s as __key, n.replication_version as __version, %s as __payload, %s from new_rows n',
    replication.key_expression(t, 'n'), image, replication.key_list(t, 'n.%2$I as __k%1$s', ', '));
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
      '  from new_rows n full join old_rows o on %s',  -- no nested loop, whatever the cached plan thinks
      replication.key_expression(t, 'n'), image, old_image, replication.key_match(t, 'n.%2$I', 'o.%2$I'))
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
  -- A new key is compared with its tombstone, a key that changed hands with its former row. An inserted
  -- row with a version that is not of this contour and statement was given it by the application. A row
  -- that is no longer at its version was changed by a trigger since; that change has its own event.
  return format($sql$
with __changes as materialized (
  select c.*, (greatest(s.version, c.__base) >> 10) + 1 as __lifted_clock, %6$s as __forged
    from (%1$s) c
    left join replication.replication_tombstones s
      on s.table_name = %2$L and s.record_key = %5$s
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
         else 'false' end)
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
-- than any write: such a row buries nothing.
create or replace function replication.lock_statement(t replication.replicated_tables, operation text)
returns text language sql stable set search_path = pg_catalog, pg_temp as $$
  select format($sql$
insert into replication.replication_tombstones as s (table_name, record_key, long_key, version)
select %L, replication.tombstone_key(k.key), nullif(k.key, replication.tombstone_key(k.key)), 1
  from (select %s as key from new_rows n %s) k order by 2
on conflict on constraint replication_tombstones_pkey do update set version = s.version$sql$,
    t.table_name, replication.key_expression(t, 'n'),
    case when operation = 'UPDATE' then format('where not exists (select from old_rows o where %s)',
      replication.key_match(t, 'n.%2$I', 'o.%2$I'))
    else '' end)
$$;

-- Column names after renames: a listed column that is gone by its name is looked for by its number.
create or replace function replication.current_names(relation regclass, names text[], attnums smallint[])
returns text[] language sql stable set search_path = pg_catalog, pg_temp as $$
  select case when names is not null then coalesce(array_agg(coalesce(
           (select a.attname from pg_attribute a
             where a.attrelid = relation and a.attname = l.name and a.attnum > 0 and not a.attisdropped),
           (select a.attname from pg_attribute a
             where a.attrelid = relation and a.attnum = l.attnum and not a.attisdropped),
           l.name) order by l.position), '{}') end
    from unnest(names, attnums) with ordinality as l(name, attnum, position)
$$;

-- A table with its primary key as it is now.
create or replace function replication.with_current_key(t replication.replicated_tables)
returns replication.replicated_tables language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  t.key_columns := coalesce(
    (select array_agg(a.attname::text order by k.position)
       from pg_constraint c
      cross join unnest(c.conkey) with ordinality k(attnum, position)
       join pg_attribute a on a.attrelid = c.conrelid and a.attnum = k.attnum
      where c.conrelid = t.relation and c.contype = 'p'),
    t.key_columns);
  return t;
end $$;

-- A table as it is registered, but with its key and the columns of its lists as they are called now.
create or replace function replication.current_table(of_table integer)
returns replication.replicated_tables language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  t replication.replicated_tables;
begin
  select * into t from replication.replicated_tables r where r.table_id = of_table;
  t.include := replication.current_names(t.relation, t.include, t.listed_attnums);
  t.exclude := replication.current_names(t.relation, t.exclude, t.listed_attnums);
  return replication.with_current_key(t);
end $$;

-- The settings that decide about the text of the table's values: pinned while capture runs. Each costs
-- half a microsecond a statement, so only those that matter are.
create or replace function replication.text_settings(t replication.replicated_tables)
returns table (setting text, value text)
language sql stable set search_path = pg_catalog, pg_temp as $$
  with kinds as (
    select case when y.typtype = 'e' or y.oid in
                     ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'bool'::regtype, 'text'::regtype,
                      'varchar'::regtype, 'bpchar'::regtype, 'uuid'::regtype, 'numeric'::regtype,
                      'json'::regtype, 'jsonb'::regtype, 'bytea'::regtype, 'inet'::regtype,
                      'cidr'::regtype) then 'plain'
                when y.oid in ('float4'::regtype, 'float8'::regtype) then 'float'
                when y.oid in ('date'::regtype, 'timestamp'::regtype) then 'date'
                when y.oid = 'timestamptz'::regtype then 'zoned'
                else 'other' end as kind
      from replication.data_columns(t) c
      join pg_type y on y.oid = replication.base_type(c.type_id)
  )
  select s.setting, s.value
    from (values ('DateStyle', 'ISO, YMD', '{date,zoned,other}'::text[]),
                 ('TimeZone', 'UTC', '{zoned,other}'),
                 ('extra_float_digits', '1', '{float,other}'),
                 ('IntervalStyle', 'postgres', '{other}'), ('bytea_output', 'hex', '{other}'),
                 ('lc_monetary', 'C', '{other}'), ('array_nulls', 'on', '{other}'),
                 ('quote_all_identifiers', 'off', '{other}'))
           as s(setting, value, matters)
   where exists (select from kinds where kind = any(s.matters))
$$;

-- Compiles the capture function of one table.
create or replace function replication.refresh_capture(t replication.replicated_tables)
returns void language plpgsql set search_path = pg_catalog, pg_temp as $refresh$
declare
  function_name constant text := format('replication.%I', 'capture_' || t.table_id);
  c constant replication.contour := (select c from replication.contour c);
begin
  -- Two sessions that replace a function at once fail; the second one must see what the first has done.
  perform pg_advisory_xact_lock(hashtext('replication.capture'), t.table_id);
  t := replication.current_table(t.table_id);
  if replication.key_expression(t, 'n') is null
     or cardinality(t.key_columns) > (select count(*) from replication.data_columns(t) d
                                       where d.attname = any(t.key_columns)) then
    raise exception using errcode = 'object_not_in_prerequisite_state',
      message = format('table %s is replicated, and needs its primary key', t.relation),
      hint = 'Give it another primary key in the same statement, or remove_table_from_replication() first.';
  end if;
  -- The table is named by its OID, so that a rename between two statements can't break the function.
  execute format($sql$
create or replace function %1$s() returns trigger language plpgsql security definer
set search_path = pg_catalog, pg_temp %2$s
as %3$L $sql$,
    function_name,
    (select string_agg(format('set %I = %L', setting, value), ' ') from replication.text_settings(t)),
    format($sql$
#variable_conflict use_variable
declare
  clock constant bigint := replication.clock();
  -- Event ids are UUIDs of version 8: time in 16 µs, contour, incarnation, queue id. After a restore the
  -- ids come again, the time does not.
  seed constant text := to_hex(clock >> 4) || %3$L;
  txid constant bigint := pg_current_xact_id()::text::bigint;
  -- Versions of this statement are not lower; a second is for a clock that is set back.
  earliest constant bigint := (clock - 1000000
    - (date_part('epoch', clock_timestamp() - statement_timestamp()) * 1000000)::bigint) << 10;
  salt bigint;
  shape text;
  compiled boolean;   -- whether the statements below know the table as it is
  -- A snapshot taken at the transaction's beginning may not show the newest tombstone of a key. Such
  -- writers lock the tombstones of new keys, and fail with a serialization error if one is newer.
  careful boolean;
  replication_role text;
  queued bigint;
  large boolean := false;
  largest bigint;
  registered replication.replicated_tables;
  pinned text[];
begin
  if tg_relid <> %1$s and pg_partition_root(tg_relid) is distinct from %1$s::regclass then
    if not exists (select from replication.replicated_tables r where r.table_id = %5$s
                      and r.relation in (tg_relid, pg_partition_root(tg_relid))) then
      return null;  -- a partition that has been detached
    end if;
    -- Restored from a dump: the table has another OID than this function was made for.
  end if;
  if pg_trigger_depth() > 1 then
    perform set_config('replication.nested_%5$s', 'yes', true);
  end if;
  if tg_op = 'DELETE' then
    select replication.table_fingerprint(%1$s::regclass) into shape from old_rows limit 1;
  else
    select replication.table_fingerprint(%1$s::regclass) into shape from new_rows limit 1;
  end if;
  if not found then
    return null;
  end if;
  compiled := coalesce(shape = %2$L, false);
  if compiled then  -- the common way: one statement, which queues nothing if it will not do
    if tg_op = 'INSERT' then
%6$s;
    elsif tg_op = 'UPDATE' then
      salt := hashtextextended(seed, %4$s);
%7$s;
    else
%8$s;
      get diagnostics queued = row_count;
%15$s
      if queued = (select count(*) from old_rows) then
        return null;
      end if;
    end if;
    if found and tg_op <> 'DELETE' then
      return null;
    end if;
  end if;

  careful := current_setting('transaction_isolation') <> 'read committed';
  replication_role := current_setting('session_replication_role');
  if careful and tg_op <> 'DELETE' then
    if not compiled then
      execute replication.lock_statement(replication.current_table(%5$s), tg_op);
    elsif tg_op = 'INSERT' then
%13$s;
    else
%14$s;
    end if;
  end if;
  perform set_config('session_replication_role', 'replica', true);
  if not compiled then
    null;
  elsif tg_op = 'INSERT' then
    large := not %9$s;
  elsif tg_op = 'UPDATE' then
    large := not (%9$s and %10$s);
  else
    large := not %10$s;
  end if;
  if not compiled or large then
    -- The columns have changed since, or a row is so large that its image may not fit into 1 GB. Those
    -- are tried whole first, then without the images of the largest.
    registered := replication.current_table(%5$s);
    pinned := array(select array[s.setting, current_setting(s.setting), s.value]
                      from replication.text_settings(registered) s);
    for i in 1 .. coalesce(array_length(pinned, 1), 0) loop
      perform set_config(pinned[i][1], pinned[i][3], true);
    end loop;
    foreach largest in array array[null, 16777216, 262144] loop
      begin
        execute replication.capture_statement(registered, tg_op, tg_op <> 'DELETE', largest)
          using seed, txid, earliest;
        exit;
      exception when program_limit_exceeded or internal_error or out_of_memory then
        if largest = 262144 then
          raise;
        end if;
      end;
    end loop;
    for i in 1 .. coalesce(array_length(pinned, 1), 0) loop
      perform set_config(pinned[i][1], pinned[i][2], true);
    end loop;
  elsif tg_op = 'INSERT' then
%11$s;
  elsif tg_op = 'UPDATE' then
%12$s;
  end if;
  if tg_op = 'DELETE' then
    execute replication.revive_statement(replication.current_table(%5$s)) using seed, txid;
    perform set_config('replication.nested_%5$s', 'yes', true);
  end if;
  perform set_config('session_replication_role', replication_role, true);
  return null;
end $sql$,
    t.relation::oid, replication.table_fingerprint(t.relation),
    '80' || lpad(to_hex(c.id & 255), 2, '0') || to_hex(8 + (c.id >> 8)) || left(c.incarnation::text, 3),
    hashtextextended(c.incarnation::text, 0), t.table_id,
    replication.capture_statement(t, 'INSERT', false, null, 'old_rows', 'seed', 'txid', 'earliest', true),
    replication.capture_statement(t, 'UPDATE IN PLACE', false, null, 'old_rows', 'seed', 'txid', 'earliest', true),
    replication.capture_statement(t, 'DELETE', false, null, 'old_rows', 'seed', 'txid', 'earliest', true),
    replication.small_expression(t, 'n', 'new_rows'),
    case when t.full_before then replication.small_expression(t, 'o', 'old_rows') else 'true' end,
    replication.capture_statement(t, 'INSERT', true, null, 'old_rows', 'seed', 'txid', 'earliest', false),
    replication.capture_statement(t, 'UPDATE', true, null, 'old_rows', 'seed', 'txid', 'earliest', false),
    replication.lock_statement(t, 'INSERT'), replication.lock_statement(t, 'UPDATE'),
    -- A cascade from a table into itself may have changed rows that it deleted afterwards.
    case when exists (select from pg_constraint k where k.contype = 'f' and k.conrelid = t.relation
                         and k.confrelid = t.relation)
         then format('      perform set_config(''replication.nested_%s'', ''yes'', true);', t.table_id) end));
  execute format('alter function %s() owner to replication_owner', function_name);
  execute format('revoke all on function %s() from public', function_name);
  execute format('comment on function %s() is %L', function_name,
                 'Capture trigger of ' || t.table_name || '; generated by replication.refresh_capture.');
  update replication.replicated_tables r
     set fingerprint = replication.table_fingerprint(t.relation),
         compiled_slot = (select active_slot from replication.queue_ring),
         key_columns = t.key_columns, include = t.include, exclude = t.exclude,
         listed_attnums = (select array_agg(a.attnum order by l.position)
                             from unnest(coalesce(t.include, t.exclude)) with ordinality as l(name, position)
                             left join pg_attribute a on a.attrelid = t.relation and a.attname = l.name)
   where r.table_id = t.table_id;
end $refresh$;
