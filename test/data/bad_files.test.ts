/** Bad pictures, records, data files, archives, folders and tokenizers, each with what becomes of it. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, test } from 'node:test';
import { gzipSync } from 'node:zlib';
import sharp from 'sharp';
import { Header } from 'tar';
import { checkData } from '../../src/data/check.ts';
import { openDataset } from '../../src/data/dataset.ts';
import { openImageStore } from '../../src/data/image-store.ts';
import type { ProblemKind } from '../../src/data/problem.ts';
import { loadTokenizer } from '../../src/data/tokenizer.ts';
import { isUserError } from '../../src/errors.ts';
import { dataOptions } from '../support/data_set.ts';
import { fixture } from '../support/fixtures.ts';

const folder = mkdtempSync(join(tmpdir(), 'neva-bad-'));
after(() => rmSync(folder, { recursive: true, force: true }));

const put = (name: string, content: string | Uint8Array): string => {
  const path = join(folder, name);
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, content);
  return path;
};
const image = (name: string) => readFileSync(fixture(`data/images/${name}`));
const half = (name: string) => image(name).subarray(0, image(name).length >> 1);
const changed = (bytes: Buffer, change: (copy: Buffer) => void) => {
  const copy = Buffer.from(bytes);
  change(copy);
  return copy;
};
const turns = [
  { from: 'human', value: '<image>\nWhat?' },
  { from: 'gpt', value: 'That.' },
];
const good = { id: 'x', image: 'good.png', conversations: turns };
put('good.png', image('rgb.png'));
symlinkSync('loop.png', join(folder, 'loop.png'));
symlinkSync('/dev/zero', join(folder, 'zero.png'));
execFileSync('mkfifo', [join(folder, 'pipe.png'), join(folder, 'pipe.json')]);
mkdirSync(join(folder, 'folder.png'));
mkdirSync(join(folder, 'empty'));

/** What a check of that data file finds: the kind of its one bad record, `good`, or `refused` where it is refused as a whole. */
async function checked(dataPath: string, imageFolder: string | null = folder, more = {}): Promise<[string, string]> {
  try {
    const report = await checkData({ ...dataOptions(dataPath, { imageFolder }), maxBadFraction: 0, ...more });
    const [kind] = Object.keys(report.problems);
    return kind === undefined ? ['good', ''] : [kind, Object.values(report.problems)[0]!.examples[0]!.message];
  } catch (error) {
    if (!isUserError(error)) throw error;
    return ['refused', error.message];
  }
}

type Outcome = 'good' | 'refused' | ProblemKind;

function cases(
  what: string,
  table: [name: string, outcome: Outcome, message: RegExp, run: () => Promise<[string, string]>][],
) {
  for (const [name, outcome, message, run] of table) {
    test(`${what}: ${name} → ${outcome}`, { timeout: 20_000 }, async () => {
      const [found, text] = await run();
      assert.equal(found, outcome, text);
      assert.match(text, message);
    });
  }
}

const record = (value: unknown) => () => checked(put('record.json', JSON.stringify([value])));
const picture = (bytes: Uint8Array | string) => () => {
  put('bad.bin', bytes);
  return checked(put('record.json', JSON.stringify([{ ...good, image: 'bad.bin' }])));
};
const named = (path: string) => record({ ...good, image: path });
const png = image('rgb.png');
const jpeg = image('photo.jpg');
const sof = jpeg.indexOf(Buffer.from([0xff, 0xc0]));

