/** Files made to harm: each is refused as the user's mistake, runs nothing and writes nothing. */
import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { readTensor } from '../../src/checkpoint/pieces.ts';
import { fileEntries } from '../../src/checkpoint/raw.ts';
import { isUserError } from '../../src/errors.ts';
import { neva } from '../cli/neva.ts';
import {
  global,
  int,
  type Member,
  type MemberFault,
  pickleOf,
  SIX,
  statePickle,
  type TensorFault,
  text,
  torchFile,
  word,
  zipOf,
} from '../support/torch_file.ts';

const folder = mkdtempSync(join(tmpdir(), 'neva-hostile-'));
after(() => rmSync(folder, { recursive: true }));

const touch = `touch ${join(folder, 'ran')}`;
const calls = (module: string, name: string, args = `(${text(touch)}t`) => pickleOf(global(module, name), args, 'R.');
const rebuild = (fault: TensorFault) => torchFile(statePickle(fault));
const member = (fault: MemberFault, name = 'x/data/0', data: Uint8Array = SIX): Member => ({ name, data, fault });
const withMember = (...more: Member[]) => torchFile(statePickle(), more);
const pickled = (pickle: Buffer) => torchFile(pickle);
const good = torchFile(statePickle());
const long = (value: bigint) => {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(value);
  return bytes.toString('latin1');
};

