import assert from 'node:assert/strict';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { cudaRequirements, fetchLibtorch, findLibtorch, ncclIncludes } from '../../../src/engine/torch/libtorch.ts';
import { isUserError } from '../../../src/errors.ts';

const folder = mkdtempSync(join(tmpdir(), 'neva-libtorch-'));
after(() => rmSync(folder, { recursive: true, force: true }));

const library = process.platform === 'darwin' ? 'libtorch_cpu.dylib' : 'libtorch_cpu.so';

/** A folder with the files by which LibTorch is recognized. */
function makeTorch(root: string, version: string, { cuda = false } = {}): string {
  mkdirSync(join(root, 'include/ATen/core/dispatch'), { recursive: true });
  mkdirSync(join(root, 'lib'), { recursive: true });
  writeFileSync(join(root, 'include/ATen/core/dispatch/Dispatcher.h'), '');
  writeFileSync(join(root, 'lib', library), '');
  if (cuda) writeFileSync(join(root, 'lib/libtorch_cuda.so'), '');
  writeFileSync(join(root, 'version.py'), `from typing import Optional\n__version__ = '${version}'\n`);
  return root;
}

/** A `python3` that answers every question with `origin`, the path of torch/__init__.py; fails where there is none. */
function makePython(name: string, script: string): string {
  const bin = join(folder, name);
  mkdirSync(bin);
  writeFileSync(join(bin, 'python3'), `#!/bin/sh\n${script}\n`, { mode: 0o755 });
  return bin;
}

const project = join(folder, 'project');
makeTorch(join(project, '.libtorch/torch'), '2.13.0+own');
const ofPython = makeTorch(join(folder, 'site-packages/torch'), '2.13.0+py', { cuda: true });
const python = makePython('python-with-torch', `echo ${ofPython}/__init__.py`);
const pythonWithout = makePython('python-without-torch', 'echo');

test('NEVA_LIBTORCH comes first, then the torch of python3, then .libtorch of the project', () => {
  const named = makeTorch(join(folder, 'named'), '2.9.1');
  const find = (env: Record<string, string>) => findLibtorch({ env, projectRoot: project }).libtorch;
  assert.equal(find({ NEVA_LIBTORCH: named, PATH: python })?.version, '2.9.1');
  const second = find({ PATH: python });
  assert.deepEqual([second?.version, second?.source, second?.cuda], ['2.13.0+py', 'python3', true]);
  const third = find({ PATH: pythonWithout });
  assert.deepEqual([third?.version, third?.source, third?.cuda], ['2.13.0+own', '.libtorch', false]);
  assert.equal(find({ PATH: '' })?.version, '2.13.0+own');
  assert.equal(findLibtorch({ env: { PATH: '' }, projectRoot: folder }).libtorch, null);
});

test('a NEVA_LIBTORCH that cannot be used is refused, whatever else there is', () => {
  const old = makeTorch(join(folder, 'old'), '1.13.1');
  const empty = join(folder, 'empty');
  mkdirSync(empty);
  for (const [path, reason] of [
    [join(folder, 'nowhere'), /nowhere does not exist/],
    [empty, /Dispatcher\.h is missing/],
    [old, /torch 1\.13\.1, and neva needs 2\.7 or newer/],
  ] as const) {
    assert.throws(
      () => findLibtorch({ env: { NEVA_LIBTORCH: path, PATH: python }, projectRoot: project }),
      (error) => isUserError(error) && /^NEVA_LIBTORCH: /.test(error.message) && reason.test(error.message),
    );
  }
});

test('a torch of python3 that is too old is passed over with its reason', () => {
  const old = makeTorch(join(folder, 'old-site-packages/torch'), '2.6.0');
  const { libtorch, passedOver } = findLibtorch({
    env: { PATH: makePython('python-with-old-torch', `echo ${old}/__init__.py`) },
    projectRoot: project,
  });
  assert.equal(libtorch?.source, '.libtorch');
  assert.equal(passedOver.length, 1);
  assert.match(passedOver[0]!, /torch 2\.6\.0/);
});