cases('picture', [
  ['empty', 'image_unreadable', /an empty file/, picture('')],
  ['an error page', 'image_unreadable', /begin 3c68746d/, picture('<html>404</html>')],
  [
    'SVG',
    'image_unreadable',
    /svg is not taken/,
    picture('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'),
  ],
  ['PDF', 'image_unreadable', /not a readable/, picture('%PDF-1.4\n1 0 obj\n')],
  [
    'a video',
    'image_unreadable',
    /not a readable/,
    picture(Buffer.concat([Buffer.from('\0\0\0 ftypisom'), Buffer.alloc(99)])),
  ],
  [
    'a zip archive',
    'image_unreadable',
    /504b0304/,
    picture(Buffer.concat([Buffer.from('PK\x03\x04'), Buffer.alloc(99)])),
  ],
  [
    'BMP',
    'image_unreadable',
    /a BMP image[\s\S]*convert it to PNG/,
    picture(Buffer.concat([Buffer.from('BM'), Buffer.alloc(99)])),
  ],
  [
    'noise',
    'image_unreadable',
    /not a readable/,
    picture(Uint8Array.from({ length: 500 }, (_, i) => (i * 7919) % 256)),
  ],
  ['half a PNG', 'image_unreadable', /not a readable/, picture(half('rgb.png'))],
  ['half a JPEG', 'image_unreadable', /not a readable/, picture(half('photo.jpg'))],
  ['half a progressive JPEG', 'image_unreadable', /not a readable/, picture(half('progressive.jpg'))],
  ['half a GIF', 'image_unreadable', /not a readable/, picture(half('still.gif'))],
  ['half a WebP', 'image_unreadable', /not a readable/, picture(half('lossy.webp'))],
  ['half a TIFF', 'image_unreadable', /not a readable/, picture(half('plain.tif'))],
  ['a JPEG without its last byte but one', 'image_unreadable', /not a readable/, picture(jpeg.subarray(0, -30))],
  ["a PNG's first eight bytes", 'image_unreadable', /not a readable/, picture(png.subarray(0, 8))],
  ['a PNG without data', 'image_unreadable', /not a readable/, picture(png.subarray(0, 33))],
  ['a PNG 0 wide', 'image_unreadable', /not a readable/, picture(changed(png, (copy) => copy.writeUInt32BE(0, 16)))],
  [
    'a PNG with a wrong checksum of its header, as libvips passes it over',
    'good',
    /^$/,
    picture(changed(png, (copy) => copy.fill(0, 29, 33))),
  ],
  [
    'a JPEG without a frame',
    'image_unreadable',
    /not a readable/,
    picture(Buffer.concat([jpeg.subarray(0, sof), Buffer.from([0xff, 0xd9])])),
  ],
  [
    'a JPEG that claims 65500 × 65500',
    'image_too_large',
    /too many pixels[\s\S]*178956970/,
    picture(
      changed(jpeg, (copy) => {
        copy.writeUInt16BE(65500, sof + 5);
        copy.writeUInt16BE(65500, sof + 7);
      }),
    ),
  ],
  [
    'a PNG that claims 60000 × 60000',
    'image_too_large',
    /too many pixels/,
    picture(
      changed(png, (copy) => {
        copy.writeUInt32BE(60_000, 16);
        copy.writeUInt32BE(60_000, 20);
      }),
    ),
  ],
  [
    'above the limit of bytes',
    'image_too_large',
    /at most 100 bytes/,
    () => checked(put('record.json', JSON.stringify([good])), folder, { maxImageBytes: 100 }),
  ],
  [
    'above the limit of pixels',
    'image_too_large',
    /at most 10 pixels/,
    () => checked(put('record.json', JSON.stringify([good])), folder, { maxImagePixels: 10 }),
  ],
  ['a wrong extension', 'good', /^$/, picture(jpeg)],
]);

cases('picture path', [
  ['missing', 'image_missing', /no such image file/, named('none.png')],
  ['below a file', 'image_missing', /no such image file/, named('good.png/a.png')],
  ['a folder', 'image_unreadable', /not a file/, named('folder.png')],
  ['a named pipe', 'image_unreadable', /not a file/, named('pipe.png')],
  ['a device', 'image_unreadable', /not a file/, named('zero.png')],
  ['a link to itself', 'image_missing', /ELOOP/, named('loop.png')],
  ['with a zero byte', 'image_missing', /cannot open/, named('a\0b.png')],
  ['too long', 'image_missing', /ENAMETOOLONG/, named(`${'a'.repeat(300)}.png`)],
  ['upwards', 'image_outside', /leads out/, named('../x.png')],
  ['hidden upwards', 'image_outside', /leads out/, named('a/../../x.png')],
  ['absolute', 'image_outside', /leads out/, named('/etc/passwd')],
  ['an address', 'image_outside', /leads out/, named('https://host/a.png')],
  ['a file address', 'image_outside', /leads out/, named('file:///etc/passwd')],
  ['the folder itself', 'image_outside', /leads out/, named('.')],
]);

