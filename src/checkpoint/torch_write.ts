/**
 * Writes a state dict as torch.save does: a zip of stored members whose storages begin at multiples of 64 bytes. One tensor is
 * in memory at a time; no zip library lets a member be aligned. Every size is given in 64 bits, so that there is one path.
 */
import { crc32 } from 'node:zlib';
import type { DType } from '../engine/engine.ts';
import type { OutFile } from './out_file.ts';
import { contiguousStrides } from './pieces.ts';
import { byteLength, streamed, type TensorToWrite } from './safetensors.ts';

const ALIGNMENT = 64;
const ROOT = 'model_weights';
/** 1980-01-01, the first day that zip knows: the file is the same whenever it is written. */
const [TIME, DATE] = [0, 33];

const CLASSES: Record<DType, string> = {
  float64: 'DoubleStorage',
  float32: 'FloatStorage',
  float16: 'HalfStorage',
  bfloat16: 'BFloat16Storage',
  int64: 'LongStorage',
  int32: 'IntStorage',
  uint8: 'ByteStorage',
  bool: 'BoolStorage',
};

interface PlannedMember {
  name: string;
  nbytes: number;
  content: (take: (part: Uint8Array) => void) => void;
}

export interface TorchPlan {
  /** Size of the whole file, known before anything is read. */
  nbytes: number;
  write(out: OutFile): void;
}

/** A file of torch.save with these tensors, to be written at the end of an open file. */
export function planTorchFile(tensors: readonly TensorToWrite[]): TorchPlan {
  const fixed = (name: string, data: Buffer): PlannedMember => ({
    name,
    nbytes: data.length,
    content: (take) => take(data),
  });
  const members = [
    fixed('data.pkl', statePickle(tensors)),
    fixed('byteorder', Buffer.from('little')),
    ...tensors.map((tensor, i) => ({
      name: `data/${i}`,
      nbytes: byteLength(tensor.shape, tensor.dtype),
      content: (take: (part: Uint8Array) => void) => void streamed(tensor, take),
    })),
    fixed('version', Buffer.from('3\n')),
  ];
  let at = 0;
  const placed = members.map((member) => {
    const header = localHeader(member, at);
    const place = { ...member, at, header };
    at += header.length + member.nbytes;
    return place;
  });
  const directory = placed.reduce((sum, { name }) => sum + 46 + ROOT.length + 1 + name.length + 28, 0);
  return {
    nbytes: at + directory + 56 + 20 + 22,
    write: (out) => {
      const start = out.position;
      const entries = placed.map(({ header, content, nbytes, ...member }) => {
        const position = out.position;
        out.write(header);
        let sum = 0;
        content((part) => {
          sum = crc32(part, sum);
          out.write(part);
        });
        const written = out.position - position - header.length;
        if (written !== nbytes) throw new Error(`${member.name}: ${written} bytes instead of ${nbytes}`);
        const crc = Buffer.alloc(4);
        crc.writeUInt32LE(sum);
        out.patch(position + 14, crc);
        return centralHeader(header, crc, member.name, member.at, nbytes);
      });
      out.write(Buffer.concat([...entries, ending(entries.length, at, directory)]));
      if (out.position - start !== at + directory + 98) throw new Error('a torch file of another size than planned');
    },
  };
}

/** {name: torch._utils._rebuild_tensor_v2(storage, 0, size, stride, False, OrderedDict()), …} in protocol 2. */
function statePickle(tensors: readonly TensorToWrite[]): Buffer {
  const chunks: Buffer[] = [Buffer.from([0x80, 2]), Buffer.from('}(')];
  const put = (...parts: (string | Buffer)[]) => {
    for (const part of parts) chunks.push(typeof part === 'string' ? Buffer.from(part, 'latin1') : part);
  };
  tensors.forEach(({ name, dtype, shape }, i) => {
    const count = shape.reduce((product, size) => product * size, 1);
    put(text(name), 'ctorch._utils\n_rebuild_tensor_v2\n((', text('storage'), `ctorch\n${CLASSES[dtype]}\n`);
    put(text(String(i)), text('cpu'), integer(count), 'tQK\0', tuple(shape), tuple(contiguousStrides(shape)));
    put('\x89ccollections\nOrderedDict\n)RtR');
  });
  put('u.');
  return Buffer.concat(chunks);
}

