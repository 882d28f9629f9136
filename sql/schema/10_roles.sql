-- Roles. All are NOLOGIN groups: a service's own login role is made a member of what it needs.
--
--   replication_owner      owns the schema and the capture functions; nobody logs in as it
--   replication_publisher  claims and marks queue rows
--   replication_consumer   applies remote events to the replicated tables
--   replication_monitor    reads queue, counters and conflicts; changes nothing
--
-- The body runs as the installing role, which becomes a member of replication_owner so that it can
-- hand objects over to it.

do $$
declare
  role_name text;
  lacking boolean;
begin
  if current_setting('server_version_num')::int < 150000 then
    raise exception using errcode = 'feature_not_supported',
      message = format('PostgreSQL %s is too old', current_setting('server_version')),
      hint = 'replication_pipeline needs PostgreSQL 15 or newer.';
  end if;
  if getdatabaseencoding() <> 'UTF8' then
    raise exception using errcode = 'feature_not_supported',
      message = format('the encoding of database %I is %s', current_database(), getdatabaseencoding()),
      hint = 'Events are UTF-8: use a database created with encoding UTF8.';
  end if;
  foreach role_name in array array['replication_owner', 'replication_publisher',
                                   'replication_consumer', 'replication_monitor']
  loop
    begin
      execute format('create role %I nologin', role_name);
    exception when duplicate_object or unique_violation then
      null;  -- made by another contour of the same cluster, or by an earlier run
    end;
  end loop;
  -- From PostgreSQL 16 on, who creates a role is a member that may not act as it.
  if current_setting('server_version_num')::int >= 160000 then
    execute 'select not pg_has_role(current_user, ''replication_owner'', ''usage'') '
            'or not pg_has_role(current_user, ''replication_owner'', ''set'')' into lacking;
    if lacking then
      execute format('grant replication_owner to %I with inherit true, set true', current_user);
    end if;
  elsif not pg_has_role(current_user, 'replication_owner', 'member') then
    execute format('grant replication_owner to %I', current_user);
  end if;
end $$;

-- The apply session switches triggers off for itself (`SET LOCAL session_replication_role`), and
-- the capture functions do so for one rare statement; neither needs a superuser at run time.
do $$ begin
  grant set on parameter session_replication_role to replication_owner, replication_consumer;
exception when insufficient_privilege then
  -- A managed service may let some role set it by a rule of its own; doctor says whether the right is there.
  if not (has_parameter_privilege('replication_owner', 'session_replication_role', 'set')
          and has_parameter_privilege('replication_consumer', 'session_replication_role', 'set')) then
    raise warning 'role % may not grant SET on session_replication_role, which appliers need', current_user
      using hint = 'docs/security.md says what managed services allow.';
  end if;
end $$;
