#!/bin/sh
# Run once by the image of PostgreSQL, in an empty database: roles for the services, and two tables to try.
# The groups that they are members of are those of sql/schema/10_roles.sql, which takes them as it finds them.
set -eu
psql --set ON_ERROR_STOP=1 --quiet --no-psqlrc --username "${POSTGRES_USER:-postgres}" --dbname "$POSTGRES_DB" \
  --set replicator="$(cat "${REPLICATOR_PASSWORD_FILE:-/run/secrets/replicator_password}")" \
  --set monitor="$(cat "${MONITOR_PASSWORD_FILE:-/run/secrets/monitor_password}")" <<'SQL'
create role replication_publisher nologin;
create role replication_consumer nologin;
create role replication_monitor nologin;
create role replicator login password :'replicator' in role replication_publisher, replication_consumer;
create role monitor login password :'monitor' in role replication_monitor;

create table customers (id uuid primary key default gen_random_uuid(), name text not null);
create table orders (
  id uuid primary key default gen_random_uuid(),
  customer uuid not null references customers on delete cascade,
  amount numeric(12, 2) not null,
  placed_at timestamptz not null default now()
);
SQL
