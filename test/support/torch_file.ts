/** Zips and pickles written by hand, right or wrong in any way, for tests of reading them. */
import { crc32, deflateRawSync } from 'node:zlib';

export interface MemberFault {
  method?: number;
  flags?: number;
  crc?: number;
  /** Sizes and position that the directory claims. */
  packed?: number;
  nbytes?: number;
  at?: number;
  localName?: string;
}

export interface Member {
  name: string;
  data: Uint8Array;
  deflate?: boolean;
  fault?: MemberFault;
}

/** A zip of these members; `end` overrides what its last record says. */
export function zipOf(members: readonly Member[], end: { at?: number; size?: number; count?: number } = {}): Buffer {
  const chunks: Buffer[] = [];
  const directory: Buffer[] = [];
  let at = 0;
  for (const { name, data, deflate = false, fault = {} } of members) {
    const body = deflate ? deflateRawSync(data) : Buffer.from(data);
    const method = fault.method ?? (deflate ? 8 : 0);
    const local = Buffer.alloc(30);
    local.writeUInt32LE(0x04034b50, 0);
    const localName = fault.localName ?? name;
    local.writeUInt16LE(localName.length, 26);
    const central = Buffer.alloc(46);
    central.writeUInt32LE(0x02014b50, 0);
    central.writeUInt16LE(fault.flags ?? 0, 8);
    central.writeUInt16LE(method, 10);
    central.writeUInt32LE(fault.crc ?? crc32(data), 16);
    central.writeUInt32LE(fault.packed ?? body.length, 20);
    central.writeUInt32LE(fault.nbytes ?? data.length, 24);
    central.writeUInt16LE(name.length, 28);
    central.writeUInt32LE(fault.at ?? at, 42);
    directory.push(central, Buffer.from(name));
    chunks.push(local, Buffer.from(localName), body);
    at += 30 + localName.length + body.length;
  }
  const central = Buffer.concat(directory);
  const last = Buffer.alloc(22);
  last.writeUInt32LE(0x06054b50, 0);
  last.writeUInt16LE(end.count ?? members.length, 8);
  last.writeUInt16LE(end.count ?? members.length, 10);
  last.writeUInt32LE(end.size ?? central.length, 12);
  last.writeUInt32LE(end.at ?? at, 16);
  return Buffer.concat([...chunks, central, last]);
}

/** Instructions of a pickle; strings stand for their latin-1 bytes. */
export const pickleOf = (...parts: (string | Uint8Array)[]): Buffer =>
  Buffer.concat([Buffer.from([0x80, 2]), ...parts.map((p) => (typeof p === 'string' ? Buffer.from(p, 'latin1') : p))]);

export const text = (value: string): string => `X${word(Buffer.byteLength(value))}${value}`;
export const word = (value: number): string => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value >>> 0);
  return bytes.toString('latin1');
};
export const int = (value: number): string => `J${word(value)}`;
export const global = (module: string, name: string): string => `c${module}\n${name}\n`;

export interface TensorFault {
  type?: string;
  key?: string;
  count?: string;
  start?: string;
  shape?: string;
  strides?: string;
}

/** {'w': a float32 tensor of [2, 3] over storage 0}, or not quite. */
export function statePickle({ type = 'FloatStorage', ...f }: TensorFault = {}, name = 'w'): Buffer {
  const id = `(${text('storage')}${global('torch', type)}${text(f.key ?? '0')}${text('cpu')}${f.count ?? int(6)}tQ`;
  const { start = int(0), shape = `${int(2)}${int(3)}\x86`, strides = `${int(3)}${int(1)}\x86` } = f;
  const args = `(${id}${start}${shape}${strides}\x89)t`;
  return pickleOf('}', text(name), global('torch._utils', '_rebuild_tensor_v2'), args, 'R', 's.');
}

export const SIX = new Uint8Array(Float32Array.of(1, 2, 3, 4, 5, 6).buffer);

/** A torch file of this pickle and storage 0. */
export const torchFile = (pickle: Uint8Array, more: readonly Member[] = [{ name: 'x/data/0', data: SIX }]): Buffer =>
  zipOf([{ name: 'x/data.pkl', data: pickle }, ...more]);
