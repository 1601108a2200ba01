import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { addonIsCurrent, type BuildOptions, buildAddon } from '../../../src/engine/torch/build.ts';
import { findCompiler } from '../../../src/engine/torch/compiler.ts';
import type { LibTorch } from '../../../src/engine/torch/libtorch.ts';
import { isUserError } from '../../../src/errors.ts';

const folder = mkdtempSync(join(tmpdir(), 'neva-build-'));
after(() => rmSync(folder, { recursive: true, force: true }));

/** Two empty libraries under torch's names: what the linker needs, without torch's size. */
function emptyLibTorch(): LibTorch {
  const root = join(folder, 'torch');
  const libDir = join(root, 'lib');
  mkdirSync(join(root, 'include/torch/csrc/api/include'), { recursive: true });
  mkdirSync(libDir, { recursive: true });
  writeFileSync(join(folder, 'empty.cpp'), '');
  const { program } = findCompiler()!;
  for (const name of ['torch_cpu', 'c10']) {
    execFileSync(program, ['-shared', '-o', join(libDir, `lib${name}.so`), join(folder, 'empty.cpp')]);
  }
  return {
    root,
    includeDirs: [join(root, 'include'), join(root, 'include/torch/csrc/api/include')],
    libDir,
    version: '2.13.0+test',
    cuda: false,
    ncclIncludes: null,
    cxx11Abi: true,
    source: 'python3',
  };
}

const addonSource = `#include <node_api.h>
#include "answer.h"
int answer();
NAPI_MODULE_INIT() {
  napi_value value;
  napi_create_int32(env, answer(), &value);
  napi_set_named_property(env, exports, "answer", value);
  return exports;
}
`;

test('an addon is built, loads, and only what changed is compiled again', async () => {
  const native = join(folder, 'native');
  mkdirSync(native);
  writeFileSync(join(native, 'answer.h'), '#define ANSWER 41\n');
  writeFileSync(join(native, 'addon.cpp'), addonSource);
  writeFileSync(join(native, 'answer.cpp'), '#include "answer.h"\nint answer() { return ANSWER; }\n');
  const said: string[] = [];
  const options: BuildOptions = {
    libtorch: emptyLibTorch(),
    nativeDir: native,
    buildDir: join(folder, 'build'),
    say: (line) => said.push(line.trim().replace(/ +[\d.]+ s$/, '')),
  };
  assert.equal(addonIsCurrent(options), false);
  const path = await buildAddon(options);
  assert.match(path, /neva-2\.13\.0\+test-\w+-\w+\.node$/);
  assert.equal(createRequire(import.meta.url)(path).answer, 41);
  assert.deepEqual(said.filter((line) => line.endsWith('.cpp')).sort(), ['addon.cpp', 'answer.cpp']);

  said.length = 0;
  assert.equal(addonIsCurrent(options), true);
  await buildAddon(options);
  assert.equal(said.length, 0);

  const later = new Date(Date.now() + 2000);
  writeFileSync(join(native, 'answer.cpp'), 'int answer() { return 42; }\n');
  utimesSync(join(native, 'answer.cpp'), later, later);
  assert.equal(addonIsCurrent(options), false);
  const past = new Date(Date.now() + 4000);
  await buildAddon(options);
  assert.deepEqual(
    said.filter((line) => line.endsWith('.cpp')),
    ['answer.cpp'],
  );

  said.length = 0;
  utimesSync(join(native, 'answer.cpp'), new Date(0), new Date(0)); // older than its object again
  utimesSync(join(native, 'answer.h'), past, past);
  await buildAddon(options);
  assert.deepEqual(
    said.filter((line) => line.endsWith('.cpp')),
    ['addon.cpp'],
    'answer.cpp no longer includes it',
  );
});

test('without a compiler one sentence says so, with the command that mends it', async () => {
  const bin = join(folder, 'bin');
  mkdirSync(bin);
  writeFileSync(join(bin, 'apt-get'), '#!/bin/sh\n', { mode: 0o755 });
  const native = join(folder, 'native-one');
  mkdirSync(native);
  writeFileSync(join(native, 'one.cpp'), 'int one() { return 1; }\n');
  const options = { libtorch: emptyLibTorch(), nativeDir: native, buildDir: join(folder, 'build-one') };
  await assert.rejects(buildAddon({ ...options, env: { PATH: bin } }), (error) => {
    assert.ok(isUserError(error));
    assert.match(error.message, /^addon: there is no C\+\+ compiler/);
    assert.match(error.message, /fix: .*apt-get install -y g\+\+$/);
    return true;
  });
  await assert.rejects(
    buildAddon({ ...options, env: { ...process.env, CXX: 'no-such-c++' } }),
    /^UserError: CXX: .*\n.*no-such-c\+\+/,
  );
});

test('a source that does not compile leaves no addon and no half object', async () => {
  const native = join(folder, 'native-bad');
  const build = join(folder, 'build-bad');
  mkdirSync(native);
  writeFileSync(join(native, 'bad.cpp'), 'int bad( { }\n');
  await assert.rejects(buildAddon({ libtorch: emptyLibTorch(), nativeDir: native, buildDir: build }), (error) => {
    assert.ok(error instanceof Error);
    assert.equal(isUserError(error), false);
    assert.match(error.message, /could not build bad\.cpp[\s\S]*error:/);
    return true;
  });
  const left = readdirSync(build, { recursive: true }).filter((name) => /\.(o|node|partial|stamp)/.test(String(name)));
  assert.deepEqual(left, []);
});