test('fetching installs beside and renames; a failing pip leaves nothing and is told in its own words', async () => {
  // Plays pip: `--version` answers; `install … --target DIR …` puts a torch there, or fails when there is no network.
  const pip = (ending: string) => `
case "$*" in
  *--version*) echo pip 24; exit 0;;
esac
while [ "$1" != --target ]; do shift; done
mkdir -p "$2/torch/include/ATen/core/dispatch" "$2/torch/lib"
touch "$2/torch/include/ATen/core/dispatch/Dispatcher.h" "$2/torch/lib/${library}"
echo "__version__ = '2.13.0+cpu'" > "$2/torch/version.py"
${ending}`;
  const env = (bin: string) => ({ PATH: `${bin}:${process.env.PATH}` });
  const said: string[] = [];

  const broken = join(folder, 'broken-project');
  mkdirSync(broken);
  const failing = makePython('pip-failing', pip('echo "ERROR: Could not find a version" >&2; exit 1'));
  await assert.rejects(
    fetchLibtorch((line) => said.push(line), { env: env(failing), projectRoot: broken }),
    (error) => {
      assert.ok(isUserError(error));
      assert.match(error.message, /found: +Could not find a version/);
      assert.match(error.message, /python3 -m pip install --target .* torch==2\.13\.0/);
      return true;
    },
  );
  assert.deepEqual(readdirSync(broken), []);

  const whole = join(folder, 'whole-project');
  mkdirSync(whole);
  const working = makePython('pip-working', pip('exit 0'));
  const libtorch = await fetchLibtorch((line) => said.push(line), { env: env(working), projectRoot: whole });
  assert.equal(libtorch.root, join(whole, '.libtorch/torch'));
  assert.ok(existsSync(join(libtorch.root, 'version.py')));
  assert.deepEqual(readdirSync(whole), ['.libtorch']);

  const none = makePython('pip-missing', 'exit 1');
  await assert.rejects(
    fetchLibtorch(() => {}, { env: env(none), projectRoot: broken }),
    /has no pip/,
  );
  await assert.rejects(
    fetchLibtorch(() => {}, { env: { PATH: '' }, projectRoot: broken }),
    /there is no python3/,
  );
});

test("a CUDA wheel's metadata names the libraries of NVIDIA that it loads", () => {
  const metadata = `Name: torch
Requires-Dist: filelock
Requires-Dist: nvidia-cudnn-cu13==9.19.0.56; platform_system == "Linux"
Requires-Dist: cuda-toolkit[cublas,cudart]==13.0.2; platform_system == "Linux"
Requires-Dist: triton==3.7.0; platform_system == "Linux"
Requires-Dist: nvidia-extra==1; extra == "more"
`;
  assert.deepEqual(cudaRequirements(metadata), [
    'nvidia-cudnn-cu13==9.19.0.56; platform_system == "Linux"',
    'cuda-toolkit[cublas,cudart]==13.0.2; platform_system == "Linux"',
  ]);
});

test("NCCL's headers: beside torch first, then in an installed CUDA; none unless both are there", () => {
  const site = join(folder, 'cuda-site');
  const root = makeTorch(join(site, 'torch'), '2.13.0+cu130', { cuda: true });
  const header = (name: string, ...path: string[]) => {
    mkdirSync(join(...path, 'include'), { recursive: true });
    writeFileSync(join(...path, 'include', name), '');
    return join(...path, 'include');
  };
  const cuda = header('nccl.h', folder, 'cuda');
  assert.equal(ncclIncludes(root, { CUDA_HOME: join(folder, 'cuda') }, []), null);
  header('cuda_runtime_api.h', folder, 'cuda');
  assert.deepEqual(ncclIncludes(root, { CUDA_HOME: join(folder, 'cuda') }, []), [cuda]);
  const own = header('nccl.h', site, 'nvidia/nccl');
  assert.deepEqual(ncclIncludes(root, {}, [join(folder, 'cuda')]), [own, cuda]);
  assert.deepEqual(findLibtorch({ env: { NEVA_LIBTORCH: root } }).libtorch!.ncclIncludes?.[0], own);
});
