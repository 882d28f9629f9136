-- Setting a table up for replication, and taking it out again. Both are idempotent.

drop function if exists replication.setup_table_for_replication(regclass, boolean);
drop function if exists replication.setup_table_for_replication(regclass, boolean, text[], text[], boolean);
drop function if exists replication.setup_table_for_replication(
  regclass, boolean, text[], text[], boolean, boolean);

-- Captures every change of `relation` from now on, and lets the consumer role write it.
--   full_before       events of UPDATE and DELETE carry the whole old row, not only its key
--   include, exclude  the columns that travel, or those that don't; key columns always do. A change of
--                     other columns only is no event
--   capture_truncate  TRUNCATE becomes a DELETE of every row; otherwise it is refused
--   displace          when rows of two keys have the same value of a unique index, the one with the newer
--                     version lives and the other waits, parked; otherwise whichever came first stays. The
--                     same in every contour; may be changed at any time
--   merge             'columns': Last-Write-Wins column by column, so that concurrent changes of different
--                     columns both stand; else 'row'. The same in every contour
--   delta_columns     counters: what each contour adds to them is summed up; implies merge columns
-- null: as it is, or for a new table false and all columns. Other options than a table has are refused.
create or replace function replication.setup_table_for_replication(
  relation regclass, full_before boolean default null, include text[] default null,
  exclude text[] default null, capture_truncate boolean default null, displace boolean default null,
  merge text default null, delta_columns text[] default null)
returns void language plpgsql
set search_path = pg_catalog, pg_temp set client_min_messages = warning as $$
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

-- A table and, if it is partitioned, all its partitions.
create or replace function replication.parts_of(relation regclass)
returns setof regclass language sql stable set search_path = pg_catalog, pg_temp as $$
  select relation union select relid from pg_partition_tree(relation)
$$;

-- What the pipeline's roles need on a table and its schema. Only what is missing is granted, and
-- remembered for the day the table is removed.
create or replace function replication.grant_rights(of_table integer)
returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
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

create or replace function replication.revoke_rights(t replication.replicated_tables)
returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
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
end $$;

-- What was made for a table that is registered no more.
create or replace function replication.drop_functions(t replication.replicated_tables)
returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  execute format('drop function if exists replication.%I()', 'capture_' || t.table_id);
  if t.merge = 'columns' then
    execute format('drop function if exists replication.%I()', 'merge_' || t.table_id);
    delete from replication.merge_states m where m.table_name = t.table_name;
  end if;
end $$;

-- Registrations of tables that have been dropped.
create or replace function replication.forget_dropped_tables()
returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
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

-- The statement triggers of a table, or of one partition. They fire for the table that a statement
-- names, so each partition has its own, and no row is captured twice.
create or replace function replication.put_capture_triggers(t replication.replicated_tables, part regclass)
returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
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

-- Brings capture up to date with changes of tables: compiled functions, the columns that don't count,
-- and triggers on new partitions. An event trigger calls it within the transaction of the change where
-- the installing role may make one, else publishers call it every few seconds.
--   may_alter: also what only the tables' owner or a superuser may do. Without it, a table that someone
--   is altering right now is left for the next time
create or replace function replication.follow_schema_changes(
  may_alter boolean default false, only_tables integer[] default null)
returns integer language plpgsql set search_path = pg_catalog, pg_temp as $$
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

-- For publishers, who own nothing.
create or replace function replication.refresh_captures()
returns integer language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  return replication.follow_schema_changes();
end $$;

create or replace function replication.follow_ddl()
returns event_trigger language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
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

-- Says why a table can't be replicated, and what to do about it.
create or replace function replication.refuse_unfit_table(relation regclass)
returns void language plpgsql stable set search_path = pg_catalog, pg_temp as $$
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

create or replace function replication.same_names(one text[], other text[])
returns boolean language sql immutable set search_path = pg_catalog, pg_temp as $$
  select (one is null) = (other is null) and coalesce(one <@ other and other <@ one, true)
$$;

-- Says which option is wrong, or other than the table's own.
create or replace function replication.refuse_bad_options(
  registered replication.replicated_tables, wanted replication.replicated_tables)
returns void language plpgsql stable set search_path = pg_catalog, pg_temp as $$
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
end $$;

-- The same, of the options `merge` and `delta_columns`.
create or replace function replication.refuse_bad_merge(wanted replication.replicated_tables)
returns void language plpgsql stable set search_path = pg_catalog, pg_temp as $$
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

-- BEFORE TRUNCATE of a table or partition. The table is locked by now, so nobody else writes to it.
create or replace function replication.capture_truncate()
returns trigger language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
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

-- Stops capturing. Queued events stay and are published. The version column stays unless asked for:
-- dropping it forgets which write was the last one.
create or replace function replication.remove_table_from_replication(
  relation regclass, drop_version_column boolean default false)
returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
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

-- All triggers of ours on one table or partition, but those that PostgreSQL copied from its root.
create or replace function replication.drop_triggers(part regclass)
returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
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

-- Only a superuser may make an event trigger; elsewhere publishers follow changes of columns, and a
-- new partition that is written to by its own name needs another setup_table_for_replication().
do $$ begin
  create event trigger replication_follow_ddl on ddl_command_end
    when tag in ('CREATE TABLE', 'ALTER TABLE', 'ALTER SCHEMA', 'DROP TABLE', 'DROP SCHEMA',
                 'DROP OWNED')
    execute function replication.follow_ddl();
exception
  when duplicate_object then null;
  when insufficient_privilege then
    raise warning 'no event trigger could be made: this role is no superuser'
      using hint = 'After adding a partition, run setup_table_for_replication() of its table again.';
end $$;

-- After an upgrade of these files everything is made again.
do $$
declare
  t replication.replicated_tables;
  part regclass;
begin
  perform replication.forget_dropped_tables();
  perform replication.install_clock();
  for t in select * from replication.replicated_tables loop
    if not pg_has_role(current_user, (select relowner from pg_class where oid = t.relation), 'usage') then
      raise warning 'table % belongs to another role; its triggers stay as they are', t.relation
        using hint = 'Let its owner run setup_table_for_replication() again.';
      continue;
    end if;
    perform replication.refresh_capture(t.table_id);
    for part in select replication.parts_of(t.relation) loop
      execute format('drop trigger if exists replication_refuse_truncate on %s', part);
      execute format('drop trigger if exists zz_replication_stamp_insert on %s', part);
      perform replication.put_capture_triggers(t, part);
    end loop;
  end loop;
end $$;
drop function if exists replication.refuse_truncate(), replication.stamp_insert();
drop function if exists replication.with_variables(text), replication.queue_insert(text, boolean),
  replication.refresh_capture(replication.replicated_tables),
  replication.capture_statement(replication.replicated_tables, text, boolean),
  replication.data_columns(regclass), replication.projection(regclass, text),
  replication.key_expression(regclass, text[], text);