const deep = (depth: number) => `${'['.repeat(depth)}${']'.repeat(depth)}`;
cases('record', [
  ['a text', 'record', /not a record/, record('text')],
  ['null', 'record', /not a record/, record(null)],
  ['a list', 'record', /not a record/, record([good])],
  ['without conversations', 'record', /conversations: missing/, record({ id: 'x' })],
  ['conversations a text', 'record', /not a list/, record({ conversations: 'hello' })],
  ['no turns', 'record', /no question with an answer/, record({ conversations: [] })],
  ['only a question', 'record', /no question with an answer/, record({ conversations: [turns[0]] })],
  ['two questions', 'record', /do not alternate/, record({ ...good, conversations: [turns[0], turns[0]] })],
  [
    'an unknown speaker',
    'record',
    /unknown speaker/,
    record({ ...good, conversations: [{ from: 'cat', value: '' }, turns[1]] }),
  ],
  [
    'a number for a text',
    'record',
    /not a text/,
    record({ ...good, conversations: [turns[0], { from: 'gpt', value: 3 }] }),
  ],
  ['a turn that is null', 'record', /not a turn/, record({ ...good, conversations: [null, turns[1]] })],
  ['an image that is a number', 'record', /image: not a path/, record({ ...good, image: 3 })],
  ['an image that is empty', 'record', /image: not a path/, record({ ...good, image: '' })],
  ['system a number', 'record', /system: not a text/, record({ ...good, system: 3 })],
  ['more tags than images', 'image_count', /expected: 1 image/, record({ conversations: turns })],
  ['more images than tags', 'image_count', /found: +2/, record({ ...good, image: ['a', 'b'] })],
  [
    'too long before its image',
    'image_cut',
    /would remove an image/,
    record({
      ...good,
      conversations: [{ from: 'human', value: `${'word '.repeat(400)}<image> and <image>` }, turns[1]],
      image: ['good.png', 'good.png'],
    }),
  ],
  [
    'too long before its answer',
    'no_labels',
    /nothing is left/,
    record({ conversations: [{ from: 'human', value: 'word '.repeat(400) }, turns[1]] }),
  ],
  [
    'nested 200,000 deep',
    'record',
    /not a list/,
    () => checked(put('deep.json', `[{"conversations": {"a": ${deep(200_000)}}}]`)),
  ],
  [
    'keys of the prototype',
    'record',
    /conversations: missing/,
    () => checked(put('proto.json', '[{"__proto__": {"conversations": []}}]')),
  ],
]);

const data =
  (content: string | Uint8Array, name = 'data.json') =>
  () =>
    checked(put(name, content));
