#!/bin/sh
# Health check of the tests: unhealthy when the artifact holds a file SICK.
set -eu
[ ! -e "$SB_RELEASE/SICK" ] || { echo "the artifact is sick"; exit 1; }
