-- The value of an event as it goes to Kafka: Debezium's five fields, put together from text that capture
-- has made. Nobody parses it again on the way. A plain expression, which PostgreSQL inlines; the parts
-- are few, and the long ones come last, because each `||` copies what stands before it.
--   head  the constant beginning of `source`: '{"connector":…,"schema":…,"table":…'
--   snapshot_to  as in the queue; Debezium calls a snapshot beside changes incremental
--   sent  milliseconds since 1970: the event's own ts_ms
drop function if exists replication.event_value(
  text, text, json, json, text, bigint, timestamptz, uuid, bigint, bigint, bigint);
drop function if exists replication.event_value(
  text, text, json, json, text, bigint, timestamptz, uuid, bigint, bigint, integer, bigint);
drop function if exists replication.event_value(
  text, text, json, json, text, bigint, timestamptz, uuid, bigint, bigint, integer, jsonb, bigint);
create or replace function replication.event_value(
  operation text, record_key text, before json, payload json, head text, txid bigint,
  created_at timestamptz, event_id uuid, version bigint, base_version bigint, shape integer,
  merge jsonb, snapshot_to text, sent bigint)
returns text language sql stable parallel safe as $$
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
