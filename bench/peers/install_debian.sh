#!/bin/sh
# Installs the peers that Debian 12 has as packages, once, as root: PgQ with Londiste, and Bucardo.
# Versions are those that were measured; the server gets its newest minor version, or keeps what it has.
set -eu
export DEBIAN_FRONTEND=noninteractive

install() { apt-get install --yes --no-install-recommends "$@"; }

apt-get update
dpkg-query --show postgresql-15 >/dev/null 2>&1 || install postgresql-15

# A plperl of another minor version than the server's does not load.
server=$(dpkg-query --show --showformat '${Version}' postgresql-15)
install \
  "postgresql-15=$server" "postgresql-plperl-15=$server" \
  'postgresql-15-pgq3=3.5-*' 'postgresql-15-pgq-node=3.5-*' 'postgresql-15-londiste-sql=3.8-*' \
  'pgqd=3.5-*' 'python3-londiste=3.11-*' \
  'bucardo=5.6.0-*'