cases('data file', [
  ['missing', 'refused', /cannot read the data file[\s\S]*ENOENT/, () => checked(join(folder, 'none.json'))],
  ['a folder', 'refused', /is a folder/, () => checked(join(folder, 'empty'))],
  ['a named pipe', 'refused', /not a plain file/, () => checked(join(folder, 'pipe.json'))],
  ['empty', 'refused', /holds no records/, data('')],
  ['white space', 'refused', /holds no records/, data(' \n\n ')],
  ['an empty list', 'refused', /holds no records/, data('[]')],
  ['cut in a list', 'refused', /ends inside the array/, data(JSON.stringify([good, good]).slice(0, -20))],
  ['text after the list', 'refused', /after the end/, data(`${JSON.stringify([good])} x`)],
  ['two commas', 'refused', /empty element/, data('[1,,2]')],
  ['CSV', 'json', /not valid JSON/, data('id,image\n1,a.png\n')],
  ['UTF-16', 'json', /not valid JSON/, data(Buffer.from(`\uFEFF${JSON.stringify([good])}`, 'utf16le'))],
  ['Parquet', 'json', /not valid JSON/, data(Buffer.concat([Buffer.from('PAR1'), Buffer.alloc(50, 7)]))],
  ['NaN', 'json', /not valid JSON/, data('[{"id": NaN}]')],
  ['single quotes', 'json', /not valid JSON/, data("[{'id': 1}]")],
  ['gzip, cut', 'refused', /cannot unpack/, data(gzipSync(JSON.stringify([good])).subarray(0, 40))],
  [
    'gzip, wrong checksum',
    'refused',
    /cannot unpack/,
    data(changed(gzipSync(JSON.stringify([good])), (copy) => copy.fill(0, copy.length - 8))),
  ],
  ['gzip that grows a thousandfold', 'refused', /more than 256 times/, data(gzipSync(Buffer.alloc(1 << 27, 32)))],
  ['gzip of gzip', 'json', /not valid JSON/, data(gzipSync(gzipSync(JSON.stringify([good]))))],
  ['a pattern of missing shards', 'refused', /cannot read the shard/, () => checked(join(folder, 's-{0..3}.tar'))],
  ['a range that runs backwards', 'refused', /runs backwards/, () => checked(join(folder, 's-{3..0}.tar'))],
  [
    'an image folder that is missing',
    'refused',
    /image_folder: no such folder/,
    () => checked(put('a.json', JSON.stringify([good])), join(folder, 'none')),
  ],
  [
    'an image folder that is no archive',
    'refused',
    /not a usable tar/,
    () => checked(put('a.json', JSON.stringify([good])), put('images.json', 'x'.repeat(2000))),
  ],
]);

/** A header and its content, padded; `change` works on the header before its checksum is written. */
function entry(path: string, content: Uint8Array | string, type = 'File', change = (_: Buffer) => {}): Buffer {
  const bytes = Buffer.from(content);
  const header = new Header({
    path,
    size: type === 'File' ? bytes.length : 0,
    type: type as 'File',
    mode: 0o644,
    linkpath: '/etc/passwd',
  });
  const block = Buffer.alloc(512);
  header.encode(block, 0);
  change(block);
  block.fill(32, 148, 156);
  const sum = block.reduce((total, byte) => total + byte, 0);
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148);
  return Buffer.concat([block, bytes, Buffer.alloc((512 - (bytes.length % 512)) % 512)]);
}
const end = Buffer.alloc(1024);
const inTar =
  (...entries: Buffer[]) =>
  () =>
    checked(put('a.json', JSON.stringify([good])), put('images.tar', Buffer.concat([...entries, end])));
const shard =
  (...entries: Buffer[]) =>
  () =>
    checked(put('set.tar', Buffer.concat([...entries, end])));
const goodEntry = entry('good.png', png);