const FILES: Record<string, [Buffer, RegExp]> = {
  'os.system': [pickled(calls('os', 'system')), /os\.system/],
  'posix.system': [pickled(calls('posix', 'system')), /posix\.system/],
  'nt.system': [pickled(calls('nt', 'system')), /nt\.system/],
  'a name from the stack': [
    pickled(pickleOf(text('os'), text('system'), '\x93', `(${text(touch)}t`, 'R.')),
    /os\.system/,
  ],
  'builtins.eval': [pickled(calls('builtins', 'eval')), /builtins\.eval/],
  'Python 2’s eval': [pickled(calls('__builtin__', 'eval')), /eval/],
  'builtins.exec': [pickled(calls('builtins', 'exec')), /exec/],
  'builtins.getattr': [pickled(calls('builtins', 'getattr')), /getattr/],
  'subprocess.Popen': [pickled(calls('subprocess', 'Popen')), /Popen/],
  'importlib.import_module': [pickled(calls('importlib', 'import_module')), /import_module/],
  'functools.partial': [pickled(calls('functools', 'partial')), /partial/],
  'torch.load': [pickled(calls('torch', 'load')), /torch\.load/],
  'a pickle within': [pickled(calls('torch.storage', '_load_from_bytes')), /_load_from_bytes/],
  'an unknown class of omegaconf': [pickled(calls('omegaconf._utils', 'exec')), /omegaconf\._utils\.exec/],
  'a property of Object': [pickled(calls('constructor', 'constructor')), /constructor/],
  'a member of Object.prototype': [pickled(calls('torch', '__proto__')), /__proto__/],
  'a name with control characters': [pickled(calls('os\x1b[2J', 'x')), /os\\u001b/],
  'INST instead of REDUCE': [pickled(pickleOf('(', text(touch), 'ios\nsystem\n.')), /instruction 0x69/],
  'OBJ instead of REDUCE': [pickled(pickleOf('(', global('torch', 'Size'), 'o.')), /instruction 0x6f/],
  'an extension code': [pickled(pickleOf('\x82\x01.')), /instruction 0x82/],
  'a textual persistent id': [pickled(pickleOf('Pstorage\n.')), /instruction 0x50/],
  'an out-of-band buffer': [pickled(pickleOf('\x97.')), /instruction 0x97/],
  'a call of a number': [pickled(pickleOf('K\x01)R.')), /no function/],
  'a call of a storage class': [pickled(calls('torch', 'FloatStorage')), /no function/],
  'a call with named arguments': [pickled(pickleOf(global('torch', 'Size'), ')}\x92.')), /instruction 0x92/],
  'a state for a list': [pickled(pickleOf(']}b.')), /a state for what takes none/],
  'a text longer than the file': [pickled(pickleOf(`X${word(0xffffffff)}a.`)), /cut short/],
  'bytes of 2⁶²': [pickled(pickleOf(`\x8e${long(1n << 62n)}a.`)), /cut short/],
  'a frame of 2⁶³': [pickled(pickleOf(`\x95${long(1n << 63n)}.`)), /cut short/],
  'an integer of 2 GB': [pickled(pickleOf(`\x8b${word(0x7fffffff)}.`)), /absurd length/],
  'a memory that is empty': [pickled(pickleOf('h\x07.')), /a reference to nothing/],
  'a million objects and one': [pickled(pickleOf('}'.repeat(1_000_001), '.')), /more than 1000000 objects/],
  'an empty stack': [pickled(pickleOf('.')), /without its operand/],
  'a mark as a value': [pickled(pickleOf('(.')), /without its operand/],
  'an end without a beginning': [pickled(pickleOf('t.')), /without a beginning/],
  'no end': [pickled(pickleOf('N')), /cut short/],
  'an item for the empty tuple': [pickled(pickleOf(')K\x01a.')), /no list/],
  'another protocol': [pickled(Buffer.from([0x80, 9, 0x4e, 0x2e])), /unknown protocol/],
  'a negative size': [rebuild({ shape: `${int(-2)}${int(3)}\x86` }), /no such thing/],
  'a size that is no number': [rebuild({ shape: `${text('2')}K\x03\x86` }), /no such thing/],
  'a size of 2⁶⁰': [rebuild({ shape: `${int(0x7fffffff)}${int(0x3fffffff)}\x86` }), /with strides/],
  'more dimensions than torch has': [rebuild({ shape: `(${'K\x01'.repeat(65)}t` }), /no such thing/],
  'a stride out of the storage': [rebuild({ strides: `${int(1000)}${int(1)}\x86` }), /with strides/],
  'an expanded tensor': [rebuild({ shape: `${int(999)}${int(999)}\x86`, strides: `${int(0)}${int(0)}\x86` }), /with/],
  'fewer strides than sizes': [rebuild({ strides: `${int(1)}\x85` }), /with strides/],
  'a beginning out of the storage': [rebuild({ start: int(100) }), /from element 100/],
  'a negative beginning': [rebuild({ start: int(-1) }), /no such thing/],
  'a storage larger than its member': [rebuild({ count: int(7) }), /not there whole/],
  'a storage of −1': [rebuild({ count: int(-1) }), /cannot read/],
  'a storage that is not there': [rebuild({ key: '1' }), /not there whole/],
  'a storage out of its folder': [rebuild({ key: '../../0' }), /cannot read/],
  'a complex storage': [rebuild({ type: 'ComplexFloatStorage' }), /ComplexFloatStorage/],
  'no state dict': [pickled(pickleOf('K\x01.')), /no state dict/],
  'a text among tensors': [pickled(pickleOf('}', text('w'), text('x'), 's.')), /"w" is no tensor/],
  'a number for a name': [pickled(pickleOf('}K\x01K\x02s.')), /a key that is/],
  'a zip cut short': [good.subarray(0, -30), /its end is missing/],
  'a zip cut at the front': [Buffer.concat([good.subarray(0, 40), good.subarray(80)]), /zip archive/],
  'a directory beyond the file': [zipOf([member({})], { at: 1 << 30 }), /outside/],
  'a directory of 4 GB': [zipOf([member({})], { size: 0xfffffff0 }), /outside/],
  'more members than there are': [zipOf([member({})], { count: 9 }), /directory is damaged/],
  'fewer members than there are': [zipOf([member({}), member({}, 'b')], { count: 1 }), /directory is damaged/],
  'the 64-bit end without its locator': [zipOf([member({})], { at: 0xffffffff }), /its end is damaged/],
  'a 64-bit member without its sizes': [withMember(member({ at: 0xffffffff })), /directory is damaged/],
  'a member twice': [withMember(member({}), member({})), /twice/],
  'members that overlap': [withMember(member({}), member({ at: 0 }, 'x/data.pkl2')), /disagree on the name/],
  'a member with another name inside': [withMember(member({ localName: 'x/data/1' })), /disagree on the name/],
  'a member longer than the file': [withMember(member({ packed: 1 << 30, nbytes: 1 << 30 })), /outside/],
  'a member of two lengths': [withMember(member({ nbytes: 48 })), /cannot have 48 bytes/],
  'an encrypted member': [withMember(member({ flags: 1 })), /encrypted/],
  'an unknown compression': [withMember(member({ method: 14 })), /method 14/],
  'a bomb': [
    withMember({ name: 'x/data/0', data: SIX, deflate: true, fault: { nbytes: 0x7fffffff } }),
    /cannot have 2147483647 bytes/,
  ],
  'a pickle that does not match its checksum': [
    zipOf([{ name: 'x/data.pkl', data: statePickle(), fault: { crc: 1 } }, member({})]),
    /checksum/,
  ],
  'two pickles': [withMember(member({}), member({}, 'y/data.pkl')), /no file of torch\.save/],
  'a program': [zipOf([member({}, 'x/code/a.py'), member({}, 'x/constants.pkl')]), /TorchScript/],
  'another byte order': [withMember(member({}), { name: 'x/byteorder', data: Buffer.from('big') }), /big-endian/],
  'no torch file': [zipOf([member({}, 'readme')]), /no file of torch\.save/],
  'a dict that holds itself': [pickled(pickleOf('}q\x00', text('w'), 'h\x00s.')), /"w" is no tensor/],
  'a list that holds itself': [pickled(pickleOf(']q\x00h\x00a.')), /no state dict/],
  'nothing at all': [Buffer.alloc(0), /not a file of weights/],
  'a GGUF file': [Buffer.concat([Buffer.from('GGUF\x03\0\0\0'), Buffer.alloc(600, 0xff)]), /not a file of weights/],
  'an array of numpy': [Buffer.concat([Buffer.from("\x93NUMPY\x01\0v\0{'descr': '|O'}")]), /not a file of weights/],
  'a pickle alone': [calls('os', 'system'), /not a file of weights|before version 1\.6/],
  'a web page': [Buffer.from('<!DOCTYPE html><html><body>Not found</body></html>'), /not a file of weights/],
  'a pointer of git-lfs': [
    Buffer.from(`version https://git-lfs.github.com/spec/v1\noid sha256:${'0'.repeat(64)}\nsize 9\n`),
    /not a file of weights/,
  ],
};

