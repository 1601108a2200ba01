/**
 * TensorBoard's event files, scalars only: TFRecord framing (length, masked CRC-32C, data, masked CRC-32C) around `Event`
 * messages of tensorflow/core/util/event.proto. Written by hand because no maintained package writes them without
 * TensorFlow; a test reads the files back.
 */
import { closeSync, mkdirSync, openSync, writeSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';

// Castagnoli polynomial, reflected.
const crcTable = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  return crc;
});

export function crc32c(data: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of data) crc = crcTable[(crc ^ byte) & 0xff]! ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}

/** TFRecord stores checksums rotated and shifted, so that a checksum of data with checksums in it stays useful. */
const masked = (crc: number) => (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0;

function record(data: Buffer): Buffer {
  const head = Buffer.alloc(12);
  head.writeBigUInt64LE(BigInt(data.length));
  head.writeUInt32LE(masked(crc32c(head.subarray(0, 8))), 8);
  const tail = Buffer.alloc(4);
  tail.writeUInt32LE(masked(crc32c(data)));
  return Buffer.concat([head, data, tail]);
}

// --- protocol buffers: a field is a tag byte (number · 8 + wire type) and its value ------------------------------------
function varint(value: number): Buffer {
  const bytes: number[] = [];
  let rest = value;
  for (; rest >= 128; rest = Math.floor(rest / 128)) bytes.push((rest % 128) | 128);
  bytes.push(rest);
  return Buffer.from(bytes);
}

const tagged = (field: number, wire: 0 | 1 | 2 | 5, value: Buffer) =>
  Buffer.concat([Buffer.from([(field << 3) | wire]), value]);
const integer = (field: number, value: number) => tagged(field, 0, varint(value));
const bytes = (field: number, value: Buffer) => tagged(field, 2, Buffer.concat([varint(value.length), value]));

function double(field: number, value: number): Buffer {
  const buffer = Buffer.alloc(8);
  buffer.writeDoubleLE(value);
  return tagged(field, 1, buffer);
}

function float(field: number, value: number): Buffer {
  const buffer = Buffer.alloc(4);
  buffer.writeFloatLE(value);
  return tagged(field, 5, buffer);
}

/** Event.session_log { status: START }: TensorBoard then drops points of this step and later from older files. */
const sessionStart = bytes(7, integer(1, 1));

export class TensorboardWriter {
  private readonly handle: number;

  /** Begins a new event file in `folder`. `firstStep`: the first step that this process will write. */
  constructor(folder: string, firstStep: number) {
    mkdirSync(folder, { recursive: true });
    const seconds = String(Math.floor(Date.now() / 1000)).padStart(10, '0');
    const name = `events.out.tfevents.${seconds}.${hostname()}.${process.pid}.${firstStep}`;
    this.handle = openSync(join(folder, name), 'a');
    this.event(0, bytes(3, Buffer.from('brain.Event:2')));
    this.event(firstStep, sessionStart);
  }

  /** All values of one step in one event; a value that is null has no point. */
  scalars(step: number, values: Readonly<Record<string, number | null>>): void {
    const points = Object.entries(values)
      .filter((entry): entry is [string, number] => entry[1] !== null)
      .map(([tag, value]) => bytes(1, Buffer.concat([bytes(1, Buffer.from(tag)), float(2, value)])));
    if (points.length > 0) this.event(step, bytes(5, Buffer.concat(points)));
  }

  close(): void {
    closeSync(this.handle);
  }

  private event(step: number, what: Buffer): void {
    writeSync(this.handle, record(Buffer.concat([double(1, Date.now() / 1000), integer(2, step), what])));
  }
}
