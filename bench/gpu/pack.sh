#!/bin/sh
# Everything that bench/gpu/run.sh needs, in one archive: pack.sh OUT.tar
set -eu
out=$1
root=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
to=$work/neva-gpu
mkdir "$to"
cd "$root"
cp -R bin dist native conf package.json "$to"
mkdir -p "$to/src/engine/torch" "$to/data" "$to/bench" "$to/scripts" "$to/docs"
cp -R data/demo "$to/data"
cp -R bench/gpu bench/step bench/peer.ts "$to/bench"
# Without its sources, bin/neva.js finds nothing to compile.
rm -rf "$to/src" "$to/data/demo/make" "$to/dist/test"
# The tests that run.ts runs on the GPU, and what they read.
mkdir -p "$to/dist/test/parallel" "$to/dist/test/engine" "$to/test/fixtures"
cp -R dist/test/model dist/test/support dist/test/generate "$to/dist/test"
cp -R dist/test/engine/torch "$to/dist/test/engine"
cp dist/test/parallel/collectives_rank.js "$to/dist/test/parallel"
cp -R test/fixtures/engine test/fixtures/llava test/fixtures/gpt "$to/test/fixtures"
mkdir "$to/node_modules"
# What runs, and no more: dependencies of package.json without development, maps, types, other platforms' binaries.
npm ls --omit=dev --omit=peer --all --parseable 2>/dev/null | sed "s#^$root/##" | grep '^node_modules/' | while read -r module; do
  [ -d "$module" ] || continue
  mkdir -p "$to/$(dirname "$module")"
  cp -R "$module" "$to/$(dirname "$module")/"
done
find "$to/node_modules" \( -name '*.map' -o -name '*.d.ts' -o -name '*.md' \) -type f -delete
# Of TensorFlow.js alone: elsewhere (tar) the minified file is the module itself.
find "$to/node_modules/@tensorflow" -name '*.min.js' -type f -delete
rm -rf "$to"/node_modules/@tensorflow/*/dist/bundle* "$to"/node_modules/@img/*musl* "$to"/node_modules/@types
cp "$(node -p process.execPath)" "$to/node"
strip "$to/node" 2>/dev/null || true
xz -T0 -9 "$to/node"
tar cf - -C "$to" node_modules | xz -T0 -6 > "$to/node_modules.tar.xz"
rm -rf "$to/node_modules"
tar cf "$out" -C "$work" neva-gpu
size=$(wc -c < "$out")
echo "$out: $((size / 1048576)) MiB"
[ "$size" -le 67108864 ] || { echo "more than 64 MiB" >&2; exit 1; }
