#!/bin/sh
# As in the official image: options alone are options of haproxy, and haproxy gets a master and stays in the foreground.
set -e
case "$1" in -*) set -- haproxy "$@" ;; esac
if [ "$1" = haproxy ]; then
  shift
  set -- haproxy -W -db "$@"
fi
exec "$@"
