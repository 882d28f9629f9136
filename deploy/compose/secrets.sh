#!/bin/sh
# Makes the passwords that are missing in deploy/secrets/. Containers run as other users than you, so the
# files are readable by all, in a directory that nobody but you can enter.
set -eu
cd "$(dirname "$0")/.."
umask 077
mkdir -p secrets
for name in postgres_password replicator_password monitor_password; do
  [ -s "secrets/$name" ] || od -An -N24 -tx1 /dev/urandom | tr -d ' \n' > "secrets/$name"
  chmod 644 "secrets/$name"
done