function text(value: string): Buffer {
  const bytes = Buffer.from(value);
  const length = Buffer.alloc(5, 'X');
  length.writeUInt32LE(bytes.length, 1);
  return Buffer.concat([length, bytes]);
}

/** BININT, or LONG1 of eight bytes. */
function integer(value: number): Buffer {
  const small = value < 2 ** 31;
  const bytes = Buffer.alloc(small ? 5 : 10);
  bytes.write(small ? 'J' : '\x8a\x08', 'latin1');
  if (small) bytes.writeInt32LE(value, 1);
  else bytes.writeBigInt64LE(BigInt(value), 2);
  return bytes;
}

const tuple = (values: readonly number[]): Buffer =>
  Buffer.concat([Buffer.from('('), ...values.map(integer), Buffer.from('t')]);

/** The header of a member at `at`, padded so that what follows is aligned; the checksum is filled in later. */
function localHeader({ name, nbytes }: PlannedMember, at: number): Buffer {
  const full = Buffer.from(`${ROOT}/${name}`);
  const fields = 30 + full.length + 20 + 4;
  const padding = (ALIGNMENT - ((at + fields) % ALIGNMENT)) % ALIGNMENT;
  const header = Buffer.alloc(fields + padding, 'Z');
  header.fill(0, 0, fields);
  header.writeUInt32LE(0x04034b50, 0);
  header.writeUInt16LE(45, 4); // version 4.5 has 64-bit sizes
  header.writeUInt16LE(TIME, 10);
  header.writeUInt16LE(DATE, 12);
  header.writeUInt32LE(0xffffffff, 18);
  header.writeUInt32LE(0xffffffff, 22);
  header.writeUInt16LE(full.length, 26);
  header.writeUInt16LE(20 + 4 + padding, 28);
  full.copy(header, 30);
  const extra = 30 + full.length;
  header.writeUInt16LE(1, extra);
  header.writeUInt16LE(16, extra + 2);
  header.writeBigUInt64LE(BigInt(nbytes), extra + 4);
  header.writeBigUInt64LE(BigInt(nbytes), extra + 12);
  header.write('FB', extra + 20); // the tag that torch pads with
  header.writeUInt16LE(padding, extra + 22);
  return header;
}

function centralHeader(local: Buffer, crc: Buffer, name: string, at: number, nbytes: number): Buffer {
  const full = Buffer.from(`${ROOT}/${name}`);
  const header = Buffer.alloc(46 + full.length + 28);
  header.writeUInt32LE(0x02014b50, 0);
  header.writeUInt16LE(45, 4);
  local.copy(header, 6, 4, 14);
  crc.copy(header, 16);
  header.writeUInt32LE(0xffffffff, 20);
  header.writeUInt32LE(0xffffffff, 24);
  header.writeUInt16LE(full.length, 28);
  header.writeUInt16LE(28, 30);
  header.writeUInt32LE(0xffffffff, 42);
  full.copy(header, 46);
  const extra = 46 + full.length;
  header.writeUInt16LE(1, extra);
  header.writeUInt16LE(24, extra + 2);
  for (const [i, value] of [nbytes, nbytes, at].entries()) header.writeBigUInt64LE(BigInt(value), extra + 4 + 8 * i);
  return header;
}

/** The end in 64 bits, its locator, and the end in 32 bits that refers to them. */
function ending(count: number, at: number, size: number): Buffer {
  const end = Buffer.alloc(98);
  end.writeUInt32LE(0x06064b50, 0);
  end.writeBigUInt64LE(44n, 4);
  end.writeUInt16LE(45, 12);
  end.writeUInt16LE(45, 14);
  for (const [i, value] of [count, count, size, at].entries()) end.writeBigUInt64LE(BigInt(value), 24 + 8 * i);
  end.writeUInt32LE(0x07064b50, 56);
  end.writeBigUInt64LE(BigInt(at + size), 64);
  end.writeUInt32LE(1, 72);
  end.writeUInt32LE(0x06054b50, 76);
  end.writeUInt16LE(0xffff, 84);
  end.writeUInt16LE(0xffff, 86);
  end.writeUInt32LE(0xffffffff, 88);
  end.writeUInt32LE(0xffffffff, 92);
  return end;
}