cases('archive', [
  ['good', 'good', /^$/, inTar(goodEntry)],
  ['without the picture', 'image_missing', /no such image in the archive/, inTar(entry('other.png', png))],
  ['the picture a symbolic link', 'image_missing', /no such image/, inTar(entry('good.png', '', 'SymbolicLink'))],
  ['the picture a hard link', 'image_missing', /no such image/, inTar(entry('good.png', '', 'Link'))],
  ['the picture a device', 'image_missing', /no such image/, inTar(entry('good.png', '', 'CharacterDevice'))],
  ['a name that leads out', 'image_missing', /no such image/, inTar(entry('../good.png', png))],
  ['a damaged checksum', 'refused', /damaged header/, inTar(changed(goodEntry, (copy) => copy.fill(48, 148, 154)))],
  [
    'a size beyond the end',
    'refused',
    /ends in/,
    inTar(entry('good.png', png, 'File', (block) => block.write('77777777777', 124))),
  ],
  [
    'a negative size',
    'refused',
    /not a usable tar/,
    inTar(entry('good.png', png, 'File', (block) => block.fill(0xff, 124, 136))),
  ],
  [
    'a huge extended header',
    'refused',
    /oversized extended header/,
    inTar(entry('x', Buffer.alloc(2 << 20), 'File', (block) => block.write('x', 156))),
  ],
  [
    'gzipped',
    'refused',
    /a gzipped tar archive[\s\S]*uncompressed[\s\S]*gunzip /,
    () => checked(put('a.json', JSON.stringify([good])), put('images.tar', gzipSync(Buffer.concat([goodEntry, end])))),
  ],
  [
    'gzipped shards',
    'refused',
    /a gzipped tar archive[\s\S]*gunzip /,
    () => checked(put('set.tar.gz', gzipSync(Buffer.concat([goodEntry, Buffer.alloc(1 << 20, 7)])))),
  ],
  ['a shard with nothing to learn', 'record', /nothing to learn/, shard(entry('a.png', png))],
  ['a shard with bad JSON', 'json', /set\.tar:a\.json/, shard(entry('a.json', '{'), entry('a.png', png))],
  [
    'a shard whose picture is none',
    'image_unreadable',
    /set\.tar:a\.png/,
    shard(entry('a.txt', 'text'), entry('a.png', 'text')),
  ],
  ['a shard with a caption alone', 'good', /^$/, shard(entry('a.txt', 'text'))],
  ['a shard with names without stems', 'refused', /holds no records/, shard(entry('README', 'text'))],
]);

const tokenizer = (files: Record<string, string | Uint8Array>) => async (): Promise<[string, string]> => {
  const path = mkdtempSync(join(folder, 'tokenizer-'));
  for (const [name, content] of Object.entries(files)) writeFileSync(join(path, name), content);
  try {
    loadTokenizer(path).encode('a text');
    return ['good', ''];
  } catch (error) {
    if (!isUserError(error)) throw error;
    return ['refused', error.message];
  }
};
const whole = readFileSync(fixture('data/tokenizer-new/tokenizer.json'), 'utf8');
const without = (key: string) => JSON.stringify({ ...JSON.parse(whole), [key]: undefined });

cases('tokenizer', [
  ['an empty folder', 'refused', /no tokenizer here/, tokenizer({})],
  ['an empty file', 'refused', /not readable as JSON/, tokenizer({ 'tokenizer.json': '' })],
  ['cut', 'refused', /not readable as JSON/, tokenizer({ 'tokenizer.json': whole.slice(0, 5000) })],
  ['a list', 'refused', /not a JSON object/, tokenizer({ 'tokenizer.json': '[]' })],
  ['an empty object', 'refused', /not a usable tokenizer/, tokenizer({ 'tokenizer.json': '{}' })],
  ['without a model', 'refused', /not a usable tokenizer/, tokenizer({ 'tokenizer.json': without('model') })],
  [
    'an unknown model',
    'refused',
    /not a usable tokenizer/,
    tokenizer({ 'tokenizer.json': JSON.stringify({ ...JSON.parse(whole), model: { type: 'Cat' } }) }),
  ],
  [
    'a broken tokenizer_config.json',
    'refused',
    /tokenizer_config\.json: not readable/,
    tokenizer({ 'tokenizer.json': whole, 'tokenizer_config.json': '{' }),
  ],
  ['an empty tokenizer.model', 'refused', /tokenizer\.model/, tokenizer({ 'tokenizer.model': '' })],
  [
    'a tokenizer.model that is a pointer of git-lfs',
    'refused',
    /tokenizer\.model/,
    tokenizer({ 'tokenizer.model': 'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 499723\n' }),
  ],
]);

test('a picture is read whole though others beside it are bad', async () => {
  await sharp({ create: { width: 9, height: 9, channels: 3, background: 'red' } }).toFile(join(folder, 'red.png'));
  const store = openImageStore(folder, 'data.json');
  assert.ok((await store.locate('red.png', 'record').read(1 << 20)).length > 50);
  (await openDataset(put('ok.json', JSON.stringify([good])))).close();
});
