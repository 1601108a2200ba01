#!/usr/bin/env bash
# Builds @tensorflow/tfjs-node against the TensorFlow of the tensorflow_cpu wheel:
#   bash test/tools/tfjs_node.sh FOLDER
# FOLDER/node_modules/@tensorflow/tfjs-node then loads; neva finds it when it runs in FOLDER, or when it is linked into
# neva's own node_modules. Needs python3 with pip, a C++ compiler, make, and npm (whose copy of node-gyp is used); 1.7 GB.
set -euo pipefail
folder=${1:?usage: tfjs_node.sh FOLDER}
mkdir -p "$folder"
cd "$folder"

[ -f package.json ] || echo '{"private": true}' > package.json
# Its install script would fetch TensorFlow 2.9 from an archive; the sources of the addon come with the package.
[ -d node_modules/@tensorflow/tfjs-node ] || npm install --ignore-scripts --no-audit --no-fund @tensorflow/tfjs-node@4.22.0
[ -d python/tensorflow ] || python3 -m pip install --quiet --no-deps --target python tensorflow_cpu==2.21.0

tensorflow=$PWD/python/tensorflow
cd node_modules/@tensorflow/tfjs-node
mkdir -p deps/lib
ln -sfn "$tensorflow/include" deps/include
for library in libtensorflow_cc.so.2 libtensorflow_framework.so.2; do ln -sfn "$tensorflow/$library" "deps/lib/$library"; done
# binding.gyp links with these names; what the loader looks for later are the names above.
ln -sfn libtensorflow_cc.so.2 deps/lib/libtensorflow.so
ln -sfn libtensorflow_framework.so.2 deps/lib/libtensorflow_framework.so

prefix=$(dirname "$(dirname "$(node -p process.execPath)")")
gyp=$(npm root -g)/npm/node_modules/node-gyp/bin/node-gyp.js
[ -f "$prefix/include/node/node_api.h" ] || { echo "no Node headers under $prefix/include/node" >&2; exit 1; }
# What node-pre-gyp would have passed.
node "$gyp" rebuild --nodedir="$prefix" --napi_build_version=8 --module_name=tfjs_binding --module_path="$PWD/lib/napi-v8"

cd "$OLDPWD"
TF_CPP_MIN_LOG_LEVEL=2 node -e "
  const tf = require('@tensorflow/tfjs-node');
  console.log('tfjs-node', tf.version['tfjs-node'] ?? tf.version_core, 'on TensorFlow', tf.backend().binding.TF_Version);
"
