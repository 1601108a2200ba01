#!/bin/sh
# Unattended: run.sh OUT [--tiny] [--cpu]. See README.md.
set -u
[ $# -ge 1 ] || { echo "run.sh OUT [--tiny] [--cpu]" >&2; exit 2; }
mkdir -p "$1"
out=$(cd "$1" && pwd)
shift
root=$(cd "$(dirname "$0")/../.." && pwd)
cd "$root"
if [ -f node.xz ]; then xz -d node.xz && chmod +x node; fi
if [ -f node_modules.tar.xz ]; then tar xf node_modules.tar.xz && rm node_modules.tar.xz; fi
node=$root/node
[ -x "$node" ] || node=$(command -v node)
export PATH="$(dirname "$node"):$PATH"
{ "$node" bin/neva.js setup && "$node" bin/neva.js doctor; } > "$out/build.log" 2>&1 || { cat "$out/build.log"; exit 1; }
exec "$node" dist/bench/gpu/run.js --out "$out" "$@"
