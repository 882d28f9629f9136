CREATE SCHEMA replication;
ALTER SCHEMA replication OWNER TO postgres;
CREATE FUNCTION replication.base_type(type_id oid) RETURNS oid
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  with recursive chain as (
    select oid, typtype, typbasetype from pg_type where oid = type_id
    union all
    select t.oid, t.typtype, t.typbasetype from pg_type t join chain on t.oid = chain.typbasetype
     where chain.typtype = 'd'
  )
  select oid from chain where typtype <> 'd'
$$;
ALTER FUNCTION replication.base_type(type_id oid) OWNER TO postgres;
CREATE TABLE replication.replicated_tables (
    table_id integer NOT NULL,
    table_name text NOT NULL,
    relation regclass NOT NULL,
    key_columns text[] NOT NULL,
    full_before boolean DEFAULT false NOT NULL,
    include text[],
    exclude text[],
    compiled_slot smallint,
    listed_attnums smallint[],
    granted text[] DEFAULT '{}'::text[] NOT NULL,
    capture_truncate boolean DEFAULT false NOT NULL,
    displace boolean DEFAULT false NOT NULL,
    fingerprint text NOT NULL,
    set_up_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    merge text DEFAULT 'row'::text NOT NULL,
    delta_columns text[] DEFAULT '{}'::text[] NOT NULL,
    CONSTRAINT replicated_tables_key_columns_check CHECK ((cardinality(key_columns) > 0)),
    CONSTRAINT replicated_tables_merge_check CHECK ((merge = ANY (ARRAY['row'::text, 'columns'::text])))
);
ALTER TABLE replication.replicated_tables OWNER TO replication_owner;
CREATE FUNCTION replication.buried_key(t replication.replicated_tables, key text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select case when bool_and(y.typlen > 0) then key else format('replication.tombstone_key(%s)', key) end
    from replication.data_columns(t) c join pg_type y on y.oid = c.type_id
   where c.attname = any(t.key_columns)
$$;
ALTER FUNCTION replication.buried_key(t replication.replicated_tables, key text) OWNER TO postgres;
CREATE FUNCTION replication.capture_statement(t replication.replicated_tables, operation text, careful boolean, largest bigint DEFAULT NULL::bigint, source text DEFAULT 'old_rows'::text, seed text DEFAULT '$1'::text, txid text DEFAULT '$2'::text, earliest text DEFAULT '$3'::text, guarded boolean DEFAULT false) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
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
end $_$;
ALTER FUNCTION replication.capture_statement(t replication.replicated_tables, operation text, careful boolean, largest bigint, source text, seed text, txid text, earliest text, guarded boolean) OWNER TO postgres;
CREATE FUNCTION replication.capture_truncate() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  t replication.replicated_tables;
  largest bigint;
  former text[];
begin
  t := replication.current_table(tg_argv[0]::integer);
  if t.table_id is null or tg_relid <> t.relation and pg_partition_root(tg_relid) is distinct from t.relation then
    return null;  -- a partition that has been detached
  end if;
  if not t.capture_truncate then
    raise exception using errcode = 'feature_not_supported', table = tg_table_name,
      message = format('table %I.%I is replicated, and its TRUNCATE is not captured',
                       tg_table_schema, tg_table_name),
      hint = 'DELETE FROM the table, or set it up with capture_truncate => true.';
  end if;
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception using errcode = 'feature_not_supported', table = tg_table_name,
      message = format('TRUNCATE of the replicated table %I.%I needs the isolation level read committed',
                       tg_table_schema, tg_table_name),
      hint = 'Begin it with READ COMMITTED: rows that a snapshot does not show would vanish here and stay '
             'elsewhere.';
  end if;
  former := replication.pin_text_settings(t);
  foreach largest in array array[null, 262144] loop
    begin
      execute replication.capture_statement(t, 'TRUNCATE', false, largest,
                                            source => format('only %s', tg_relid::regclass))
        using overlay(left(gen_random_uuid()::text, 24) placing '8' from 15), pg_current_xact_id()::text::bigint;
      exit;
    exception when program_limit_exceeded or internal_error or out_of_memory then
      if largest is not null then
        raise;
      end if;
    end;
  end loop;
  perform replication.restore_settings(former);
  return null;
end $$;
ALTER FUNCTION replication.capture_truncate() OWNER TO replication_owner;
CREATE FUNCTION replication.check_snapshot(t replication.replicated_tables, leaf oid, send_to text) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
begin
  if t.table_id is null or leaf is distinct from t.relation::oid
                           and pg_partition_root(leaf::regclass) is distinct from t.relation then
    raise exception using errcode = 'object_not_in_prerequisite_state',
      message = 'the table is not replicated any more';
  end if;
  if send_to !~ '^[a-z][a-z0-9_]{0,30}$' then
    raise exception using errcode = 'invalid_parameter_value', message = 'no name of a contour';
  end if;
end $_$;
ALTER FUNCTION replication.check_snapshot(t replication.replicated_tables, leaf oid, send_to text) OWNER TO postgres;
CREATE FUNCTION replication.clock() RETURNS bigint
    LANGUAGE sql PARALLEL SAFE
    AS $$ select (pg_catalog.date_part('epoch', pg_catalog.clock_timestamp()) operator(pg_catalog.*) 1000000)::pg_catalog.int8 $$;
ALTER FUNCTION replication.clock() OWNER TO postgres;
CREATE FUNCTION replication.clock_expression(clock_offset interval, source text DEFAULT 'clock_timestamp'::text) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select format('(pg_catalog.date_part(''epoch'', pg_catalog.%I()) operator(pg_catalog.*) 1000000)'
                '::pg_catalog.int8', source)
         || case when clock_offset = '0' then ''
                 else format(' operator(pg_catalog.+) %s', (extract(epoch from clock_offset) * 1000000)::bigint) end
$$;
ALTER FUNCTION replication.clock_expression(clock_offset interval, source text) OWNER TO postgres;
CREATE FUNCTION replication.current_names(relation regclass, names text[], attnums smallint[]) RETURNS text[]
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select case when names is not null then coalesce(array_agg(coalesce(
           (select a.attname from pg_attribute a
             where a.attrelid = relation and a.attname = l.name and a.attnum > 0 and not a.attisdropped),
           (select a.attname from pg_attribute a
             where a.attrelid = relation and a.attnum = l.attnum and not a.attisdropped),
           l.name) order by l.position), '{}') end
    from unnest(names, attnums) with ordinality as l(name, attnum, position)
$$;
ALTER FUNCTION replication.current_names(relation regclass, names text[], attnums smallint[]) OWNER TO postgres;
CREATE FUNCTION replication.current_table(of_table integer) RETURNS replication.replicated_tables
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  t replication.replicated_tables;
begin
  select * into t from replication.replicated_tables r where r.table_id = of_table;
  t.include := replication.current_names(t.relation, t.include, t.listed_attnums);
  t.exclude := replication.current_names(t.relation, t.exclude, t.listed_attnums);
  if t.merge = 'columns' then  -- which has none of the two lists above
    t.delta_columns := replication.current_names(t.relation, t.delta_columns, t.listed_attnums);
  end if;
  return replication.with_current_key(t);
end $$;
ALTER FUNCTION replication.current_table(of_table integer) OWNER TO postgres;
CREATE FUNCTION replication.data_columns(t replication.replicated_tables) RETURNS TABLE(attnum smallint, attname name, type_id oid)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select attnum, attname, atttypid
    from pg_attribute
   where attrelid = t.relation and attnum > 0 and not attisdropped and attgenerated = ''
     and attname <> 'replication_version'
     and (attname = any(t.key_columns)
          or (t.include is null or attname = any(t.include))
             and (t.exclude is null or attname <> all(t.exclude)))
   order by attnum
$$;
ALTER FUNCTION replication.data_columns(t replication.replicated_tables) OWNER TO postgres;
CREATE FUNCTION replication.drop_functions(t replication.replicated_tables) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
  execute format('drop function if exists replication.%I()', 'capture_' || t.table_id);
  if t.merge = 'columns' then
    execute format('drop function if exists replication.%I()', 'merge_' || t.table_id);
    delete from replication.merge_states m where m.table_name = t.table_name;
  end if;
end $$;
ALTER FUNCTION replication.drop_functions(t replication.replicated_tables) OWNER TO postgres;
CREATE FUNCTION replication.drop_triggers(part regclass) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  trigger_name text;
begin
  for trigger_name in
    select g.tgname from pg_trigger g join pg_proc p on p.oid = g.tgfoid
     where g.tgrelid = part and not g.tgisinternal and g.tgparentid = 0
       and p.pronamespace = 'replication'::regnamespace
  loop
    execute format('drop trigger %I on %s', trigger_name, part);
  end loop;
  if (select relispartition from pg_class where oid = part) then
    execute format('revoke select on %s from replication_owner', part);
  end if;
end $$;
ALTER FUNCTION replication.drop_triggers(part regclass) OWNER TO postgres;
CREATE FUNCTION replication.earliest_version() RETURNS bigint
    LANGUAGE sql PARALLEL SAFE
    AS $$ select ((pg_catalog.date_part('epoch', pg_catalog.statement_timestamp()) operator(pg_catalog.*) 1000000)::pg_catalog.int8 operator(pg_catalog.-) 1000000) operator(pg_catalog.<<) 10 $$;
ALTER FUNCTION replication.earliest_version() OWNER TO postgres;
CREATE TABLE replication.contour (
    only_row boolean DEFAULT true NOT NULL,
    name text NOT NULL,
    id integer NOT NULL,
    incarnation uuid DEFAULT gen_random_uuid() NOT NULL,
    schema_version integer NOT NULL,
    installed_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    upgraded_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT contour_id_check CHECK (((id >= 1) AND (id <= 1023))),
    CONSTRAINT contour_name_check CHECK ((name ~ '^[a-z][a-z0-9_]{0,30}$'::text)),
    CONSTRAINT contour_only_row_check CHECK (only_row)
);
ALTER TABLE replication.contour OWNER TO replication_owner;
CREATE FUNCTION replication.event_origin(c replication.contour) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select '80' || lpad(to_hex(c.id & 255), 2, '0') || to_hex(8 + (c.id >> 8)) || left(c.incarnation::text, 3)
$$;
ALTER FUNCTION replication.event_origin(c replication.contour) OWNER TO postgres;
CREATE FUNCTION replication.event_value(operation text, record_key text, before json, payload json, head text, txid bigint, created_at timestamp with time zone, event_id uuid, version bigint, base_version bigint, shape integer, merge jsonb, snapshot_to text, sent bigint) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
  select '{"before":' || coalesce(before::text,
                                  case when operation in ('UPDATE', 'DELETE') then record_key else 'null' end)
         || ',"after":' || coalesce(payload::text, 'null')
         || (',"source":' || head || ',"txId":' || txid
             || ',"ts_ms":' || (pg_catalog.date_part('epoch', created_at) operator(pg_catalog.*) 1000)::bigint
             || ',"event_id":"' || event_id
             || '","row_version":"' || version
             || coalesce('","base_version":"' || base_version || '"', '","base_version":null')
             || coalesce(',"schema_fingerprint":"' || to_hex(shape) || '"', '')
             || coalesce(',"merge":' || merge::text, '')
             || case when snapshot_to is null then '' when snapshot_to = '*' then ',"snapshot":"incremental"'
                     else ',"snapshot":"incremental","to":"' || snapshot_to || '"' end
             || case operation when 'INSERT' then '},"op":"c","ts_ms":' when 'UPDATE' then '},"op":"u","ts_ms":'
                               when 'DELETE' then '},"op":"d","ts_ms":' else '},"op":"r","ts_ms":' end
             || sent || '}')
$$;
ALTER FUNCTION replication.event_value(operation text, record_key text, before json, payload json, head text, txid bigint, created_at timestamp with time zone, event_id uuid, version bigint, base_version bigint, shape integer, merge jsonb, snapshot_to text, sent bigint) OWNER TO postgres;
CREATE FUNCTION replication.follow_ddl() RETURNS event_trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  concerned constant integer[] := case when tg_tag not like 'DROP %' then array(
    select distinct r.table_id
      from pg_event_trigger_ddl_commands() d
      join replication.replicated_tables r
        on d.classid = 'pg_class'::regclass and r.relation in (d.objid, pg_partition_root(d.objid))
           or d.classid = 'pg_namespace'::regclass
              and d.objid = (select c.relnamespace from pg_class c where c.oid = r.relation)) end;
begin
  if concerned is null then
    perform replication.forget_dropped_tables();
  elsif cardinality(concerned) > 0 then
    perform replication.follow_schema_changes(may_alter => true, only_tables => concerned);
  end if;
end $$;
ALTER FUNCTION replication.follow_ddl() OWNER TO postgres;
CREATE FUNCTION replication.follow_schema_changes(may_alter boolean DEFAULT false, only_tables integer[] DEFAULT NULL::integer[]) RETURNS integer
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  t replication.replicated_tables;
  part regclass;
  followed integer := 0;
begin
  perform replication.forget_dropped_tables();
  for t in
    select * from replication.replicated_tables r where only_tables is null or r.table_id = any(only_tables)
  loop
    if t.fingerprint is distinct from replication.table_fingerprint(t.relation)
       or t.compiled_slot is distinct from (select active_slot from replication.queue_ring) then
      continue when not may_alter
        and (not pg_try_advisory_xact_lock(hashtext('replication.capture'), t.table_id)
             or not exists (select from pg_constraint k where k.conrelid = t.relation and k.contype = 'p'));
      perform replication.refresh_capture(t.table_id);
      if may_alter then
        perform replication.put_stamps(t.relation);
        perform replication.grant_rights(t.table_id);
      end if;
      followed := followed + 1;
    end if;
    continue when not may_alter;
    if exists (select from pg_class l
                where l.relrowsecurity and l.oid in (select replication.parts_of(t.relation))) then
      raise exception using errcode = 'object_not_in_prerequisite_state',
        message = format('table %s is replicated, and can''t have row level security', t.relation),
        hint = 'Policies would hide rows from capture and from the applier. '
               'remove_table_from_replication() first.';
    end if;
    if exists (select from pg_class c where c.oid = t.relation and c.relkind = 'p'
                  and not has_function_privilege(c.relowner, 'replication.stamp_update()', 'execute')) then
      perform replication.grant_rights(t.table_id);
    end if;
    for part in
      select p.relid from pg_partition_tree(t.relation) p
       where not exists (select from pg_trigger g where g.tgrelid = p.relid
                            and g.tgfoid = (select f.tgfoid from pg_trigger f where f.tgrelid = t.relation
                                               and f.tgname = 'replication_capture_insert'))
    loop
      perform replication.put_capture_triggers(t, part);
      followed := followed + 1;
    end loop;
  end loop;
  if may_alter then
    for part in  -- partitions that were detached
      select g.tgrelid
        from pg_trigger g join pg_class c on c.oid = g.tgrelid join pg_proc p on p.oid = g.tgfoid
       where g.tgname = 'replication_capture_insert' and p.pronamespace = 'replication'::regnamespace
         and not exists (select from replication.replicated_tables r
                          where r.relation in (g.tgrelid, pg_partition_root(g.tgrelid)))
    loop
      perform replication.drop_triggers(part);
      followed := followed + 1;
    end loop;
  end if;
  return followed;
end $$;
ALTER FUNCTION replication.follow_schema_changes(may_alter boolean, only_tables integer[]) OWNER TO postgres;
CREATE FUNCTION replication.forget_dropped_tables() RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  dropped replication.replicated_tables;
begin
  for dropped in
    delete from replication.replicated_tables r
     where not exists (select from pg_class c where c.oid = r.relation) returning *
  loop
    perform replication.drop_functions(dropped);
  end loop;
end $$;
ALTER FUNCTION replication.forget_dropped_tables() OWNER TO postgres;
CREATE FUNCTION replication.grant_rights(of_table integer) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  t replication.replicated_tables;
  wanted record;
begin
  select * into t from replication.replicated_tables r where r.table_id = of_table;
  -- Who adds a partition needs the right to have its row trigger copied.
  if (select relkind from pg_class where oid = t.relation) = 'p' then
    execute format('grant execute on function replication.stamp_update(), '
                   'replication.stamp_update_of_captured() to %s',
                   (select relowner::regrole from pg_class where oid = t.relation));
  end if;
  for wanted in
    select w.role, w.privilege, c.relnamespace,
           case w.privilege when 'USAGE' then format('schema %s', c.relnamespace::regnamespace)
                else format('table %s', t.relation) end as object,
           case w.privilege when 'USAGE' then n.nspacl else c.relacl end as acl
      from (select 'replication_consumer', unnest('{USAGE,SELECT,INSERT,UPDATE,DELETE}'::text[])
            union all
            select 'replication_owner', unnest('{USAGE,SELECT,UPDATE}'::text[])) as w(role, privilege)
      join pg_class c on c.oid = t.relation
      join pg_namespace n on n.oid = c.relnamespace
  loop
    continue when exists (select from aclexplode(wanted.acl) a
                           where a.grantee = wanted.role::regrole and a.privilege_type = wanted.privilege);
    execute format('grant %s on %s to %I', wanted.privilege, wanted.object, wanted.role);
    update replication.replicated_tables r
       set granted = array_append(array_remove(r.granted, wanted.privilege || ' ' || wanted.role),
                                  wanted.privilege || ' ' || wanted.role)
     where r.table_id = of_table;
    if not (case wanted.privilege
              when 'USAGE' then has_schema_privilege(wanted.role, wanted.relnamespace, 'usage')
              else has_table_privilege(wanted.role, t.relation, wanted.privilege) end) then
      raise exception using errcode = 'insufficient_privilege',
        message = format('%s on %s can''t be granted to %s', wanted.privilege, wanted.object, wanted.role),
        hint = 'Run this as the owner of both, or let the owner grant it first.';
    end if;
  end loop;
end $$;
ALTER FUNCTION replication.grant_rights(of_table integer) OWNER TO postgres;
CREATE FUNCTION replication.guard_expression(t replication.replicated_tables, operation text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
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
$_$;
ALTER FUNCTION replication.guard_expression(t replication.replicated_tables, operation text) OWNER TO postgres;
CREATE FUNCTION replication.image_expression(t replication.replicated_tables, alias text, largest bigint) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
  select format(case when largest is null then '%s' else 'case when %2$s <= %3$s then %1$s end' end,
                format('(select row_to_json(__row.*) from (select %s) __row)', replication.projection(t, alias)),
                coalesce(replication.size_expression(t, alias), '0'), largest)
$_$;
ALTER FUNCTION replication.image_expression(t replication.replicated_tables, alias text, largest bigint) OWNER TO postgres;
CREATE FUNCTION replication.install_clock(clock_offset interval DEFAULT '00:00:00'::interval) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
declare
  contour_id constant integer := (select id from replication.contour);
  clock constant text := replication.clock_expression(clock_offset);
  registered regclass;
begin
  execute format($sql$
    create or replace function replication.next_version(predecessor bigint)
    returns bigint language sql volatile parallel safe as
    $body$ select (greatest(%s, (predecessor operator(pg_catalog.>>) 10) operator(pg_catalog.+) 1)
                     operator(pg_catalog.<<) 10) operator(pg_catalog.|) %s::pg_catalog.int8 $body$ $sql$, clock, contour_id);
  -- Clock of this contour in µs.
  execute format('create or replace function replication.clock() returns bigint language sql volatile '
                 'parallel safe as $body$ select %s $body$', clock);
  -- Versions made by the running statement are not lower; a second is for a clock that is set back.
  execute format('create or replace function replication.earliest_version() returns bigint language sql '
                 'volatile parallel safe as $body$ select (%s operator(pg_catalog.-) 1000000) '
                 'operator(pg_catalog.<<) 10 $body$',
                 replication.clock_expression(clock_offset, 'statement_timestamp'));
  -- BEFORE UPDATE, of every replicated table. Runs as the writing role, which needs no right for it:
  -- nothing but pg_catalog is called. The name of the trigger sorts last, so that it sees the row as
  -- it will be stored.
  --
  -- An UPDATE that changes nothing keeps its version: it is no event, and must not win over a real
  -- change made elsewhere. *= compares images, so it needs no equality operator (json, point).
  execute format($sql$
    create or replace function replication.stamp_update() returns trigger language plpgsql as $body$
    begin
      new.replication_version := old.replication_version;
      if not (new operator(pg_catalog.*=) old) then
        new.replication_version := (greatest(%s, (old.replication_version operator(pg_catalog.>>) 10)
          operator(pg_catalog.+) 1) operator(pg_catalog.<<) 10) operator(pg_catalog.|) %s::pg_catalog.int8;
      end if;
      return new;
    end $body$ $sql$, clock, contour_id);
  -- For tables with columns that don't count: generated ones, which a BEFORE trigger does not see
  -- computed yet, and those that are not captured. The argument is a JSON object of them, all null.
  execute format($sql$
    create or replace function replication.stamp_update_of_captured() returns trigger language plpgsql
    as $body$
    begin
      new.replication_version := old.replication_version;
      if not (pg_catalog.jsonb_populate_record(new, tg_argv[0]::pg_catalog.jsonb)
              operator(pg_catalog.*=)
              pg_catalog.jsonb_populate_record(old, tg_argv[0]::pg_catalog.jsonb)) then
        new.replication_version := (greatest(%s, (old.replication_version operator(pg_catalog.>>) 10)
          operator(pg_catalog.+) 1) operator(pg_catalog.<<) 10) operator(pg_catalog.|) %s::pg_catalog.int8;
      end if;
      return new;
    end $body$ $sql$, clock, contour_id);
  for registered in
    select relation from replication.replicated_tables t join pg_class c on c.oid = t.relation
     where pg_has_role(current_user, c.relowner, 'usage')  -- else the end of 50_setup_table.sql says so
  loop
    perform replication.put_stamps(registered, clock_offset);
  end loop;
end $_$;
ALTER FUNCTION replication.install_clock(clock_offset interval) OWNER TO postgres;
CREATE FUNCTION replication.key_expression(t replication.replicated_tables, alias text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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
ALTER FUNCTION replication.key_expression(t replication.replicated_tables, alias text) OWNER TO postgres;
CREATE FUNCTION replication.key_hash(t replication.replicated_tables, alias text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select format('hashtextextended(%s, salt)',
                case when count(*) = 1 and bool_and(replication.base_type(c.type_id)
                                                      in ('int2'::regtype, 'int4'::regtype, 'int8'::regtype))
                     then format('%s.%I::text', alias, min(c.attname::text))
                     else replication.key_expression(t, alias) end)
    from replication.data_columns(t) c where c.attname = any(t.key_columns)
$$;
ALTER FUNCTION replication.key_hash(t replication.replicated_tables, alias text) OWNER TO postgres;
CREATE FUNCTION replication.key_list(t replication.replicated_tables, form text, separator text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select string_agg(format(form, k.position, k.name), separator order by k.position)
    from unnest(t.key_columns) with ordinality as k(name, position)
$$;
ALTER FUNCTION replication.key_list(t replication.replicated_tables, form text, separator text) OWNER TO postgres;
CREATE FUNCTION replication.key_match(t replication.replicated_tables, one text, other text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select string_agg(
           format(case when c.type_id >= 16384
                            and exists (select from pg_cast where castsource = c.type_id and castcontext = 'i')
                       then 'format(''%%s'', %s) = format(''%%s'', %s)' else '%s = %s' end,
                  format(one, k.position, k.name), format(other, k.position, k.name)),
           ' and ' order by k.position)
    from unnest(t.key_columns) with ordinality as k(name, position)
    join replication.data_columns(t) c on c.attname = k.name
$$;
ALTER FUNCTION replication.key_match(t replication.replicated_tables, one text, other text) OWNER TO postgres;
CREATE FUNCTION replication.lock_statement(t replication.replicated_tables, operation text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
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
$_$;
ALTER FUNCTION replication.lock_statement(t replication.replicated_tables, operation text) OWNER TO postgres;
CREATE FUNCTION replication.merge_event(op text, version bigint, image jsonb, merge jsonb, keys text[], deltas text[]) RETURNS jsonb
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select case when op = 'd' then jsonb_build_object('deleted', version)
              when merge ? 'versions' then jsonb_build_object(
                'version', version, 'versions', merge -> 'versions', 'totals', merge -> 'totals', 'row', image)
              else replication.merge_fresh(image, version, keys, deltas) end
         || case when op = 'd' then '{}'
                 when merge ? 'deleted' then jsonb_build_object('deleted', (merge ->> 'deleted')::bigint)
                 when op <> 'c' and merge is null then jsonb_build_object('deleted', version - 1)
                 else '{}' end
$$;
ALTER FUNCTION replication.merge_event(op text, version bigint, image jsonb, merge jsonb, keys text[], deltas text[]) OWNER TO postgres;
CREATE FUNCTION replication.merge_expression(t replication.replicated_tables) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
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
$_$;
ALTER FUNCTION replication.merge_expression(t replication.replicated_tables) OWNER TO postgres;
CREATE FUNCTION replication.merge_fresh(image jsonb, version bigint, keys text[], deltas text[]) RETURNS jsonb
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select jsonb_build_object(
    'version', version, 'row', image,
    'versions', coalesce((select jsonb_object_agg(c, version::text) from jsonb_object_keys(image) c
                           where c <> all(keys) and c <> all(deltas)), '{}'),
    'totals', coalesce((select jsonb_object_agg(
                          c, jsonb_build_object(version || '.' || (version & 1023),
                                                jsonb_build_array(image ->> c, version::text)))
                          from unnest(deltas) c), '{}'))
$$;
ALTER FUNCTION replication.merge_fresh(image jsonb, version bigint, keys text[], deltas text[]) OWNER TO postgres;
CREATE TABLE replication.merge_states (
    table_name text NOT NULL,
    record_key text NOT NULL,
    long_key text,
    versions jsonb NOT NULL,
    totals jsonb NOT NULL,
    bases jsonb,
    deleted bigint,
    version bigint NOT NULL,
    image jsonb
);
ALTER TABLE replication.merge_states OWNER TO replication_owner;
CREATE FUNCTION replication.merge_known(image jsonb, version bigint, entry replication.merge_states, buried bigint, keys text[], deltas text[]) RETURNS jsonb
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select case when d.deleted is null then '{}' else jsonb_build_object('deleted', d.deleted) end
         || case when image is null and entry.image is null then '{}'
                 when image is not null and (entry.versions is null or entry.image is not null)
                   then replication.merge_fresh(image, version, keys, deltas)
                 else jsonb_build_object('version', coalesce(version, entry.version), 'versions', entry.versions,
                                         'totals', entry.totals, 'row', coalesce(image, entry.image)) end
    from (select greatest(entry.deleted, buried,
                          case when image is not null and entry.image is not null then entry.version end)
                   as deleted) d
$$;
ALTER FUNCTION replication.merge_known(image jsonb, version bigint, entry replication.merge_states, buried bigint, keys text[], deltas text[]) OWNER TO postgres;
CREATE FUNCTION replication.merge_sum(totals jsonb) RETURNS numeric
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select coalesce(sum((value ->> 0)::numeric), 0) from jsonb_each(totals)
$$;
ALTER FUNCTION replication.merge_sum(totals jsonb) OWNER TO postgres;
CREATE FUNCTION replication.merge_two(a jsonb, b jsonb) RETURNS jsonb
    LANGUAGE plpgsql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  deleted constant bigint := greatest((a ->> 'deleted')::bigint, (b ->> 'deleted')::bigint);
  result jsonb;
  image jsonb;
  counters jsonb;
begin
  if a is null or a = '{}' then
    return b;
  elsif b is null or a = b then
    return a;
  end if;
  result := case when deleted is null then '{}' else jsonb_build_object('deleted', deleted) end;
  if not (a ? 'row' or b ? 'row') then
    return result;
  end if;
  -- Equal versions are of one write; only rows that were there before set-up may differ then.
  select jsonb_object_agg(coalesce(x.key, y.key),
                          case when y.key is null then x.value when x.key is null then y.value
                               when v.a > v.b or v.a = v.b and x.value > y.value then x.value
                               else y.value end)
    into image
    from jsonb_each(a -> 'row') x full join jsonb_each(b -> 'row') y on y.key = x.key
   cross join lateral (select coalesce((a -> 'versions' ->> x.key)::bigint, 0) as a,
                              coalesce((b -> 'versions' ->> y.key)::bigint, 0) as b) v;
  with parts as (
    select distinct on (c.key, p.key) c.key as name, p.key as part, p.value,
           split_part(p.key, '.', 1)::bigint as life
      from (values (a -> 'totals'), (b -> 'totals')) as s(totals), jsonb_each(s.totals) c, jsonb_each(c.value) p
     order by c.key, p.key, (p.value ->> 1)::bigint desc, (p.value ->> 0)::numeric desc
  )
  select coalesce(jsonb_object_agg(name, totals), '{}') into counters
    from (select name, jsonb_object_agg(part, value) as totals
            from (select *, max(life) over (partition by name) as newest from parts) l
           where life = newest or life > coalesce(deleted, 0)
           group by name) n;
  if counters <> '{}' then
    image := image || (
      select jsonb_object_agg(key, case jsonb_typeof(image -> key)
                                     when 'number' then to_jsonb(replication.merge_sum(value))
                                     else to_jsonb(replication.merge_sum(value)::text) end)
        from jsonb_each(counters) where image ? key);
  end if;
  return result || jsonb_build_object(
    'version', greatest((a ->> 'version')::bigint, (b ->> 'version')::bigint), 'row', image, 'totals', counters,
    'versions', (
      select coalesce(jsonb_object_agg(coalesce(x.key, y.key),
                                       greatest(x.value::bigint, y.value::bigint)::text), '{}')
        from jsonb_each_text(a -> 'versions') x full join jsonb_each_text(b -> 'versions') y on y.key = x.key));
end $$;
ALTER FUNCTION replication.merge_two(a jsonb, b jsonb) OWNER TO postgres;
CREATE FUNCTION replication.merge_write(of_table text, key text, keys text[], deltas text[], former jsonb, former_version bigint, image jsonb, version bigint) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  fresh constant jsonb := replication.merge_fresh(former, former_version, keys, deltas);
  short_key constant text := replication.tombstone_key(key);
  me constant text := (select id from replication.contour);
  entry replication.merge_states;
  written text[];
  name text;
  part text;
  added numeric;
begin
  insert into replication.merge_states as m
    (table_name, record_key, long_key, versions, totals, version, image)
  values (of_table, short_key, nullif(key, short_key), fresh -> 'versions', fresh -> 'totals', former_version,
          case when image is null then former end)
  on conflict (table_name, record_key) do update
     set versions = case when m.image is null then m.versions else excluded.versions end,
         totals = case when m.image is null then m.totals else excluded.totals end,
         deleted = case when m.image is null then m.deleted else greatest(m.deleted, m.version) end,
         version = excluded.version, image = excluded.image, bases = null
  returning * into entry;
  if image is null then
    return;
  end if;
  written := array(select c from jsonb_object_keys(image) c
                    where c <> all(keys) and c <> all(deltas) and image -> c is distinct from former -> c);
  entry.bases := (select jsonb_object_agg(c, coalesce(entry.versions ->> c, '0')) from unnest(written) c);
  entry.versions := entry.versions
    || coalesce((select jsonb_object_agg(c, version::text) from unnest(written) c), '{}');
  foreach name in array deltas loop
    added := coalesce((image ->> name)::numeric, 0) - replication.merge_sum(entry.totals -> name);
    continue when added = 0;
    select max(split_part(p, '.', 1)::bigint) || '.' || me into part from jsonb_object_keys(entry.totals -> name) p;
    entry.totals := jsonb_set(entry.totals, array[name, part], jsonb_build_array(
      (coalesce((entry.totals -> name -> part ->> 0)::numeric, 0) + added)::text, version::text));
  end loop;
  update replication.merge_states m
     set versions = entry.versions, totals = entry.totals, bases = entry.bases, version = merge_write.version
   where m.table_name = of_table and m.record_key = short_key;
end $$;
ALTER FUNCTION replication.merge_write(of_table text, key text, keys text[], deltas text[], former jsonb, former_version bigint, image jsonb, version bigint) OWNER TO postgres;
CREATE FUNCTION replication.next_version(predecessor bigint) RETURNS bigint
    LANGUAGE sql PARALLEL SAFE
    AS $$ select (greatest((pg_catalog.date_part('epoch', pg_catalog.clock_timestamp()) operator(pg_catalog.*) 1000000)::pg_catalog.int8, (predecessor operator(pg_catalog.>>) 10) operator(pg_catalog.+) 1)
                     operator(pg_catalog.<<) 10) operator(pg_catalog.|) 1::pg_catalog.int8 $$;
ALTER FUNCTION replication.next_version(predecessor bigint) OWNER TO postgres;
CREATE FUNCTION replication.parts_of(relation regclass) RETURNS SETOF regclass
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select relation union select relid from pg_partition_tree(relation)
$$;
ALTER FUNCTION replication.parts_of(relation regclass) OWNER TO postgres;
CREATE FUNCTION replication.pin_text_settings(t replication.replicated_tables) RETURNS text[]
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  former text[];
  pinned record;
begin
  for pinned in select * from replication.text_settings(t) loop
    former := former || array[array[pinned.setting, current_setting(pinned.setting)]];
    perform set_config(pinned.setting, pinned.value, true);
  end loop;
  return former;
end $$;
ALTER FUNCTION replication.pin_text_settings(t replication.replicated_tables) OWNER TO postgres;
CREATE FUNCTION replication.projection(t replication.replicated_tables, alias text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select string_agg(format('%s as %I', replication.wire_expression(format('%s.%I', alias, attname), type_id),
                           attname), ', ' order by attnum)
    from replication.data_columns(t)
$$;
ALTER FUNCTION replication.projection(t replication.replicated_tables, alias text) OWNER TO postgres;
CREATE FUNCTION replication.put_capture_triggers(t replication.replicated_tables, part regclass) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  function_name constant text := format('replication.%I', 'capture_' || t.table_id);
begin
  execute format('create or replace trigger replication_capture_insert after insert on %s '
                 'referencing new table as new_rows for each statement execute function %s()',
                 part, function_name);
  execute format('create or replace trigger replication_capture_update after update on %s '
                 'referencing old table as old_rows new table as new_rows '
                 'for each statement execute function %s()', part, function_name);
  execute format('create or replace trigger replication_capture_delete after delete on %s '
                 'referencing old table as old_rows for each statement execute function %s()',
                 part, function_name);
  if t.merge = 'columns' then  -- its name sorts behind that of the trigger which sets the version
    execute format('create or replace trigger zzz_replication_merge before update or delete on %s '
                   'for each row execute function replication.%I()', part, 'merge_' || t.table_id);
  end if;
  -- TRUNCATE fires for every table it empties, partitions included.
  if (select relkind from pg_class where oid = part) <> 'p' then
    execute format('create or replace trigger replication_capture_truncate before truncate on %s '
                   'for each statement execute function replication.capture_truncate(%L)', part, t.table_id);
    if part <> t.relation then
      execute format('grant select on %s to replication_owner', part);
    end if;
  end if;
end $$;
ALTER FUNCTION replication.put_capture_triggers(t replication.replicated_tables, part regclass) OWNER TO postgres;
CREATE FUNCTION replication.put_stamps(relation regclass, clock_offset interval DEFAULT '00:00:00'::interval) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  not_captured constant jsonb := (
    select jsonb_object_agg(a.attname, null)
      from pg_attribute a
      join pg_type y on y.oid = a.atttypid
      join replication.replicated_tables t on t.relation = a.attrelid
     where a.attrelid = put_stamps.relation and a.attnum > 0 and not a.attisdropped
       and a.attname <> 'replication_version' and y.typtype <> 'd'  -- a domain may refuse null
       and not exists (select from replication.data_columns(t) c where c.attnum = a.attnum));
begin
  -- Nullable: a program that knows all columns of a table may well insert a null here.
  execute format('alter table %s alter column replication_version drop not null, '
                 'alter column replication_version set default (((%s) operator(pg_catalog.<<) 10) operator(pg_catalog.|) %s::pg_catalog.int8)',
                 relation, replication.clock_expression(clock_offset), (select id from replication.contour));
  execute format('create or replace trigger zz_replication_stamp_update before update on %s '
                 'for each row execute function replication.%s', relation,
                 case when not_captured is null then 'stamp_update()'
                      else format('stamp_update_of_captured(%L)', not_captured) end);
end $$;
ALTER FUNCTION replication.put_stamps(relation regclass, clock_offset interval) OWNER TO postgres;
CREATE FUNCTION replication.queue_insert(t replication.replicated_tables, events text, buries boolean, may_lack_image boolean, seed text, txid text, snapshot_to text DEFAULT NULL::text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
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
$_$;
ALTER FUNCTION replication.queue_insert(t replication.replicated_tables, events text, buries boolean, may_lack_image boolean, seed text, txid text, snapshot_to text) OWNER TO postgres;
CREATE FUNCTION replication.refresh_capture(of_table integer) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
declare
  function_name constant text := format('replication.%I', 'capture_' || of_table);
  t replication.replicated_tables;
  c constant replication.contour := (select c from replication.contour c);
  event_origin constant text := replication.event_origin(c);
begin
  -- Two sessions that replace a function at once fail; the second one must see what the first has done.
  perform pg_advisory_xact_lock(hashtext('replication.capture'), of_table);
  t := replication.current_table(of_table);
  if replication.key_expression(t, 'n') is null
     or cardinality(t.key_columns) > (select count(*) from replication.data_columns(t) d
                                       where d.attname = any(t.key_columns)) then
    raise exception using errcode = 'object_not_in_prerequisite_state',
      message = format('table %s is replicated, and needs its primary key', t.relation),
      hint = 'Give it another primary key in the same statement, or remove_table_from_replication() first.';
  end if;
  -- The table is named by its OID, so that a rename between two statements can't break the function.
  -- Without sequential scans: a plan made while there were no tombstones would else read them all, in
  -- each statement until the next ANALYZE.
  execute format($sql$
create or replace function %1$s() returns trigger language plpgsql security definer
set search_path = pg_catalog, pg_temp set enable_seqscan = off %2$s
as %3$L $sql$,
    function_name,
    (select string_agg(format('set %I = %L', setting, value), ' ') from replication.text_settings(t)),
    format($sql$
#variable_conflict use_variable
declare
  -- Event ids are UUIDs of version 8: time in 16 µs, contour, incarnation, queue id. After a restore the
  -- ids come again, the time does not.
  seed text;
  txid bigint;
  earliest bigint;
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
  former text[];
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
  txid := pg_current_xact_id()::text::bigint;
  if compiled then  -- the common way: one statement, which queues nothing if it will not do
    if tg_op = 'INSERT' then
%6$s;
      if found then
        return null;
      end if;
    elsif tg_op = 'UPDATE' then
      seed := to_hex(replication.clock() >> 4) || %3$L;
      salt := hashtextextended(seed, %4$s);
%7$s;
      if found then
        return null;
      end if;
    else
      seed := to_hex(replication.clock() >> 4) || %3$L;
%8$s;
      get diagnostics queued = row_count;
%15$s
      if queued = (select count(*) from old_rows) then
        return null;
      end if;
    end if;
  end if;
  seed := to_hex(replication.clock() >> 4) || %3$L;
  earliest := replication.earliest_version();
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
    former := replication.pin_text_settings(registered);
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
    perform replication.restore_settings(former);
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
    event_origin,
    hashtextextended(c.incarnation::text, 0), t.table_id,
    -- The guard leaves only versions of this very statement, and they hold the time.
    replication.capture_statement(t, 'INSERT', false, null, 'old_rows',
      format('to_hex(__version >> 14) || %L', event_origin), 'txid', 'earliest', true),
    replication.capture_statement(t, 'UPDATE IN PLACE', false, null, 'old_rows', 'seed', 'txid', 'earliest', true),
    replication.capture_statement(t, 'DELETE', false, null, 'old_rows', 'seed', 'txid', 'earliest', true),
    replication.small_expression(t, 'n'), replication.small_expression(t, 'o'),
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
  perform replication.refresh_merge(t);
  update replication.replicated_tables r
     set fingerprint = replication.table_fingerprint(t.relation),
         compiled_slot = (select active_slot from replication.queue_ring),
         key_columns = t.key_columns, include = t.include, exclude = t.exclude, delta_columns = t.delta_columns,
         listed_attnums = (select array_agg(a.attnum order by l.position)
                             from unnest(coalesce(t.include, t.exclude, t.delta_columns)) with ordinality as l(name, position)
                             left join pg_attribute a on a.attrelid = t.relation and a.attname = l.name)
   where r.table_id = t.table_id;
end $_$;
ALTER FUNCTION replication.refresh_capture(of_table integer) OWNER TO postgres;
CREATE FUNCTION replication.refresh_captures() RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
  return replication.follow_schema_changes();
end $$;
ALTER FUNCTION replication.refresh_captures() OWNER TO replication_owner;
CREATE FUNCTION replication.refresh_merge(t replication.replicated_tables) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
declare
  function_name constant text := format('replication.%I', 'merge_' || t.table_id);
  settings constant text := (
    select string_agg(format('set %I = %L', setting, value), ' ') from replication.text_settings(t));
begin
  if t.merge <> 'columns' then
    return;
  end if;
  execute format($sql$
create or replace function %1$s() returns trigger language plpgsql security definer
set search_path = pg_catalog, pg_temp %2$s
as %3$L $sql$,
    function_name, settings, format($sql$
declare
  registered replication.replicated_tables;
  former jsonb;
  former_key text;
  image jsonb;
  key text;
begin
  if tg_op = 'UPDATE' and new.replication_version is not distinct from old.replication_version then
    return new;
  end if;
  if replication.table_fingerprint(tg_relid) = %1$L then
    former := %2$s;
    former_key := %3$s;
    if tg_op = 'UPDATE' then
      image := %4$s;
      key := %5$s;
    end if;
  else
    registered := replication.current_table(%6$s);
    execute format('select %%s, %%s from (select ($1).*) o', replication.image_expression(registered, 'o', null),
                   replication.key_expression(registered, 'o')) into former, former_key using old;
    if tg_op = 'UPDATE' then
      execute format('select %%s, %%s from (select ($1).*) n', replication.image_expression(registered, 'n', null),
                     replication.key_expression(registered, 'n')) into image, key using new;
    end if;
  end if;
  if key is distinct from former_key then  -- a DELETE; what comes under the other key is as new
    perform replication.merge_write(%7$L, former_key, %8$L, %9$L, former, coalesce(old.replication_version, 0),
                                    null, null);
  else
    perform replication.merge_write(%7$L, key, %8$L, %9$L, former, coalesce(old.replication_version, 0),
                                    image, new.replication_version);
  end if;
  if tg_op = 'DELETE' then
    return old;
  end if;
  return new;
end $sql$,
      replication.table_fingerprint(t.relation),
      replication.image_expression(t, 'old', null), replication.key_expression(t, 'old'),
      replication.image_expression(t, 'new', null), replication.key_expression(t, 'new'),
      t.table_id, t.table_name, t.key_columns, t.delta_columns));
  execute format('alter function %s() owner to replication_owner', function_name);
  execute format('revoke all on function %s() from public', function_name);
  execute format('comment on function %s() is %L', function_name,
                 'Merge trigger of ' || t.table_name || '; generated by replication.refresh_merge.');
end $_$;
ALTER FUNCTION replication.refresh_merge(t replication.replicated_tables) OWNER TO postgres;
CREATE FUNCTION replication.refuse_bad_merge(wanted replication.replicated_tables) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  relation constant regclass := wanted.relation;
  name text;
  c pg_attribute;
  problem text;
  remedy text;
begin
  if wanted.merge not in ('row', 'columns') or wanted.merge = 'row' and wanted.delta_columns <> '{}' then
    raise exception using errcode = 'invalid_parameter_value',
      message = format('table %s: merge is %L', relation, wanted.merge),
      hint = 'It is ''row'' or ''columns''; with delta_columns it is ''columns''.';
  end if;
  if wanted.merge = 'row' then
    return;
  end if;
  name := case when wanted.include is not null then 'include' when wanted.exclude is not null then 'exclude'
               when wanted.displace then 'displace' when wanted.capture_truncate then 'capture_truncate' end;
  if name is not null then
    raise exception using errcode = 'feature_not_supported',
      message = format('table %s: %s does not go with merge => ''columns''', relation, name),
      hint = 'Leave one of the two out.';
  end if;
  if (select relkind from pg_class where oid = relation) = 'p' then
    raise exception using errcode = 'feature_not_supported',
      message = format('table %s is partitioned, and can''t merge columns', relation),
      hint = 'Set it up with merge => ''row''.';
  end if;
  foreach name in array wanted.delta_columns loop
    select * into c from pg_attribute a
     where a.attrelid = relation and a.attname = name and a.attnum > 0 and not a.attisdropped;
    if name is null or c.attname is null then
      raise exception using errcode = 'undefined_column',
        message = format('table %s has no delta column %I', relation, name),
        hint = 'Names are written as in the catalog, without quotes: ''Mixed Case'', not ''"Mixed Case"''.';
    end if;
    problem := null;
    if name = any(wanted.key_columns) or name = 'replication_version' then
      problem := 'it tells which row or write it is';
      remedy := 'A counter stands beside the key.';
    elsif c.attgenerated <> '' or c.attidentity = 'a' then
      problem := 'its value is the database''s';
      remedy := 'A counter is a column that applications write.';
    elsif c.atttypid not in ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'numeric'::regtype)
          or c.atttypid = 'numeric'::regtype and c.atttypmod < 0 then
      problem := format('its type is %s', format_type(c.atttypid, c.atttypmod));
      remedy := 'Counters are smallint, integer, bigint or numeric(precision, scale).';
    elsif not c.attnotnull then
      problem := 'it may be null';
      remedy := format('ALTER TABLE %s ALTER COLUMN %I SET NOT NULL: nothing can be added to null.', relation, name);
    end if;
    if problem is not null then
      raise exception using errcode = 'wrong_object_type',
        message = format('table %s: the column %I can''t be a delta column: %s', relation, name, problem),
        hint = remedy;
    end if;
  end loop;
end $$;
ALTER FUNCTION replication.refuse_bad_merge(wanted replication.replicated_tables) OWNER TO postgres;
CREATE FUNCTION replication.refuse_bad_options(registered replication.replicated_tables, wanted replication.replicated_tables) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
declare
  relation constant regclass := wanted.relation;
  stray text;
begin
  if exists (select from replication.replicated_tables r
              where r.table_name = wanted.table_name and r.relation <> wanted.relation) then
    raise exception using errcode = 'duplicate_object',
      message = format('table %s can''t be replicated: the events of %s are called %s already', relation,
                       (select r.relation from replication.replicated_tables r
                         where r.table_name = wanted.table_name), wanted.table_name),
      hint = 'Topics and events are named after the table. Rename one of the two, or remove the other '
             'from replication.';
  end if;
  if wanted.include is not null and wanted.exclude is not null then
    raise exception using errcode = 'invalid_parameter_value',
      message = format('table %s: include and exclude can''t both be given', relation),
      hint = 'Name the columns that travel, or those that don''t.';
  end if;
  if array_position(coalesce(wanted.include, wanted.exclude), null) is not null
     or array_ndims(coalesce(wanted.include, wanted.exclude)) > 1 then
    raise exception using errcode = 'null_value_not_allowed',
      message = format('table %s: a list of columns holds names, and no null', relation),
      hint = 'Write include => array[''a'', ''b''].';
  end if;
  select name into stray from unnest(coalesce(wanted.include, wanted.exclude)) as u(name)
   where not exists (select from pg_attribute a where a.attrelid = relation and a.attname = u.name
                        and a.attnum > 0 and not a.attisdropped and a.attname <> 'replication_version')
   limit 1;
  if stray is not null and registered.table_id is null then
    raise exception using errcode = 'undefined_column',
      message = format('table %s has no column %I to list', relation, stray),
      hint = 'Names are written as in the catalog, without quotes: ''Mixed Case'', not ''"Mixed Case"''.';
  end if;
  select name into stray from unnest(wanted.exclude) as u(name) where name = any(wanted.key_columns) limit 1;
  if stray is not null then
    raise exception using errcode = 'invalid_parameter_value',
      message = format('table %s: the key column %I can''t be excluded', relation, stray),
      hint = 'The key tells which row a change belongs to.';
  end if;
  perform replication.refuse_bad_merge(wanted);
  if registered.table_id is null then
    return;
  end if;
  stray := case when registered.full_before <> wanted.full_before then 'full_before'
                when registered.capture_truncate <> wanted.capture_truncate then 'capture_truncate'
                when registered.merge <> wanted.merge then 'merge'
                when not replication.same_names(registered.delta_columns, wanted.delta_columns) then 'delta_columns'
                when not replication.same_names(registered.include, wanted.include) then 'include'
                when not replication.same_names(registered.exclude, wanted.exclude) then 'exclude' end;
  if stray is not null then
    raise exception using errcode = 'object_not_in_prerequisite_state',
      message = format('table %s is replicated already, with another %s', relation, stray),
      hint = format('In one transaction, so that no change is missed: '
                    'select remove_table_from_replication(%1$L); select setup_table_for_replication(%1$L, …);',
                    relation);
  end if;
end $_$;
ALTER FUNCTION replication.refuse_bad_options(registered replication.replicated_tables, wanted replication.replicated_tables) OWNER TO postgres;
CREATE FUNCTION replication.refuse_unfit_table(relation regclass) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  c pg_class;
  key pg_constraint;
  bad_key name;
  generated_key name;
  bad_part regclass;
  problem text;
  remedy text;
begin
  select * into c from pg_class where oid = relation;
  select * into key from pg_constraint where conrelid = relation and contype = 'p';
  -- Keys are compared as text between contours: 1.0 and 1.00, or -0 and 0, must not be two keys.
  select a.attname into bad_key from pg_attribute a
   where a.attrelid = relation and a.attnum = any(key.conkey)
     and not coalesce((
       select case
         when b.oid in ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'bool'::regtype,
                        'uuid'::regtype, 'date'::regtype, 'time'::regtype, 'timestamp'::regtype,
                        'timestamptz'::regtype, 'oid'::regtype, 'inet'::regtype, 'cidr'::regtype,
                        'macaddr'::regtype, 'macaddr8'::regtype, 'pg_lsn'::regtype) then true
         when b.oid in ('numeric'::regtype, 'bpchar'::regtype)
              then coalesce(nullif(a.atttypmod, -1), (select typtypmod from pg_type where oid = a.atttypid)) <> -1
         when b.oid in ('text'::regtype, 'varchar'::regtype)
              then (select collisdeterministic from pg_collation where oid = a.attcollation)
         else b.typtype = 'e' and b.oid = a.atttypid end  -- domains over enums have no =
         from pg_type b where b.oid = replication.base_type(a.atttypid)), false)
   limit 1;
  select a.attname into generated_key from pg_attribute a
   where a.attrelid = relation and a.attnum = any(key.conkey) and a.attgenerated <> '' limit 1;
  select p.relid into bad_part from pg_partition_tree(relation) p join pg_class l on l.oid = p.relid
   where l.relkind not in ('r', 'p') or l.relpersistence <> 'p' limit 1;
  if c.oid is null then
    problem := 'it does not exist';
    remedy := 'Give the name of an existing table.';
  elsif c.relispartition then
    problem := format('it is a partition of %s', pg_partition_root(relation));
    remedy := format('Set up the whole table: setup_table_for_replication(%L).', pg_partition_root(relation));
  elsif c.relkind not in ('r', 'p') then
    problem := 'it is not an ordinary table';
    remedy := 'Only tables are replicated, no views, foreign tables or sequences.';
  elsif c.relpersistence = 't' then
    problem := 'it is temporary';
    remedy := 'Replicate a table that other sessions can see.';
  elsif c.relpersistence <> 'p' then
    problem := 'it is unlogged';
    remedy := 'Rows that a crash may empty can''t be kept equal: ALTER TABLE … SET LOGGED.';
  elsif bad_part is not null then
    problem := format('its partition %s is a foreign table, or unlogged', bad_part);
    remedy := 'Detach that partition, or make it an ordinary logged table.';
  elsif c.relkind = 'r' and exists (select from pg_inherits where inhrelid = relation or inhparent = relation) then
    problem := 'it takes part in inheritance';
    remedy := 'Use separate tables, or declarative partitioning.';
  elsif c.relnamespace = 'replication'::regnamespace
        or c.relnamespace in (select oid from pg_namespace where nspname in ('pg_catalog', 'information_schema')) then
    problem := 'it belongs to the system';
    remedy := 'Replicate tables of your own schemas.';
  elsif key.oid is null then
    problem := 'it has no primary key';
    remedy := format('ALTER TABLE %s ADD PRIMARY KEY (…).', relation);
  elsif exists (select from pg_attribute a where a.attrelid = relation and a.attnum = any(key.conkey)
                   and a.attname = 'replication_version') then
    problem := 'its primary key has the column replication_version';
    remedy := 'Rename that column; the name is needed for the version.';
  elsif generated_key is not null then
    problem := format('its key column %s is generated', generated_key);
    remedy := 'Use a key of columns that applications write.';
  elsif key.condeferrable then
    problem := 'its primary key is deferrable';
    remedy := 'Make the key NOT DEFERRABLE: upserts can''t use a deferrable one.';
  elsif bad_key is not null then
    problem := format('its key column %s has a type whose equal values may have different texts', bad_key);
    remedy := 'Use a key of integers, text, uuid, dates, enums or numerics of fixed scale.';
  elsif exists (select from pg_constraint where conrelid = relation and contype in ('u', 'x') and condeferrable) then
    problem := 'it has a deferrable unique or exclusion constraint';
    remedy := 'Make it NOT DEFERRABLE: deferrable ones are not checked while remote changes are applied.';
  elsif exists (select from pg_class l
                 where l.relrowsecurity and l.oid in (select replication.parts_of(relation))) then
    problem := 'it has row level security';
    remedy := 'ALTER TABLE … DISABLE ROW LEVEL SECURITY: policies would hide rows from the applier.';
  elsif exists (select from pg_attribute where attrelid = relation and attname = 'replication_version'
                   and not attisdropped and atttypid <> 'bigint'::regtype) then
    problem := 'it has a column replication_version of its own';
    remedy := 'Rename that column; the name is needed for a bigint.';
  else
    return;
  end if;
  raise exception using errcode = 'wrong_object_type',
    table = coalesce(c.relname, relation::text),
    message = format('table %s can''t be replicated: %s', relation, problem), hint = remedy;
end $$;
ALTER FUNCTION replication.refuse_unfit_table(relation regclass) OWNER TO postgres;
CREATE FUNCTION replication.remove_published(retention interval, most integer) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
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
end $_$;
ALTER FUNCTION replication.remove_published(retention interval, most integer) OWNER TO replication_owner;
CREATE FUNCTION replication.remove_table_from_replication(relation regclass, drop_version_column boolean DEFAULT false) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  registered replication.replicated_tables;
  part regclass;
  ours boolean;
begin
  delete from replication.replicated_tables r
   where r.relation = remove_table_from_replication.relation returning * into registered;
  ours := registered.table_id is not null
          or coalesce((select col_description(attrelid, attnum) like 'Set by replication_pipeline%'
                         from pg_attribute where attrelid = relation and attname = 'replication_version'
                          and not attisdropped), false);
  for part in select replication.parts_of(relation) loop
    perform replication.drop_triggers(part);
  end loop;
  if registered.table_id is not null then
    perform replication.drop_functions(registered);
    perform replication.revoke_rights(registered);
  end if;
  if drop_version_column and ours then
    execute format('alter table %s drop column if exists replication_version', relation);
  elsif registered.table_id is not null then
    execute format('alter table %s alter column replication_version set default 0', relation);
  end if;
end $$;
ALTER FUNCTION replication.remove_table_from_replication(relation regclass, drop_version_column boolean) OWNER TO postgres;
CREATE FUNCTION replication.renew_rows(of_table integer, leaves oid[], places tid[], above bigint[]) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
declare
  t constant replication.replicated_tables := replication.current_table(of_table);
  c constant replication.contour := (select c from replication.contour c);
  seed constant text := to_hex(replication.clock() >> 4) || replication.event_origin(c);
  replication_role constant text := current_setting('session_replication_role');
  former text[];
  renewed bigint;
begin
  -- No trigger may alter the rows or capture them a second time; values are written as capture does.
  perform set_config('session_replication_role', 'replica', true);
  former := replication.pin_text_settings(t);
  if t.merge = 'columns' then  -- no column gets another version, so what they have must be told
    execute format($sql$
insert into replication.merge_states as m (table_name, record_key, long_key, versions, totals, version)
select %1$L, replication.tombstone_key(o.key), nullif(o.key, replication.tombstone_key(o.key)),
       o.state -> 'versions', o.state -> 'totals', o.version
  from (select %2$s as key, t.replication_version as version,
               replication.merge_fresh((%3$s)::jsonb, t.replication_version, %4$L, %5$L) as state
          from %6$s t join unnest($1, $2) as w(leaf, place) on t.tableoid = w.leaf and t.ctid = w.place) o
on conflict (table_name, record_key) do update
   set versions = case when m.image is null then m.versions else excluded.versions end,
       totals = case when m.image is null then m.totals else excluded.totals end,
       deleted = case when m.image is null then m.deleted else greatest(m.deleted, m.version) end,
       image = null, bases = null$sql$,
      t.table_name, replication.key_expression(t, 't'), replication.image_expression(t, 't', null),
      t.key_columns, t.delta_columns, t.relation) using leaves, places;
  end if;
  execute format($sql$
with __renewed as (
  update %1$s t
     set replication_version = replication.next_version(greatest(w.above, t.replication_version))
    from unnest($3, $4, $5) as w(leaf, place, above)
   where t.tableoid = w.leaf and t.ctid = w.place
  returning %2$s as __key, %3$s as __payload, null::json as __before,
            t.replication_version as __version, w.above as __base, 'UPDATE' as __operation
)$sql$, t.relation, replication.key_expression(t, 't'), replication.image_expression(t, 't', null))
    || replication.queue_insert(
         t, '(select nextval(''replication.replication_queue_id_seq'') as __id, r.* from __renewed r) __e',
         false, false, '$1', '$2')
    using seed, pg_current_xact_id()::text::bigint, leaves, places, above;
  get diagnostics renewed = row_count;
  perform replication.restore_settings(former);
  perform set_config('session_replication_role', replication_role, true);
  return renewed;
end $_$;
ALTER FUNCTION replication.renew_rows(of_table integer, leaves oid[], places tid[], above bigint[]) OWNER TO replication_owner;
CREATE FUNCTION replication.resend_deletes(of_table integer, keys text[], versions bigint[]) RETURNS text[]
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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
ALTER FUNCTION replication.resend_deletes(of_table integer, keys text[], versions bigint[]) OWNER TO replication_owner;
CREATE FUNCTION replication.resend_rows(of_table integer, leaves oid[], places tid[], above bigint[]) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
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
end $_$;
ALTER FUNCTION replication.resend_rows(of_table integer, leaves oid[], places tid[], above bigint[]) OWNER TO replication_owner;
CREATE FUNCTION replication.restore_settings(former text[]) RETURNS void
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select set_config(former[i][1], former[i][2], true) from generate_subscripts(former, 1) i
$$;
ALTER FUNCTION replication.restore_settings(former text[]) OWNER TO postgres;
CREATE FUNCTION replication.revive_statement(t replication.replicated_tables) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
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
$_$;
ALTER FUNCTION replication.revive_statement(t replication.replicated_tables) OWNER TO postgres;
CREATE FUNCTION replication.revoke_rights(t replication.replicated_tables) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
declare
  given text;
  heir integer;
begin
  foreach given in array t.granted loop
    continue when given !~ '^(USAGE|SELECT|INSERT|UPDATE|DELETE) replication_(owner|consumer)$';
    if given not like 'USAGE %' then
      execute format('revoke %s on %s from %I', split_part(given, ' ', 1), t.relation, split_part(given, ' ', 2));
      continue;
    end if;
    -- The last replicated table of a schema takes the right on it along.
    select r.table_id into heir
      from replication.replicated_tables r join pg_class c on c.oid = r.relation
     where c.relnamespace = (select relnamespace from pg_class where oid = t.relation) limit 1;
    if found then
      update replication.replicated_tables r
         set granted = array_append(array_remove(r.granted, given), given) where r.table_id = heir;
    else
      execute format('revoke usage on schema %s from %I',
                     (select relnamespace::regnamespace from pg_class where oid = t.relation),
                     split_part(given, ' ', 2));
    end if;
  end loop;
end $_$;
ALTER FUNCTION replication.revoke_rights(t replication.replicated_tables) OWNER TO postgres;
CREATE FUNCTION replication.rotate_queue(retention interval) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET lock_timeout TO '200ms'
    AS $_$
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
end $_$;
ALTER FUNCTION replication.rotate_queue(retention interval) OWNER TO replication_owner;
CREATE FUNCTION replication.same_names(one text[], other text[]) RETURNS boolean
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select (one is null) = (other is null) and coalesce(one <@ other and other <@ one, true)
$$;
ALTER FUNCTION replication.same_names(one text[], other text[]) OWNER TO postgres;
CREATE FUNCTION replication.setup_table_for_replication(relation regclass, full_before boolean DEFAULT NULL::boolean, include text[] DEFAULT NULL::text[], exclude text[] DEFAULT NULL::text[], capture_truncate boolean DEFAULT NULL::boolean, displace boolean DEFAULT NULL::boolean, merge text DEFAULT NULL::text, delta_columns text[] DEFAULT NULL::text[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET client_min_messages TO 'warning'
    AS $$
declare
  wanted replication.replicated_tables;
  registered replication.replicated_tables;
  part regclass;
begin
  perform replication.forget_dropped_tables();
  perform replication.refuse_unfit_table(relation);
  execute format('lock table %s in access exclusive mode', relation);  -- at once what it needs later
  select case when n.nspname = 'public' then c.relname else n.nspname || '.' || c.relname end
    into wanted.table_name
    from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = relation;
  select table_id into registered.table_id from replication.replicated_tables r
   where r.relation = setup_table_for_replication.relation;
  if found then
    registered := replication.current_table(registered.table_id);
    wanted.table_name := registered.table_name;
  end if;
  wanted.relation := relation;
  wanted := replication.with_current_key(wanted);
  wanted.full_before := coalesce(full_before, registered.full_before, false);
  wanted.capture_truncate := coalesce(capture_truncate, registered.capture_truncate, false);
  wanted.include := coalesce(include, case when exclude is null then registered.include end);
  wanted.exclude := coalesce(exclude, case when include is null then registered.exclude end);
  wanted.displace := coalesce(displace, registered.displace, false);
  wanted.delta_columns := coalesce(delta_columns, registered.delta_columns, '{}');
  wanted.merge := coalesce(merge, case when wanted.delta_columns <> '{}' then 'columns' end,
                           registered.merge, 'row');
  perform replication.refuse_bad_options(registered, wanted);
  execute format('alter table %s add column if not exists replication_version bigint default 0', relation);
  execute format('comment on column %s.replication_version is %L', relation,
                 'Set by replication_pipeline: µs since 1970 << 10 | contour. Not for applications.');
  if registered.table_id is null then
    insert into replication.replicated_tables
           (table_name, relation, key_columns, full_before, include, exclude, capture_truncate, merge,
            delta_columns, fingerprint)
    values (wanted.table_name, relation, wanted.key_columns, wanted.full_before, wanted.include,
            wanted.exclude, wanted.capture_truncate, wanted.merge, wanted.delta_columns, '')
    returning * into registered;
  end if;
  update replication.replicated_tables r
     set displace = setup_table_for_replication.displace
   where r.table_id = registered.table_id and r.displace <> setup_table_for_replication.displace;
  perform replication.refresh_capture(registered.table_id);
  perform replication.put_stamps(relation);
  for part in select replication.parts_of(relation) loop
    perform replication.put_capture_triggers(registered, part);
  end loop;
  perform replication.grant_rights(registered.table_id);
end $$;
ALTER FUNCTION replication.setup_table_for_replication(relation regclass, full_before boolean, include text[], exclude text[], capture_truncate boolean, displace boolean, merge text, delta_columns text[]) OWNER TO postgres;
CREATE FUNCTION replication.shape_of(t replication.replicated_tables) RETURNS integer
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select ('x' || left(md5(string_agg(c.attname || ' ' || format_type(a.atttypid, a.atttypmod), ','
                                     order by c.attname collate "C")), 8))::bit(32)::integer | (1 << 31)
    from replication.data_columns(t) c
    join pg_attribute a on a.attrelid = t.relation and a.attnum = c.attnum
$$;
ALTER FUNCTION replication.shape_of(t replication.replicated_tables) OWNER TO postgres;
CREATE FUNCTION replication.size_expression(t replication.replicated_tables, alias text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select string_agg(format('coalesce(pg_column_size(%s.%I), 0)', alias, c.attname), ' + ')
    from replication.data_columns(t) c
    join pg_attribute a on a.attrelid = t.relation and a.attnum = c.attnum
   where a.attlen = -1
     and not (replication.base_type(c.type_id) in ('varchar'::regtype, 'bpchar'::regtype)
              and a.atttypmod between 0 and 1000)
     and not (replication.base_type(c.type_id) = 'numeric'::regtype and a.atttypmod >= 0)
$$;
ALTER FUNCTION replication.size_expression(t replication.replicated_tables, alias text) OWNER TO postgres;
CREATE FUNCTION replication.small_expression(t replication.replicated_tables, alias text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select coalesce(case when alias = 'n' or t.full_before then
    format('not exists (select from %s %s where ', case alias when 'n' then 'new_rows' else 'old_rows' end, alias)
    || replication.size_expression(t, alias) || ' > 262144)' end, 'true')
$$;
ALTER FUNCTION replication.small_expression(t replication.replicated_tables, alias text) OWNER TO postgres;
CREATE FUNCTION replication.snapshot_deletes(of_table integer, keys text[], send_to text) RETURNS TABLE(id bigint, shard smallint, tombstone text, version bigint)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
declare
  t constant replication.replicated_tables := replication.current_table(of_table);
  c constant replication.contour := (select c from replication.contour c);
  seed constant text := to_hex(replication.clock() >> 4) || replication.event_origin(c);
begin
  perform replication.check_snapshot(t, t.relation, send_to);
  return query execute replication.queue_insert(t, format(
    '(select nextval(''replication.replication_queue_id_seq'') as __id, coalesce(s.long_key, s.record_key) as __key, '
    'null::json as __payload, null::json as __before, s.version as __version, null::bigint as __base, '
    '''DELETE'' as __operation from replication.replication_tombstones s '
    'where s.table_name = %L and s.record_key = any($3)) __e', t.table_name),
    false, false, '$1', '$2', '$4')
    || ' returning id, shard, replication.tombstone_key(record_key), version'
    using seed, pg_current_xact_id()::text::bigint, keys, coalesce(send_to, '*');
end $_$;
ALTER FUNCTION replication.snapshot_deletes(of_table integer, keys text[], send_to text) OWNER TO replication_owner;
CREATE FUNCTION replication.snapshot_rows(of_table integer, leaf oid, places tid[], send_to text) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "DateStyle" TO 'ISO, YMD'
    SET "TimeZone" TO 'UTC'
    SET extra_float_digits TO '1'
    SET "IntervalStyle" TO 'postgres'
    SET bytea_output TO 'hex'
    SET lc_monetary TO 'C'
    SET array_nulls TO 'on'
    SET quote_all_identifiers TO 'off'
    AS $_$
declare
  t constant replication.replicated_tables := replication.current_table(of_table);
  c constant replication.contour := (select c from replication.contour c);
  seed constant text := to_hex(replication.clock() >> 4) || replication.event_origin(c);
  largest bigint;
  queued bigint;
begin
  perform replication.check_snapshot(t, leaf, send_to);
  -- Images are tried whole first, then without the largest rows, which are parked.
  foreach largest in array array[null, 16777216, 262144] loop
    begin
      execute replication.queue_insert(t, format(
        '(select nextval(''replication.replication_queue_id_seq'') as __id, %s as __key, %s as __payload, '
        'null::json as __before, coalesce(n.replication_version, 0) as __version, null::bigint as __base, '
        '''SNAPSHOT'' as __operation from only %s n%s where n.ctid = any($3)) __e',
        replication.key_expression(t, 'n'),
        case when largest is null then 'row_to_json(__image.*)'
             else replication.image_expression(t, 'n', largest) end, leaf::regclass,
        case when largest is null
             then format(' cross join lateral (select %s) __image', replication.projection(t, 'n')) end),
        false, largest is not null, '$1', '$2', '$4')
        using seed, pg_current_xact_id()::text::bigint, places, coalesce(send_to, '*');
      get diagnostics queued = row_count;
      return queued;
    exception when program_limit_exceeded or internal_error or out_of_memory then
      if largest = 262144 then
        raise;
      end if;
    end;
  end loop;
end $_$;
ALTER FUNCTION replication.snapshot_rows(of_table integer, leaf oid, places tid[], send_to text) OWNER TO replication_owner;
CREATE FUNCTION replication.stamp_update() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
    begin
      new.replication_version := old.replication_version;
      if not (new operator(pg_catalog.*=) old) then
        new.replication_version := (greatest((pg_catalog.date_part('epoch', pg_catalog.clock_timestamp()) operator(pg_catalog.*) 1000000)::pg_catalog.int8, (old.replication_version operator(pg_catalog.>>) 10)
          operator(pg_catalog.+) 1) operator(pg_catalog.<<) 10) operator(pg_catalog.|) 1::pg_catalog.int8;
      end if;
      return new;
    end $$;
ALTER FUNCTION replication.stamp_update() OWNER TO postgres;
CREATE FUNCTION replication.stamp_update_of_captured() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
    begin
      new.replication_version := old.replication_version;
      if not (pg_catalog.jsonb_populate_record(new, tg_argv[0]::pg_catalog.jsonb)
              operator(pg_catalog.*=)
              pg_catalog.jsonb_populate_record(old, tg_argv[0]::pg_catalog.jsonb)) then
        new.replication_version := (greatest((pg_catalog.date_part('epoch', pg_catalog.clock_timestamp()) operator(pg_catalog.*) 1000000)::pg_catalog.int8, (old.replication_version operator(pg_catalog.>>) 10)
          operator(pg_catalog.+) 1) operator(pg_catalog.<<) 10) operator(pg_catalog.|) 1::pg_catalog.int8;
      end if;
      return new;
    end $$;
ALTER FUNCTION replication.stamp_update_of_captured() OWNER TO postgres;
CREATE FUNCTION replication.table_fingerprint(relation regclass) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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
ALTER FUNCTION replication.table_fingerprint(relation regclass) OWNER TO postgres;
CREATE FUNCTION replication.text_settings(t replication.replicated_tables) RETURNS TABLE(setting text, value text)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  with kinds as (
    select case when y.typtype = 'e' or y.oid in ('date'::regtype, 'timestamp'::regtype, 'timestamptz'::regtype)
                     or coalesce(e.oid, y.oid)
                     in ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'bool'::regtype, 'text'::regtype,
                         'varchar'::regtype, 'bpchar'::regtype, 'uuid'::regtype, 'numeric'::regtype,
                         'json'::regtype, 'jsonb'::regtype, 'inet'::regtype, 'cidr'::regtype,
                         'time'::regtype, 'timetz'::regtype)
                     or y.oid = 'bytea'::regtype then 'plain'
                when coalesce(e.oid, y.oid) in ('float4'::regtype, 'float8'::regtype) then 'float'
                else 'other' end as kind
      from replication.data_columns(t) c
      join pg_type y on y.oid = replication.base_type(c.type_id)
      left join pg_type e on e.oid = y.typelem and y.typsubscript = 'array_subscript_handler'::regproc
  )
  select s.setting, s.value
    from (values ('DateStyle', 'ISO, YMD', '{other}'::text[]), ('TimeZone', 'UTC', '{other}'),
                 ('extra_float_digits', '1', '{float,other}'),
                 ('IntervalStyle', 'postgres', '{other}'), ('bytea_output', 'hex', '{other}'),
                 ('lc_monetary', 'C', '{other}'), ('array_nulls', 'on', '{other}'),
                 ('quote_all_identifiers', 'off', '{other}'))
           as s(setting, value, matters)
   where exists (select from kinds where kind = any(s.matters))
$$;
ALTER FUNCTION replication.text_settings(t replication.replicated_tables) OWNER TO postgres;
CREATE FUNCTION replication.tombstone_key(record_key text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
  select case when octet_length(record_key) <= 1000 then record_key else 'md5:' || md5(record_key) end
$$;
ALTER FUNCTION replication.tombstone_key(record_key text) OWNER TO postgres;
CREATE FUNCTION replication.uncommon_time(value timestamp without time zone) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "DateStyle" TO 'ISO, YMD'
    AS $$
  select value::text
$$;
ALTER FUNCTION replication.uncommon_time(value timestamp without time zone) OWNER TO postgres;
CREATE FUNCTION replication.uncommon_time(value timestamp with time zone) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "DateStyle" TO 'ISO, YMD'
    SET "TimeZone" TO 'UTC'
    AS $$
  select value::text
$$;
ALTER FUNCTION replication.uncommon_time(value timestamp with time zone) OWNER TO postgres;
CREATE FUNCTION replication.whole_row(of_table integer, OUT key_expression text, OUT projection text, OUT shape text) RETURNS record
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  t replication.replicated_tables := replication.current_table(of_table);
begin
  key_expression := replication.key_expression(t, 't');
  shape := to_hex(replication.shape_of(t));
  t.include := null;
  t.exclude := null;
  projection := replication.projection(t, 't');
end $$;
ALTER FUNCTION replication.whole_row(of_table integer, OUT key_expression text, OUT projection text, OUT shape text) OWNER TO replication_owner;
CREATE FUNCTION replication.wire_expression(reference text, type_id oid) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
declare
  base constant oid := replication.base_type(type_id);
  element constant oid := (select typelem from pg_type where oid = base and typsubscript = 'array_subscript_handler'::regproc);
  element_kind constant "char" := (select typtype from pg_type where oid = element);
  -- A cast to text may be the work of a user: it would decide what travels, and run with our rights.
  -- format() calls the output function.
  as_text constant text := case when base < 16384 then reference || '::text'
    else format('case when num_nulls(%1$s) = 0 then format(''%%s'', %1$s) end', reference) end;
begin
  -- JSON writes dates and times in ISO form whatever DateStyle says, so that it need not be pinned.
  if base in ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'bool'::regtype, 'text'::regtype,
              'varchar'::regtype, 'bpchar'::regtype, 'uuid'::regtype, 'date'::regtype) then
    return reference;
  elsif base in ('float4'::regtype, 'float8'::regtype) then  -- JSON numbers have no negative zero
    return format('case when %1$s = 0 and %1$s::text = ''-0'' then to_json(''-0''::text) else to_json(%1$s) end',
                  reference);
  elsif base = 'timestamptz'::regtype then  -- an offset by number: a zone's name may be the session's own
    return format('case when %1$s >= ''0001-01-01 00:00:00+00''::timestamptz '
                  'and %1$s < ''10000-01-01 00:00:00+00''::timestamptz '
                  'then (to_jsonb(%1$s at time zone interval ''0'') #>> ''{}'') || ''Z'' '
                  'when %1$s is not null then replication.uncommon_time(%1$s) end', reference);
  elsif base = 'timestamp'::regtype then
    return format('case when %1$s >= ''0001-01-01 00:00:00''::timestamp '
                  'and %1$s < ''10000-01-01 00:00:00''::timestamp then to_json(%1$s) '
                  'when %1$s is not null then to_json(replication.uncommon_time(%1$s)) end', reference);
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
end $_$;
ALTER FUNCTION replication.wire_expression(reference text, type_id oid) OWNER TO postgres;
CREATE FUNCTION replication.with_current_key(t replication.replicated_tables) RETURNS replication.replicated_tables
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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
ALTER FUNCTION replication.with_current_key(t replication.replicated_tables) OWNER TO postgres;
CREATE AGGREGATE replication.merged(jsonb) (
    SFUNC = replication.merge_two,
    STYPE = jsonb
);
ALTER AGGREGATE replication.merged(jsonb) OWNER TO postgres;
CREATE TABLE replication.comparisons (
    table_name text NOT NULL,
    compared_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    contours text[] NOT NULL,
    row_count bigint NOT NULL,
    differing bigint NOT NULL,
    complete boolean NOT NULL
);
ALTER TABLE replication.comparisons OWNER TO replication_owner;
CREATE TABLE replication.consumer_offsets (
    topic text NOT NULL,
    partition integer NOT NULL,
    next_offset bigint NOT NULL,
    high_watermark bigint DEFAULT 0 NOT NULL,
    updated_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT consumer_offsets_next_offset_check CHECK ((next_offset >= 0)),
    CONSTRAINT consumer_offsets_partition_check CHECK ((partition >= 0))
)
WITH (fillfactor='50');
ALTER TABLE replication.consumer_offsets OWNER TO replication_owner;
CREATE TABLE replication.consumer_topics (
    topic text NOT NULL,
    topic_id text NOT NULL,
    learned_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);
ALTER TABLE replication.consumer_topics OWNER TO replication_owner;
CREATE TABLE replication.contour_rounds (
    contour text NOT NULL,
    log_offset bigint NOT NULL,
    beat_at timestamp with time zone NOT NULL,
    taken_at timestamp with time zone NOT NULL,
    applied jsonb NOT NULL,
    ends jsonb NOT NULL
);
ALTER TABLE replication.contour_rounds OWNER TO replication_owner;
CREATE TABLE replication.contours (
    name text NOT NULL,
    id integer NOT NULL,
    incarnation uuid NOT NULL,
    state text NOT NULL,
    sequence bigint NOT NULL,
    last_beat timestamp with time zone NOT NULL,
    last_heard double precision NOT NULL,
    fenced_at timestamp with time zone,
    ahead double precision[] DEFAULT '{}'::double precision[] NOT NULL,
    clock_ahead double precision,
    CONSTRAINT contours_id_check CHECK (((id >= 1) AND (id <= 1023))),
    CONSTRAINT contours_state_check CHECK ((state = ANY (ARRAY['active'::text, 'fenced'::text, 'forgotten'::text])))
)
WITH (fillfactor='50');
ALTER TABLE replication.contours OWNER TO replication_owner;
CREATE TABLE replication.discarded_events (
    id bigint NOT NULL,
    side text NOT NULL,
    event_id uuid,
    table_name text,
    record_key text,
    operation text,
    version bigint,
    event bytea,
    parked_reason text NOT NULL,
    parked_detail text DEFAULT ''::text NOT NULL,
    parked_at timestamp with time zone NOT NULL,
    attempts integer NOT NULL,
    discarded_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    discarded_by text DEFAULT SESSION_USER NOT NULL,
    because text NOT NULL,
    CONSTRAINT discarded_events_because_check CHECK ((because <> ''::text)),
    CONSTRAINT discarded_events_side_check CHECK ((side = ANY (ARRAY['publish'::text, 'apply'::text])))
);
ALTER TABLE replication.discarded_events OWNER TO replication_owner;
ALTER TABLE replication.discarded_events ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME replication.discarded_events_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE replication.displaced_keys (
    table_name text NOT NULL,
    record_key text NOT NULL,
    version bigint NOT NULL,
    displaced_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT displaced_keys_version_check CHECK ((version > 0))
);
ALTER TABLE replication.displaced_keys OWNER TO replication_owner;
CREATE TABLE replication.heartbeat (
    only_row boolean DEFAULT true NOT NULL,
    sequence bigint DEFAULT 0 NOT NULL,
    sent_at timestamp with time zone,
    round_at timestamp with time zone,
    round_applied jsonb,
    round_horizon xid8,
    round_mark bigint,
    CONSTRAINT heartbeat_check CHECK ((((round_at IS NULL) = (round_applied IS NULL)) AND ((round_at IS NULL) = (round_horizon IS NULL)))),
    CONSTRAINT heartbeat_check1 CHECK (((round_mark IS NULL) OR (round_at IS NOT NULL))),
    CONSTRAINT heartbeat_only_row_check CHECK (only_row)
)
WITH (fillfactor='50');
ALTER TABLE replication.heartbeat OWNER TO replication_owner;
CREATE TABLE replication.heartbeat_log (
    only_row boolean DEFAULT true NOT NULL,
    next_offset bigint,
    log_time timestamp with time zone,
    log_seconds double precision DEFAULT 0 NOT NULL,
    trouble text,
    CONSTRAINT heartbeat_log_only_row_check CHECK (only_row),
    CONSTRAINT heartbeat_log_trouble_check CHECK ((trouble = ANY (ARRAY['clash'::text, 'gone_back'::text])))
)
WITH (fillfactor='50');
ALTER TABLE replication.heartbeat_log OWNER TO replication_owner;
CREATE TABLE replication.histograms (
    metric text NOT NULL,
    table_name text DEFAULT ''::text NOT NULL,
    counts bigint[] NOT NULL,
    total numeric NOT NULL,
    CONSTRAINT histograms_counts_check CHECK ((cardinality(counts) = 16)),
    CONSTRAINT histograms_metric_check CHECK ((metric = ANY (ARRAY['publish_batch'::text, 'apply_batch'::text, 'publish_latency'::text, 'end_to_end_lag'::text])))
);
ALTER TABLE replication.histograms OWNER TO replication_owner;
CREATE TABLE replication.parked_events (
    id bigint NOT NULL,
    topic text NOT NULL,
    partition integer NOT NULL,
    kafka_offset bigint NOT NULL,
    event_id uuid,
    table_name text,
    record_key text,
    version bigint,
    reason text NOT NULL,
    detail text DEFAULT ''::text NOT NULL,
    event bytea NOT NULL,
    attempts integer DEFAULT 1 NOT NULL,
    parked_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    retried_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    blocked_by text,
    message_key bytea,
    signature bytea,
    CONSTRAINT parked_events_attempts_check CHECK ((attempts > 0)),
    CONSTRAINT parked_events_reason_check CHECK ((reason = ANY (ARRAY['missing_parent'::text, 'referenced'::text, 'clock_skew'::text, 'unknown_column'::text, 'unknown_table'::text, 'missing_table'::text, 'unique_conflict'::text, 'displaced'::text, 'constraint'::text, 'bad_value'::text, 'malformed'::text, 'fenced_contour'::text, 'too_old'::text, 'forged_origin'::text, 'unknown_contour'::text, 'bad_signature'::text])))
);
ALTER TABLE replication.parked_events OWNER TO replication_owner;
ALTER TABLE replication.parked_events ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME replication.parked_events_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE replication.processed_events (
    event_id uuid NOT NULL,
    processed_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);
ALTER TABLE replication.processed_events OWNER TO replication_owner;
CREATE TABLE replication.publish_shards (
    shard smallint NOT NULL
);
ALTER TABLE replication.publish_shards OWNER TO replication_owner;
CREATE TABLE replication.queue_ring (
    only_row boolean DEFAULT true NOT NULL,
    active_slot smallint DEFAULT 0 NOT NULL,
    active_since timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT queue_ring_active_slot_check CHECK (((active_slot >= 0) AND (active_slot <= 3))),
    CONSTRAINT queue_ring_only_row_check CHECK (only_row)
);
ALTER TABLE replication.queue_ring OWNER TO replication_owner;
ALTER TABLE replication.replicated_tables ALTER COLUMN table_id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME replication.replicated_tables_table_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE replication.replication_conflicts (
    id bigint NOT NULL,
    table_name text NOT NULL,
    record_key text NOT NULL,
    event_id uuid NOT NULL,
    incoming_contour text NOT NULL,
    incoming_version bigint NOT NULL,
    incoming_base bigint,
    current_version bigint NOT NULL,
    winner text NOT NULL,
    incoming_row json,
    current_row json,
    recorded_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    reason text,
    resolved_at timestamp with time zone,
    resolved_by text,
    resolution text,
    CONSTRAINT replication_conflicts_reason_check CHECK ((reason = ANY (ARRAY['update_update'::text, 'update_delete'::text, 'delete_update'::text, 'insert_insert'::text, 'insert_delete'::text, 'same_column'::text]))),
    CONSTRAINT replication_conflicts_resolution_check CHECK ((resolution = ANY (ARRAY['incoming'::text, 'current'::text]))),
    CONSTRAINT replication_conflicts_winner_check CHECK ((winner = ANY (ARRAY['incoming'::text, 'current'::text])))
);
ALTER TABLE replication.replication_conflicts OWNER TO replication_owner;
ALTER TABLE replication.replication_conflicts ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME replication.replication_conflicts_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE SEQUENCE replication.replication_queue_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE replication.replication_queue_id_seq OWNER TO replication_owner;
CREATE TABLE replication.replication_queue (
    id bigint DEFAULT nextval('replication.replication_queue_id_seq'::regclass) NOT NULL,
    event_id uuid NOT NULL,
    table_name text NOT NULL,
    operation text NOT NULL,
    record_key text NOT NULL,
    payload json,
    before json,
    version bigint NOT NULL,
    base_version bigint,
    shard smallint NOT NULL,
    shape integer,
    txid bigint NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    published boolean DEFAULT false NOT NULL,
    held boolean DEFAULT false NOT NULL,
    published_at timestamp with time zone,
    attempts integer DEFAULT 0 NOT NULL,
    last_error text,
    retry_at timestamp with time zone,
    parked_at timestamp with time zone,
    ring_slot smallint DEFAULT 0 NOT NULL,
    snapshot_to text,
    merge jsonb
)
PARTITION BY LIST (ring_slot);
ALTER TABLE replication.replication_queue OWNER TO replication_owner;
CREATE TABLE replication.replication_queue_0 (
    id bigint DEFAULT nextval('replication.replication_queue_id_seq'::regclass) CONSTRAINT replication_queue_id_not_null NOT NULL,
    event_id uuid CONSTRAINT replication_queue_event_id_not_null NOT NULL,
    table_name text CONSTRAINT replication_queue_table_name_not_null NOT NULL,
    operation text CONSTRAINT replication_queue_operation_not_null NOT NULL,
    record_key text CONSTRAINT replication_queue_record_key_not_null NOT NULL,
    payload json,
    before json,
    version bigint CONSTRAINT replication_queue_version_not_null NOT NULL,
    base_version bigint,
    shard smallint CONSTRAINT replication_queue_shard_not_null NOT NULL,
    shape integer,
    txid bigint CONSTRAINT replication_queue_txid_not_null NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() CONSTRAINT replication_queue_created_at_not_null NOT NULL,
    published boolean DEFAULT false CONSTRAINT replication_queue_published_not_null NOT NULL,
    held boolean DEFAULT false CONSTRAINT replication_queue_held_not_null NOT NULL,
    published_at timestamp with time zone,
    attempts integer DEFAULT 0 CONSTRAINT replication_queue_attempts_not_null NOT NULL,
    last_error text,
    retry_at timestamp with time zone,
    parked_at timestamp with time zone,
    ring_slot smallint DEFAULT 0 CONSTRAINT replication_queue_ring_slot_not_null NOT NULL,
    snapshot_to text,
    merge jsonb
)
WITH (autovacuum_vacuum_scale_factor='0.0', autovacuum_vacuum_threshold='20000', autovacuum_vacuum_insert_scale_factor='0.0', autovacuum_vacuum_insert_threshold='200000', autovacuum_analyze_scale_factor='0.0', autovacuum_analyze_threshold='100000');
ALTER TABLE replication.replication_queue_0 OWNER TO replication_owner;
CREATE TABLE replication.replication_queue_1 (
    id bigint DEFAULT nextval('replication.replication_queue_id_seq'::regclass) CONSTRAINT replication_queue_id_not_null NOT NULL,
    event_id uuid CONSTRAINT replication_queue_event_id_not_null NOT NULL,
    table_name text CONSTRAINT replication_queue_table_name_not_null NOT NULL,
    operation text CONSTRAINT replication_queue_operation_not_null NOT NULL,
    record_key text CONSTRAINT replication_queue_record_key_not_null NOT NULL,
    payload json,
    before json,
    version bigint CONSTRAINT replication_queue_version_not_null NOT NULL,
    base_version bigint,
    shard smallint CONSTRAINT replication_queue_shard_not_null NOT NULL,
    shape integer,
    txid bigint CONSTRAINT replication_queue_txid_not_null NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() CONSTRAINT replication_queue_created_at_not_null NOT NULL,
    published boolean DEFAULT false CONSTRAINT replication_queue_published_not_null NOT NULL,
    held boolean DEFAULT false CONSTRAINT replication_queue_held_not_null NOT NULL,
    published_at timestamp with time zone,
    attempts integer DEFAULT 0 CONSTRAINT replication_queue_attempts_not_null NOT NULL,
    last_error text,
    retry_at timestamp with time zone,
    parked_at timestamp with time zone,
    ring_slot smallint DEFAULT 1 CONSTRAINT replication_queue_ring_slot_not_null NOT NULL,
    snapshot_to text,
    merge jsonb
)
WITH (autovacuum_vacuum_scale_factor='0.0', autovacuum_vacuum_threshold='20000', autovacuum_vacuum_insert_scale_factor='0.0', autovacuum_vacuum_insert_threshold='200000', autovacuum_analyze_scale_factor='0.0', autovacuum_analyze_threshold='100000');
ALTER TABLE replication.replication_queue_1 OWNER TO replication_owner;
CREATE TABLE replication.replication_queue_2 (
    id bigint DEFAULT nextval('replication.replication_queue_id_seq'::regclass) CONSTRAINT replication_queue_id_not_null NOT NULL,
    event_id uuid CONSTRAINT replication_queue_event_id_not_null NOT NULL,
    table_name text CONSTRAINT replication_queue_table_name_not_null NOT NULL,
    operation text CONSTRAINT replication_queue_operation_not_null NOT NULL,
    record_key text CONSTRAINT replication_queue_record_key_not_null NOT NULL,
    payload json,
    before json,
    version bigint CONSTRAINT replication_queue_version_not_null NOT NULL,
    base_version bigint,
    shard smallint CONSTRAINT replication_queue_shard_not_null NOT NULL,
    shape integer,
    txid bigint CONSTRAINT replication_queue_txid_not_null NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() CONSTRAINT replication_queue_created_at_not_null NOT NULL,
    published boolean DEFAULT false CONSTRAINT replication_queue_published_not_null NOT NULL,
    held boolean DEFAULT false CONSTRAINT replication_queue_held_not_null NOT NULL,
    published_at timestamp with time zone,
    attempts integer DEFAULT 0 CONSTRAINT replication_queue_attempts_not_null NOT NULL,
    last_error text,
    retry_at timestamp with time zone,
    parked_at timestamp with time zone,
    ring_slot smallint DEFAULT 2 CONSTRAINT replication_queue_ring_slot_not_null NOT NULL,
    snapshot_to text,
    merge jsonb
)
WITH (autovacuum_vacuum_scale_factor='0.0', autovacuum_vacuum_threshold='20000', autovacuum_vacuum_insert_scale_factor='0.0', autovacuum_vacuum_insert_threshold='200000', autovacuum_analyze_scale_factor='0.0', autovacuum_analyze_threshold='100000');
ALTER TABLE replication.replication_queue_2 OWNER TO replication_owner;
CREATE TABLE replication.replication_queue_3 (
    id bigint DEFAULT nextval('replication.replication_queue_id_seq'::regclass) CONSTRAINT replication_queue_id_not_null NOT NULL,
    event_id uuid CONSTRAINT replication_queue_event_id_not_null NOT NULL,
    table_name text CONSTRAINT replication_queue_table_name_not_null NOT NULL,
    operation text CONSTRAINT replication_queue_operation_not_null NOT NULL,
    record_key text CONSTRAINT replication_queue_record_key_not_null NOT NULL,
    payload json,
    before json,
    version bigint CONSTRAINT replication_queue_version_not_null NOT NULL,
    base_version bigint,
    shard smallint CONSTRAINT replication_queue_shard_not_null NOT NULL,
    shape integer,
    txid bigint CONSTRAINT replication_queue_txid_not_null NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() CONSTRAINT replication_queue_created_at_not_null NOT NULL,
    published boolean DEFAULT false CONSTRAINT replication_queue_published_not_null NOT NULL,
    held boolean DEFAULT false CONSTRAINT replication_queue_held_not_null NOT NULL,
    published_at timestamp with time zone,
    attempts integer DEFAULT 0 CONSTRAINT replication_queue_attempts_not_null NOT NULL,
    last_error text,
    retry_at timestamp with time zone,
    parked_at timestamp with time zone,
    ring_slot smallint DEFAULT 3 CONSTRAINT replication_queue_ring_slot_not_null NOT NULL,
    snapshot_to text,
    merge jsonb
)
WITH (autovacuum_vacuum_scale_factor='0.0', autovacuum_vacuum_threshold='20000', autovacuum_vacuum_insert_scale_factor='0.0', autovacuum_vacuum_insert_threshold='200000', autovacuum_analyze_scale_factor='0.0', autovacuum_analyze_threshold='100000');
ALTER TABLE replication.replication_queue_3 OWNER TO replication_owner;
CREATE TABLE replication.replication_tombstones (
    table_name text NOT NULL,
    record_key text NOT NULL,
    version bigint NOT NULL,
    deleted_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    unsettled boolean DEFAULT false NOT NULL,
    settle_horizon xid8,
    long_key text,
    CONSTRAINT replication_tombstones_version_check CHECK ((version > 0))
);
ALTER TABLE replication.replication_tombstones OWNER TO replication_owner;
CREATE TABLE replication.snapshot_parts (
    snapshot_id bigint NOT NULL,
    part integer NOT NULL,
    reached text[],
    ends text[],
    queued bigint DEFAULT 0 NOT NULL,
    done boolean DEFAULT false NOT NULL
)
WITH (fillfactor='50');
ALTER TABLE replication.snapshot_parts OWNER TO replication_owner;
CREATE TABLE replication.snapshot_skipped (
    snapshot_id bigint NOT NULL,
    record_key text[] NOT NULL,
    visited_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);
ALTER TABLE replication.snapshot_skipped OWNER TO replication_owner;
CREATE TABLE replication.snapshots (
    id bigint NOT NULL,
    table_id integer NOT NULL,
    table_name text NOT NULL,
    key_columns text[] NOT NULL,
    send_to text,
    filter text,
    estimate bigint DEFAULT 0 NOT NULL,
    started_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    started_by text DEFAULT SESSION_USER NOT NULL,
    finished_at timestamp with time zone,
    given_up_at timestamp with time zone,
    queued bigint DEFAULT 0 NOT NULL,
    deletes bigint DEFAULT 0 NOT NULL,
    CONSTRAINT snapshots_check CHECK (((finished_at IS NULL) OR (given_up_at IS NULL)))
);
ALTER TABLE replication.snapshots OWNER TO replication_owner;
ALTER TABLE replication.snapshots ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME replication.snapshots_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE replication.worker_counts (
    instance text NOT NULL,
    part bigint NOT NULL,
    batches bigint DEFAULT 0 NOT NULL,
    processed bigint DEFAULT 0 NOT NULL,
    failed bigint DEFAULT 0 NOT NULL,
    bytes bigint DEFAULT 0 NOT NULL,
    last_success_at timestamp with time zone
)
WITH (fillfactor='50');
ALTER TABLE replication.worker_counts OWNER TO replication_owner;
CREATE TABLE replication.workers (
    instance text NOT NULL,
    role text NOT NULL,
    started_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    heartbeat_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    stopped_at timestamp with time zone,
    last_success_at timestamp with time zone,
    batches bigint DEFAULT 0 NOT NULL,
    processed bigint DEFAULT 0 NOT NULL,
    failed bigint DEFAULT 0 NOT NULL,
    applied bigint DEFAULT 0 NOT NULL,
    skipped bigint DEFAULT 0 NOT NULL,
    conflicts bigint DEFAULT 0 NOT NULL,
    bytes bigint DEFAULT 0 NOT NULL,
    CONSTRAINT workers_role_check CHECK ((role = ANY (ARRAY['publisher'::text, 'applier'::text])))
)
WITH (fillfactor='50');
ALTER TABLE replication.workers OWNER TO replication_owner;
CREATE VIEW replication.status AS
 SELECT c.name AS contour,
    q.unpublished,
    q.oldest_unpublished_seconds,
    q.parked_publish,
    q.held_publish,
    k.parked_apply,
    k.unique_conflicts,
    w.publishers,
    w.appliers,
    ( SELECT (COALESCE(sum(GREATEST((o.high_watermark - o.next_offset), (0)::bigint)), (0)::numeric))::bigint AS "coalesce"
           FROM replication.consumer_offsets o) AS apply_lag_events,
    w.processed_total,
    w.failed_total,
    w.applied_total,
    w.skipped_total,
    w.conflicts_total,
    ( SELECT COALESCE((max(k_1.clock_ahead) - min(k_1.clock_ahead)), (0)::double precision) AS "coalesce"
           FROM replication.contours k_1
          WHERE (k_1.state = 'active'::text)) AS clock_skew_seconds,
    ( SELECT count(*) AS count
           FROM replication.contours k_1
          WHERE (k_1.state = 'fenced'::text)) AS fenced_contours
   FROM (((replication.contour c
     CROSS JOIN LATERAL ( SELECT count(*) AS unpublished,
            COALESCE((EXTRACT(epoch FROM (clock_timestamp() - min(replication_queue.created_at))))::double precision, (0)::double precision) AS oldest_unpublished_seconds,
            count(*) FILTER (WHERE (replication_queue.parked_at IS NOT NULL)) AS parked_publish,
            count(*) FILTER (WHERE (replication_queue.held AND (replication_queue.parked_at IS NULL))) AS held_publish
           FROM replication.replication_queue
          WHERE (NOT replication_queue.published)) q)
     CROSS JOIN LATERAL ( SELECT count(*) AS parked_apply,
            count(*) FILTER (WHERE (parked_events.reason = ANY (ARRAY['unique_conflict'::text, 'displaced'::text]))) AS unique_conflicts
           FROM replication.parked_events) k)
     CROSS JOIN LATERAL ( SELECT count(*) FILTER (WHERE ((w_1.role = 'publisher'::text) AND w_1.alive)) AS publishers,
            count(*) FILTER (WHERE ((w_1.role = 'applier'::text) AND w_1.alive)) AS appliers,
            (COALESCE(sum(w_1.processed) FILTER (WHERE (w_1.role = 'publisher'::text)), (0)::numeric))::bigint AS processed_total,
            (COALESCE(sum(w_1.failed), (0)::numeric))::bigint AS failed_total,
            (COALESCE(sum(w_1.applied), (0)::numeric))::bigint AS applied_total,
            (COALESCE(sum(w_1.skipped), (0)::numeric))::bigint AS skipped_total,
            (COALESCE(sum(w_1.conflicts), (0)::numeric))::bigint AS conflicts_total
           FROM ( SELECT workers.role,
                    workers.applied,
                    workers.skipped,
                    workers.conflicts,
                    workers.processed,
                    workers.failed,
                    ((workers.stopped_at IS NULL) AND (workers.heartbeat_at > (clock_timestamp() - '00:00:30'::interval))) AS alive
                   FROM replication.workers
                UNION ALL
                 SELECT 'publisher'::text,
                    0,
                    0,
                    0,
                    worker_counts.processed,
                    worker_counts.failed,
                    false
                   FROM replication.worker_counts) w_1) w);
ALTER VIEW replication.status OWNER TO replication_owner;
COMMENT ON VIEW replication.status IS 'One row: backlog, lag in seconds, parked events, live workers and counters of this contour.';
CREATE TABLE replication.tombstone_floors (
    table_name text NOT NULL,
    version bigint NOT NULL,
    CONSTRAINT tombstone_floors_version_check CHECK ((version > 0))
);
ALTER TABLE replication.tombstone_floors OWNER TO replication_owner;
ALTER TABLE ONLY replication.replication_queue ATTACH PARTITION replication.replication_queue_0 FOR VALUES IN ('0');
ALTER TABLE ONLY replication.replication_queue ATTACH PARTITION replication.replication_queue_1 FOR VALUES IN ('1');
ALTER TABLE ONLY replication.replication_queue ATTACH PARTITION replication.replication_queue_2 FOR VALUES IN ('2');
ALTER TABLE ONLY replication.replication_queue ATTACH PARTITION replication.replication_queue_3 FOR VALUES IN ('3');
ALTER TABLE ONLY replication.comparisons
    ADD CONSTRAINT comparisons_pkey PRIMARY KEY (table_name);
ALTER TABLE ONLY replication.consumer_offsets
    ADD CONSTRAINT consumer_offsets_pkey PRIMARY KEY (topic, partition);
ALTER TABLE ONLY replication.consumer_topics
    ADD CONSTRAINT consumer_topics_pkey PRIMARY KEY (topic);
ALTER TABLE ONLY replication.contour
    ADD CONSTRAINT contour_pkey PRIMARY KEY (only_row);
ALTER TABLE ONLY replication.contour_rounds
    ADD CONSTRAINT contour_rounds_pkey PRIMARY KEY (contour, log_offset);
ALTER TABLE ONLY replication.contours
    ADD CONSTRAINT contours_pkey PRIMARY KEY (name);
ALTER TABLE ONLY replication.discarded_events
    ADD CONSTRAINT discarded_events_pkey PRIMARY KEY (id);
ALTER TABLE ONLY replication.displaced_keys
    ADD CONSTRAINT displaced_keys_pkey PRIMARY KEY (table_name, record_key);
ALTER TABLE ONLY replication.heartbeat_log
    ADD CONSTRAINT heartbeat_log_pkey PRIMARY KEY (only_row);
ALTER TABLE ONLY replication.heartbeat
    ADD CONSTRAINT heartbeat_pkey PRIMARY KEY (only_row);
ALTER TABLE ONLY replication.merge_states
    ADD CONSTRAINT merge_states_pkey PRIMARY KEY (table_name, record_key);
ALTER TABLE ONLY replication.parked_events
    ADD CONSTRAINT parked_events_pkey PRIMARY KEY (id);
ALTER TABLE ONLY replication.parked_events
    ADD CONSTRAINT parked_events_topic_partition_kafka_offset_key UNIQUE (topic, partition, kafka_offset);
ALTER TABLE ONLY replication.processed_events
    ADD CONSTRAINT processed_events_pkey PRIMARY KEY (event_id);
ALTER TABLE ONLY replication.publish_shards
    ADD CONSTRAINT publish_shards_pkey PRIMARY KEY (shard);
ALTER TABLE ONLY replication.queue_ring
    ADD CONSTRAINT queue_ring_pkey PRIMARY KEY (only_row);
ALTER TABLE ONLY replication.replicated_tables
    ADD CONSTRAINT replicated_tables_pkey PRIMARY KEY (table_id);
ALTER TABLE ONLY replication.replicated_tables
    ADD CONSTRAINT replicated_tables_relation_key UNIQUE (relation);
ALTER TABLE ONLY replication.replicated_tables
    ADD CONSTRAINT replicated_tables_table_name_key UNIQUE (table_name);
ALTER TABLE ONLY replication.replication_conflicts
    ADD CONSTRAINT replication_conflicts_pkey PRIMARY KEY (id);
ALTER TABLE ONLY replication.replication_tombstones
    ADD CONSTRAINT replication_tombstones_pkey PRIMARY KEY (table_name, record_key);
ALTER TABLE ONLY replication.snapshot_parts
    ADD CONSTRAINT snapshot_parts_pkey PRIMARY KEY (snapshot_id, part);
ALTER TABLE ONLY replication.snapshots
    ADD CONSTRAINT snapshots_pkey PRIMARY KEY (id);
ALTER TABLE ONLY replication.tombstone_floors
    ADD CONSTRAINT tombstone_floors_pkey PRIMARY KEY (table_name);
ALTER TABLE ONLY replication.worker_counts
    ADD CONSTRAINT worker_counts_pkey PRIMARY KEY (instance, part);
ALTER TABLE ONLY replication.workers
    ADD CONSTRAINT workers_pkey PRIMARY KEY (instance);
CREATE INDEX displaced_keys_version ON replication.displaced_keys USING btree (table_name, version);
CREATE INDEX parked_events_table ON replication.parked_events USING btree (table_name, id);
CREATE INDEX processed_events_age ON replication.processed_events USING brin (processed_at);
CREATE INDEX replication_conflicts_age ON replication.replication_conflicts USING btree (recorded_at);
CREATE UNIQUE INDEX replication_conflicts_loser ON replication.replication_conflicts USING btree (table_name, md5(record_key), LEAST(incoming_version, current_version));
CREATE INDEX replication_queue_held ON ONLY replication.replication_queue USING btree (hashtext(record_key)) WHERE held;
CREATE INDEX replication_queue_0_hashtext_idx ON replication.replication_queue_0 USING btree (hashtext(record_key)) WHERE held;
CREATE INDEX replication_queue_published ON ONLY replication.replication_queue USING brin (published_at);
CREATE INDEX replication_queue_0_published_at_idx ON replication.replication_queue_0 USING brin (published_at);
CREATE INDEX replication_queue_waiting ON ONLY replication.replication_queue USING btree (shard, held, id) WHERE (NOT published);
CREATE INDEX replication_queue_0_shard_held_id_idx ON replication.replication_queue_0 USING btree (shard, held, id) WHERE (NOT published);
CREATE INDEX replication_queue_1_hashtext_idx ON replication.replication_queue_1 USING btree (hashtext(record_key)) WHERE held;
CREATE INDEX replication_queue_1_published_at_idx ON replication.replication_queue_1 USING brin (published_at);
CREATE INDEX replication_queue_1_shard_held_id_idx ON replication.replication_queue_1 USING btree (shard, held, id) WHERE (NOT published);
CREATE INDEX replication_queue_2_hashtext_idx ON replication.replication_queue_2 USING btree (hashtext(record_key)) WHERE held;
CREATE INDEX replication_queue_2_published_at_idx ON replication.replication_queue_2 USING brin (published_at);
CREATE INDEX replication_queue_2_shard_held_id_idx ON replication.replication_queue_2 USING btree (shard, held, id) WHERE (NOT published);
CREATE INDEX replication_queue_3_hashtext_idx ON replication.replication_queue_3 USING btree (hashtext(record_key)) WHERE held;
CREATE INDEX replication_queue_3_published_at_idx ON replication.replication_queue_3 USING brin (published_at);
CREATE INDEX replication_queue_3_shard_held_id_idx ON replication.replication_queue_3 USING btree (shard, held, id) WHERE (NOT published);
CREATE INDEX replication_tombstones_unsettled ON replication.replication_tombstones USING btree (table_name) WHERE unsettled;
CREATE INDEX replication_tombstones_version ON replication.replication_tombstones USING btree (table_name, version);
CREATE INDEX snapshot_skipped_next ON replication.snapshot_skipped USING btree (snapshot_id, visited_at);
CREATE UNIQUE INDEX snapshots_running ON replication.snapshots USING btree (table_name) WHERE ((finished_at IS NULL) AND (given_up_at IS NULL));
ALTER INDEX replication.replication_queue_held ATTACH PARTITION replication.replication_queue_0_hashtext_idx;
ALTER INDEX replication.replication_queue_published ATTACH PARTITION replication.replication_queue_0_published_at_idx;
ALTER INDEX replication.replication_queue_waiting ATTACH PARTITION replication.replication_queue_0_shard_held_id_idx;
ALTER INDEX replication.replication_queue_held ATTACH PARTITION replication.replication_queue_1_hashtext_idx;
ALTER INDEX replication.replication_queue_published ATTACH PARTITION replication.replication_queue_1_published_at_idx;
ALTER INDEX replication.replication_queue_waiting ATTACH PARTITION replication.replication_queue_1_shard_held_id_idx;
ALTER INDEX replication.replication_queue_held ATTACH PARTITION replication.replication_queue_2_hashtext_idx;
ALTER INDEX replication.replication_queue_published ATTACH PARTITION replication.replication_queue_2_published_at_idx;
ALTER INDEX replication.replication_queue_waiting ATTACH PARTITION replication.replication_queue_2_shard_held_id_idx;
ALTER INDEX replication.replication_queue_held ATTACH PARTITION replication.replication_queue_3_hashtext_idx;
ALTER INDEX replication.replication_queue_published ATTACH PARTITION replication.replication_queue_3_published_at_idx;
ALTER INDEX replication.replication_queue_waiting ATTACH PARTITION replication.replication_queue_3_shard_held_id_idx;
ALTER TABLE ONLY replication.snapshot_parts
    ADD CONSTRAINT snapshot_parts_snapshot_id_fkey FOREIGN KEY (snapshot_id) REFERENCES replication.snapshots(id) ON DELETE CASCADE;
ALTER TABLE ONLY replication.snapshot_skipped
    ADD CONSTRAINT snapshot_skipped_snapshot_id_fkey FOREIGN KEY (snapshot_id) REFERENCES replication.snapshots(id) ON DELETE CASCADE;
GRANT ALL ON SCHEMA replication TO replication_owner;
GRANT USAGE ON SCHEMA replication TO replication_publisher;
GRANT USAGE ON SCHEMA replication TO replication_consumer;
GRANT USAGE ON SCHEMA replication TO replication_monitor;
REVOKE ALL ON FUNCTION replication.base_type(type_id oid) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.base_type(type_id oid) TO replication_owner;
GRANT ALL ON FUNCTION replication.base_type(type_id oid) TO replication_consumer;
GRANT ALL ON FUNCTION replication.base_type(type_id oid) TO replication_monitor;
GRANT SELECT ON TABLE replication.replicated_tables TO replication_publisher;
GRANT SELECT ON TABLE replication.replicated_tables TO replication_consumer;
GRANT SELECT ON TABLE replication.replicated_tables TO replication_monitor;
REVOKE ALL ON FUNCTION replication.buried_key(t replication.replicated_tables, key text) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.buried_key(t replication.replicated_tables, key text) TO replication_owner;
REVOKE ALL ON FUNCTION replication.capture_statement(t replication.replicated_tables, operation text, careful boolean, largest bigint, source text, seed text, txid text, earliest text, guarded boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.capture_statement(t replication.replicated_tables, operation text, careful boolean, largest bigint, source text, seed text, txid text, earliest text, guarded boolean) TO replication_owner;
REVOKE ALL ON FUNCTION replication.capture_truncate() FROM PUBLIC;
REVOKE ALL ON FUNCTION replication.check_snapshot(t replication.replicated_tables, leaf oid, send_to text) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.check_snapshot(t replication.replicated_tables, leaf oid, send_to text) TO replication_owner;
REVOKE ALL ON FUNCTION replication.clock() FROM PUBLIC;
GRANT ALL ON FUNCTION replication.clock() TO replication_owner;
GRANT ALL ON FUNCTION replication.clock() TO replication_publisher;
REVOKE ALL ON FUNCTION replication.clock_expression(clock_offset interval, source text) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.clock_expression(clock_offset interval, source text) TO replication_owner;
REVOKE ALL ON FUNCTION replication.current_names(relation regclass, names text[], attnums smallint[]) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.current_names(relation regclass, names text[], attnums smallint[]) TO replication_owner;
REVOKE ALL ON FUNCTION replication.current_table(of_table integer) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.current_table(of_table integer) TO replication_owner;
REVOKE ALL ON FUNCTION replication.data_columns(t replication.replicated_tables) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.data_columns(t replication.replicated_tables) TO replication_owner;
REVOKE ALL ON FUNCTION replication.drop_functions(t replication.replicated_tables) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.drop_functions(t replication.replicated_tables) TO replication_owner;
REVOKE ALL ON FUNCTION replication.drop_triggers(part regclass) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.drop_triggers(part regclass) TO replication_owner;
REVOKE ALL ON FUNCTION replication.earliest_version() FROM PUBLIC;
GRANT ALL ON FUNCTION replication.earliest_version() TO replication_owner;
GRANT SELECT ON TABLE replication.contour TO replication_publisher;
GRANT SELECT ON TABLE replication.contour TO replication_consumer;
GRANT SELECT ON TABLE replication.contour TO replication_monitor;
REVOKE ALL ON FUNCTION replication.event_origin(c replication.contour) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.event_origin(c replication.contour) TO replication_owner;
REVOKE ALL ON FUNCTION replication.event_value(operation text, record_key text, before json, payload json, head text, txid bigint, created_at timestamp with time zone, event_id uuid, version bigint, base_version bigint, shape integer, merge jsonb, snapshot_to text, sent bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.event_value(operation text, record_key text, before json, payload json, head text, txid bigint, created_at timestamp with time zone, event_id uuid, version bigint, base_version bigint, shape integer, merge jsonb, snapshot_to text, sent bigint) TO replication_owner;
GRANT ALL ON FUNCTION replication.event_value(operation text, record_key text, before json, payload json, head text, txid bigint, created_at timestamp with time zone, event_id uuid, version bigint, base_version bigint, shape integer, merge jsonb, snapshot_to text, sent bigint) TO replication_publisher;
REVOKE ALL ON FUNCTION replication.follow_ddl() FROM PUBLIC;
GRANT ALL ON FUNCTION replication.follow_ddl() TO replication_owner;
REVOKE ALL ON FUNCTION replication.follow_schema_changes(may_alter boolean, only_tables integer[]) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.follow_schema_changes(may_alter boolean, only_tables integer[]) TO replication_owner;
REVOKE ALL ON FUNCTION replication.forget_dropped_tables() FROM PUBLIC;
GRANT ALL ON FUNCTION replication.forget_dropped_tables() TO replication_owner;
REVOKE ALL ON FUNCTION replication.grant_rights(of_table integer) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.grant_rights(of_table integer) TO replication_owner;
REVOKE ALL ON FUNCTION replication.guard_expression(t replication.replicated_tables, operation text) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.guard_expression(t replication.replicated_tables, operation text) TO replication_owner;
REVOKE ALL ON FUNCTION replication.image_expression(t replication.replicated_tables, alias text, largest bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.image_expression(t replication.replicated_tables, alias text, largest bigint) TO replication_owner;
REVOKE ALL ON FUNCTION replication.install_clock(clock_offset interval) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.install_clock(clock_offset interval) TO replication_owner;
REVOKE ALL ON FUNCTION replication.key_expression(t replication.replicated_tables, alias text) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.key_expression(t replication.replicated_tables, alias text) TO replication_owner;
REVOKE ALL ON FUNCTION replication.key_hash(t replication.replicated_tables, alias text) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.key_hash(t replication.replicated_tables, alias text) TO replication_owner;
REVOKE ALL ON FUNCTION replication.key_list(t replication.replicated_tables, form text, separator text) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.key_list(t replication.replicated_tables, form text, separator text) TO replication_owner;
REVOKE ALL ON FUNCTION replication.key_match(t replication.replicated_tables, one text, other text) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.key_match(t replication.replicated_tables, one text, other text) TO replication_owner;
REVOKE ALL ON FUNCTION replication.lock_statement(t replication.replicated_tables, operation text) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.lock_statement(t replication.replicated_tables, operation text) TO replication_owner;
REVOKE ALL ON FUNCTION replication.merge_event(op text, version bigint, image jsonb, merge jsonb, keys text[], deltas text[]) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.merge_event(op text, version bigint, image jsonb, merge jsonb, keys text[], deltas text[]) TO replication_owner;
GRANT ALL ON FUNCTION replication.merge_event(op text, version bigint, image jsonb, merge jsonb, keys text[], deltas text[]) TO replication_consumer;
REVOKE ALL ON FUNCTION replication.merge_expression(t replication.replicated_tables) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.merge_expression(t replication.replicated_tables) TO replication_owner;
REVOKE ALL ON FUNCTION replication.merge_fresh(image jsonb, version bigint, keys text[], deltas text[]) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.merge_fresh(image jsonb, version bigint, keys text[], deltas text[]) TO replication_owner;
GRANT ALL ON FUNCTION replication.merge_fresh(image jsonb, version bigint, keys text[], deltas text[]) TO replication_consumer;
GRANT SELECT,DELETE ON TABLE replication.merge_states TO replication_publisher;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE replication.merge_states TO replication_consumer;
GRANT SELECT ON TABLE replication.merge_states TO replication_monitor;
REVOKE ALL ON FUNCTION replication.merge_known(image jsonb, version bigint, entry replication.merge_states, buried bigint, keys text[], deltas text[]) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.merge_known(image jsonb, version bigint, entry replication.merge_states, buried bigint, keys text[], deltas text[]) TO replication_owner;
GRANT ALL ON FUNCTION replication.merge_known(image jsonb, version bigint, entry replication.merge_states, buried bigint, keys text[], deltas text[]) TO replication_consumer;
REVOKE ALL ON FUNCTION replication.merge_sum(totals jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.merge_sum(totals jsonb) TO replication_owner;
GRANT ALL ON FUNCTION replication.merge_sum(totals jsonb) TO replication_consumer;
REVOKE ALL ON FUNCTION replication.merge_two(a jsonb, b jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.merge_two(a jsonb, b jsonb) TO replication_owner;
GRANT ALL ON FUNCTION replication.merge_two(a jsonb, b jsonb) TO replication_consumer;
REVOKE ALL ON FUNCTION replication.merge_write(of_table text, key text, keys text[], deltas text[], former jsonb, former_version bigint, image jsonb, version bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.merge_write(of_table text, key text, keys text[], deltas text[], former jsonb, former_version bigint, image jsonb, version bigint) TO replication_owner;
REVOKE ALL ON FUNCTION replication.next_version(predecessor bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.next_version(predecessor bigint) TO replication_owner;
REVOKE ALL ON FUNCTION replication.parts_of(relation regclass) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.parts_of(relation regclass) TO replication_owner;
GRANT ALL ON FUNCTION replication.parts_of(relation regclass) TO replication_publisher;
REVOKE ALL ON FUNCTION replication.pin_text_settings(t replication.replicated_tables) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.pin_text_settings(t replication.replicated_tables) TO replication_owner;
REVOKE ALL ON FUNCTION replication.projection(t replication.replicated_tables, alias text) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.projection(t replication.replicated_tables, alias text) TO replication_owner;
REVOKE ALL ON FUNCTION replication.put_capture_triggers(t replication.replicated_tables, part regclass) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.put_capture_triggers(t replication.replicated_tables, part regclass) TO replication_owner;
REVOKE ALL ON FUNCTION replication.put_stamps(relation regclass, clock_offset interval) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.put_stamps(relation regclass, clock_offset interval) TO replication_owner;
REVOKE ALL ON FUNCTION replication.queue_insert(t replication.replicated_tables, events text, buries boolean, may_lack_image boolean, seed text, txid text, snapshot_to text) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.queue_insert(t replication.replicated_tables, events text, buries boolean, may_lack_image boolean, seed text, txid text, snapshot_to text) TO replication_owner;
REVOKE ALL ON FUNCTION replication.refresh_capture(of_table integer) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.refresh_capture(of_table integer) TO replication_owner;
REVOKE ALL ON FUNCTION replication.refresh_captures() FROM PUBLIC;
GRANT ALL ON FUNCTION replication.refresh_captures() TO replication_publisher;
REVOKE ALL ON FUNCTION replication.refresh_merge(t replication.replicated_tables) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.refresh_merge(t replication.replicated_tables) TO replication_owner;
REVOKE ALL ON FUNCTION replication.refuse_bad_merge(wanted replication.replicated_tables) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.refuse_bad_merge(wanted replication.replicated_tables) TO replication_owner;
REVOKE ALL ON FUNCTION replication.refuse_bad_options(registered replication.replicated_tables, wanted replication.replicated_tables) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.refuse_bad_options(registered replication.replicated_tables, wanted replication.replicated_tables) TO replication_owner;
REVOKE ALL ON FUNCTION replication.refuse_unfit_table(relation regclass) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.refuse_unfit_table(relation regclass) TO replication_owner;
REVOKE ALL ON FUNCTION replication.remove_published(retention interval, most integer) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.remove_published(retention interval, most integer) TO replication_publisher;
REVOKE ALL ON FUNCTION replication.remove_table_from_replication(relation regclass, drop_version_column boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.remove_table_from_replication(relation regclass, drop_version_column boolean) TO replication_owner;
REVOKE ALL ON FUNCTION replication.renew_rows(of_table integer, leaves oid[], places tid[], above bigint[]) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.renew_rows(of_table integer, leaves oid[], places tid[], above bigint[]) TO replication_consumer;
REVOKE ALL ON FUNCTION replication.resend_deletes(of_table integer, keys text[], versions bigint[]) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.resend_deletes(of_table integer, keys text[], versions bigint[]) TO replication_consumer;
REVOKE ALL ON FUNCTION replication.resend_rows(of_table integer, leaves oid[], places tid[], above bigint[]) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.resend_rows(of_table integer, leaves oid[], places tid[], above bigint[]) TO replication_consumer;
REVOKE ALL ON FUNCTION replication.restore_settings(former text[]) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.restore_settings(former text[]) TO replication_owner;
REVOKE ALL ON FUNCTION replication.revive_statement(t replication.replicated_tables) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.revive_statement(t replication.replicated_tables) TO replication_owner;
REVOKE ALL ON FUNCTION replication.revoke_rights(t replication.replicated_tables) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.revoke_rights(t replication.replicated_tables) TO replication_owner;
REVOKE ALL ON FUNCTION replication.rotate_queue(retention interval) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.rotate_queue(retention interval) TO replication_publisher;
REVOKE ALL ON FUNCTION replication.same_names(one text[], other text[]) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.same_names(one text[], other text[]) TO replication_owner;
REVOKE ALL ON FUNCTION replication.setup_table_for_replication(relation regclass, full_before boolean, include text[], exclude text[], capture_truncate boolean, displace boolean, merge text, delta_columns text[]) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.setup_table_for_replication(relation regclass, full_before boolean, include text[], exclude text[], capture_truncate boolean, displace boolean, merge text, delta_columns text[]) TO replication_owner;
REVOKE ALL ON FUNCTION replication.shape_of(t replication.replicated_tables) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.shape_of(t replication.replicated_tables) TO replication_owner;
REVOKE ALL ON FUNCTION replication.size_expression(t replication.replicated_tables, alias text) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.size_expression(t replication.replicated_tables, alias text) TO replication_owner;
REVOKE ALL ON FUNCTION replication.small_expression(t replication.replicated_tables, alias text) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.small_expression(t replication.replicated_tables, alias text) TO replication_owner;
REVOKE ALL ON FUNCTION replication.snapshot_deletes(of_table integer, keys text[], send_to text) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.snapshot_deletes(of_table integer, keys text[], send_to text) TO replication_publisher;
REVOKE ALL ON FUNCTION replication.snapshot_rows(of_table integer, leaf oid, places tid[], send_to text) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.snapshot_rows(of_table integer, leaf oid, places tid[], send_to text) TO replication_publisher;
REVOKE ALL ON FUNCTION replication.stamp_update() FROM PUBLIC;
GRANT ALL ON FUNCTION replication.stamp_update() TO replication_owner;
REVOKE ALL ON FUNCTION replication.stamp_update_of_captured() FROM PUBLIC;
GRANT ALL ON FUNCTION replication.stamp_update_of_captured() TO replication_owner;
REVOKE ALL ON FUNCTION replication.table_fingerprint(relation regclass) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.table_fingerprint(relation regclass) TO replication_owner;
GRANT ALL ON FUNCTION replication.table_fingerprint(relation regclass) TO replication_consumer;
GRANT ALL ON FUNCTION replication.table_fingerprint(relation regclass) TO replication_monitor;
REVOKE ALL ON FUNCTION replication.text_settings(t replication.replicated_tables) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.text_settings(t replication.replicated_tables) TO replication_owner;
REVOKE ALL ON FUNCTION replication.tombstone_key(record_key text) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.tombstone_key(record_key text) TO replication_owner;
GRANT ALL ON FUNCTION replication.tombstone_key(record_key text) TO replication_publisher;
GRANT ALL ON FUNCTION replication.tombstone_key(record_key text) TO replication_consumer;
GRANT ALL ON FUNCTION replication.tombstone_key(record_key text) TO replication_monitor;
REVOKE ALL ON FUNCTION replication.uncommon_time(value timestamp without time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.uncommon_time(value timestamp without time zone) TO replication_owner;
GRANT ALL ON FUNCTION replication.uncommon_time(value timestamp without time zone) TO replication_consumer;
GRANT ALL ON FUNCTION replication.uncommon_time(value timestamp without time zone) TO replication_monitor;
REVOKE ALL ON FUNCTION replication.uncommon_time(value timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.uncommon_time(value timestamp with time zone) TO replication_owner;
GRANT ALL ON FUNCTION replication.uncommon_time(value timestamp with time zone) TO replication_consumer;
GRANT ALL ON FUNCTION replication.uncommon_time(value timestamp with time zone) TO replication_monitor;
REVOKE ALL ON FUNCTION replication.whole_row(of_table integer, OUT key_expression text, OUT projection text, OUT shape text) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.whole_row(of_table integer, OUT key_expression text, OUT projection text, OUT shape text) TO replication_consumer;
GRANT ALL ON FUNCTION replication.whole_row(of_table integer, OUT key_expression text, OUT projection text, OUT shape text) TO replication_publisher;
GRANT ALL ON FUNCTION replication.whole_row(of_table integer, OUT key_expression text, OUT projection text, OUT shape text) TO replication_monitor;
REVOKE ALL ON FUNCTION replication.wire_expression(reference text, type_id oid) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.wire_expression(reference text, type_id oid) TO replication_owner;
REVOKE ALL ON FUNCTION replication.with_current_key(t replication.replicated_tables) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.with_current_key(t replication.replicated_tables) TO replication_owner;
REVOKE ALL ON FUNCTION replication.merged(jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.merged(jsonb) TO replication_owner;
GRANT ALL ON FUNCTION replication.merged(jsonb) TO replication_consumer;
GRANT SELECT,INSERT,UPDATE ON TABLE replication.comparisons TO replication_publisher;
GRANT SELECT,INSERT,UPDATE ON TABLE replication.comparisons TO replication_consumer;
GRANT SELECT ON TABLE replication.comparisons TO replication_monitor;
GRANT SELECT ON TABLE replication.consumer_offsets TO replication_publisher;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE replication.consumer_offsets TO replication_consumer;
GRANT SELECT ON TABLE replication.consumer_offsets TO replication_monitor;
GRANT SELECT ON TABLE replication.consumer_topics TO replication_publisher;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE replication.consumer_topics TO replication_consumer;
GRANT SELECT ON TABLE replication.consumer_topics TO replication_monitor;
GRANT SELECT ON TABLE replication.contour_rounds TO replication_publisher;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE replication.contour_rounds TO replication_consumer;
GRANT SELECT ON TABLE replication.contour_rounds TO replication_monitor;
GRANT SELECT ON TABLE replication.contours TO replication_publisher;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE replication.contours TO replication_consumer;
GRANT SELECT ON TABLE replication.contours TO replication_monitor;
GRANT SELECT,INSERT ON TABLE replication.discarded_events TO replication_publisher;
GRANT SELECT,INSERT ON TABLE replication.discarded_events TO replication_consumer;
GRANT SELECT ON TABLE replication.discarded_events TO replication_monitor;
GRANT SELECT ON TABLE replication.displaced_keys TO replication_publisher;
GRANT SELECT,INSERT,UPDATE ON TABLE replication.displaced_keys TO replication_consumer;
GRANT SELECT ON TABLE replication.displaced_keys TO replication_monitor;
GRANT SELECT,UPDATE ON TABLE replication.heartbeat TO replication_publisher;
GRANT SELECT,UPDATE ON TABLE replication.heartbeat TO replication_consumer;
GRANT SELECT ON TABLE replication.heartbeat TO replication_monitor;
GRANT SELECT ON TABLE replication.heartbeat_log TO replication_publisher;
GRANT SELECT,UPDATE ON TABLE replication.heartbeat_log TO replication_consumer;
GRANT SELECT ON TABLE replication.heartbeat_log TO replication_monitor;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE replication.histograms TO replication_publisher;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE replication.histograms TO replication_consumer;
GRANT SELECT ON TABLE replication.histograms TO replication_monitor;
GRANT SELECT ON TABLE replication.parked_events TO replication_publisher;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE replication.parked_events TO replication_consumer;
GRANT SELECT ON TABLE replication.parked_events TO replication_monitor;
GRANT SELECT,DELETE ON TABLE replication.processed_events TO replication_publisher;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE replication.processed_events TO replication_consumer;
GRANT SELECT ON TABLE replication.processed_events TO replication_monitor;
GRANT SELECT,UPDATE ON TABLE replication.publish_shards TO replication_publisher;
GRANT SELECT ON TABLE replication.publish_shards TO replication_consumer;
GRANT SELECT ON TABLE replication.publish_shards TO replication_monitor;
GRANT SELECT ON TABLE replication.queue_ring TO replication_publisher;
GRANT SELECT ON TABLE replication.queue_ring TO replication_consumer;
GRANT SELECT ON TABLE replication.queue_ring TO replication_monitor;
GRANT SELECT,DELETE ON TABLE replication.replication_conflicts TO replication_publisher;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE replication.replication_conflicts TO replication_consumer;
GRANT SELECT ON TABLE replication.replication_conflicts TO replication_monitor;
GRANT SELECT ON SEQUENCE replication.replication_queue_id_seq TO replication_publisher;
GRANT SELECT,DELETE,UPDATE ON TABLE replication.replication_queue TO replication_publisher;
GRANT SELECT ON TABLE replication.replication_queue TO replication_consumer;
GRANT SELECT ON TABLE replication.replication_queue TO replication_monitor;
GRANT SELECT ON TABLE replication.replication_queue_0 TO replication_publisher;
GRANT SELECT ON TABLE replication.replication_queue_0 TO replication_consumer;
GRANT SELECT ON TABLE replication.replication_queue_0 TO replication_monitor;
GRANT SELECT ON TABLE replication.replication_queue_1 TO replication_publisher;
GRANT SELECT ON TABLE replication.replication_queue_1 TO replication_consumer;
GRANT SELECT ON TABLE replication.replication_queue_1 TO replication_monitor;
GRANT SELECT ON TABLE replication.replication_queue_2 TO replication_publisher;
GRANT SELECT ON TABLE replication.replication_queue_2 TO replication_consumer;
GRANT SELECT ON TABLE replication.replication_queue_2 TO replication_monitor;
GRANT SELECT ON TABLE replication.replication_queue_3 TO replication_publisher;
GRANT SELECT ON TABLE replication.replication_queue_3 TO replication_consumer;
GRANT SELECT ON TABLE replication.replication_queue_3 TO replication_monitor;
GRANT SELECT,DELETE,UPDATE ON TABLE replication.replication_tombstones TO replication_publisher;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE replication.replication_tombstones TO replication_consumer;
GRANT SELECT ON TABLE replication.replication_tombstones TO replication_monitor;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE replication.snapshot_parts TO replication_publisher;
GRANT SELECT ON TABLE replication.snapshot_parts TO replication_consumer;
GRANT SELECT ON TABLE replication.snapshot_parts TO replication_monitor;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE replication.snapshot_skipped TO replication_publisher;
GRANT SELECT ON TABLE replication.snapshot_skipped TO replication_consumer;
GRANT SELECT ON TABLE replication.snapshot_skipped TO replication_monitor;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE replication.snapshots TO replication_publisher;
GRANT SELECT ON TABLE replication.snapshots TO replication_consumer;
GRANT SELECT ON TABLE replication.snapshots TO replication_monitor;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE replication.worker_counts TO replication_publisher;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE replication.worker_counts TO replication_consumer;
GRANT SELECT ON TABLE replication.worker_counts TO replication_monitor;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE replication.workers TO replication_publisher;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE replication.workers TO replication_consumer;
GRANT SELECT ON TABLE replication.workers TO replication_monitor;
GRANT SELECT ON TABLE replication.status TO replication_publisher;
GRANT SELECT ON TABLE replication.status TO replication_consumer;
GRANT SELECT ON TABLE replication.status TO replication_monitor;
GRANT SELECT,INSERT,UPDATE ON TABLE replication.tombstone_floors TO replication_publisher;
GRANT SELECT,DELETE ON TABLE replication.tombstone_floors TO replication_consumer;
GRANT SELECT ON TABLE replication.tombstone_floors TO replication_monitor;