test('the file that the others are made from is read', () => {
  const file = join(folder, 'good');
  writeFileSync(file, good);
  assert.deepEqual(Buffer.from(readTensor(fileEntries(file).get('w')!)), Buffer.from(SIX));
  rmSync(file);
});

for (const [name, [bytes, expected]] of Object.entries(FILES)) {
  test(`refused: ${name}`, () => {
    const file = join(folder, 'file');
    writeFileSync(file, bytes);
    const read = () => {
      for (const entry of fileEntries(file).values()) readTensor(entry);
    };
    assert.throws(read, (error: unknown) => isUserError(error) && expected.test(error.message));
    assert.deepEqual(readdirSync(folder), ['file']);
  });
}

test('the command exits with 2 for them, says one message, and writes nothing', () => {
  const out = join(folder, 'out', 'there');
  const file = join(folder, 'file');
  for (const name of ['os.system', 'a bomb', 'a dict that holds itself', 'members that overlap', 'a GGUF file']) {
    writeFileSync(file, FILES[name]![0]);
    const { status, stderr, stdout } = neva(['convert-checkpoint', '--from', file, '--to', 'hf', '--out', out]);
    assert.equal(status, 2, name);
    assert.match(stderr, FILES[name]![1]);
    assert.doesNotMatch(stderr, /\n +at /);
    assert.equal(stdout, '');
    assert.deepEqual(readdirSync(folder), ['file']);
  }
});
