-- Wire forms: how a column's value is written into an event (docs/events.md). Expressions are generated
-- from the catalog; nothing here reads a row.

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

-- The rare times that JSON's form does not cover: infinite ones, BC, and years of five digits.
create or replace function replication.uncommon_time(value timestamptz)
returns text language sql stable
set search_path = pg_catalog, pg_temp set "DateStyle" = 'ISO, YMD' set "TimeZone" = 'UTC' as $$
  select value::text
$$;
create or replace function replication.uncommon_time(value timestamp)
returns text language sql stable
set search_path = pg_catalog, pg_temp set "DateStyle" = 'ISO, YMD' as $$
  select value::text
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
end $$;
