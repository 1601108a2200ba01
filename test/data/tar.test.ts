import assert from 'node:assert/strict';
import {
  closeSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import fc from 'fast-check';
import { create } from 'tar';
import { openImageStore } from '../../src/data/image-store.ts';
import { packageRoot } from '../../src/root.ts';
import { indexTar } from '../../src/tar_index.ts';

const images = join(packageRoot, 'test', 'fixtures', 'data', 'images');
const folder = mkdtempSync(join(tmpdir(), 'neva-tar-'));
after(() => rmSync(folder, { recursive: true }));

const long = `${'deep/'.repeat(40)}ü.png`;
const tree = join(folder, 'tree');
mkdirSync(join(tree, 'deep/'.repeat(40)), { recursive: true });
cpSync(join(images, 'rgb.png'), join(tree, 'a.png'));
cpSync(join(images, 'photo.jpg'), join(tree, long));
symlinkSync('/etc/passwd', join(tree, 'link.png'));
const archive = join(folder, 'images.tar');
await create({ file: archive, cwd: tree }, ['.']);

test('pictures are read out of an archive by the names they were packed under', async () => {
  const store = openImageStore(archive, 'data.json');
  for (const [name, source] of [
    ['a.png', 'rgb.png'],
    ['./a.png', 'rgb.png'],
    [long, 'photo.jpg'],
  ] as const) {
    const bytes = await store.locate(name, 'record').read(1 << 20);
    assert.ok(Buffer.from(bytes).equals(readFileSync(join(images, source))), name);
  }
  await assert.rejects(store.locate('none.png', 'record').read(100), { kind: 'image_missing' });
  await assert.rejects(store.locate('link.png', 'record').read(100), { kind: 'image_missing' });
  await assert.rejects(store.locate('a.png', 'record').read(100), { kind: 'image_too_large' });
  for (const name of ['../a.png', '/a.png', 'b/../../a.png', 'https://host/a.png']) {
    assert.throws(() => store.locate(name, 'record'), { kind: 'image_outside' }, name);
  }
  assert.equal(store.locate('none.png', 'record').stamp(), null);
});

test('what is no archive is refused by name', () => {
  assert.throws(() => openImageStore(join(images, 'rgb.png'), 'data.json'), {
    userError: true,
    message: /not a usable tar/,
  });
  assert.throws(() => openImageStore(join(folder, 'none'), 'data.json'), {
    userError: true,
    message: /image_folder: no such/,
  });
});

test('damaged archives never crash, hang or read outside the file', () => {
  const bytes = readFileSync(archive);
  const path = join(folder, 'damaged.tar');
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.nat(bytes.length - 1), fc.nat(255)), { minLength: 1, maxLength: 8 }),
      fc.nat(bytes.length),
      (changes, length) => {
        const damaged = Buffer.from(bytes);
        for (const [at, value] of changes) damaged[at] = value;
        writeFileSync(path, damaged.subarray(0, length));
        const file = openSync(path, 'r');
        try {
          for (const { offset, size } of indexTar(file, path).values()) assert.ok(offset + size <= length);
        } catch (error) {
          assert.equal((error as { userError?: boolean }).userError, true, String(error));
        } finally {
          closeSync(file);
        }
      },
    ),
    { numRuns: 500 },
  );
});
