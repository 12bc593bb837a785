#!/bin/sh
# The official image's entry point also fills templates; nothing here uses them.
set -e
exec "$@"
