import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { crc32c, TensorboardWriter } from '../../src/report/tensorboard.ts';

const folder = mkdtempSync(join(tmpdir(), 'neva-tb-'));
after(() => rmSync(folder, { recursive: true, force: true }));

test('CRC-32C of the standard check string', () => {
  assert.equal(crc32c(Buffer.from('123456789')), 0xe3069283);
});

type Message = Map<number, (bigint | Buffer)[]>;

/** Any protocol-buffer message, by the rules of its wire format alone. */
function decode(data: Buffer): Message {
  const message: Message = new Map();
  let at = 0;
  const varint = () => {
    let value = 0n;
    for (let shift = 0n; ; shift += 7n) {
      const byte = data[at++]!;
      value |= BigInt(byte & 127) << shift;
      if (byte < 128) return value;
    }
  };
  const take = (count: number) => {
    at += count;
    return data.subarray(at - count, at);
  };
  while (at < data.length) {
    const tag = Number(varint());
    const wire = tag & 7;
    const value = wire === 0 ? varint() : take(wire === 1 ? 8 : wire === 5 ? 4 : Number(varint()));
    message.set(tag >> 3, [...(message.get(tag >> 3) ?? []), value]);
  }
  return message;
}

/** Records of a TFRecord file, with both checksums of each verified. */
function records(data: Buffer): Buffer[] {
  const unmask = (value: number) => {
    const rotated = (value - 0xa282ead8) >>> 0;
    return ((rotated >>> 17) | (rotated << 15)) >>> 0;
  };
  const found: Buffer[] = [];
  for (let at = 0; at < data.length; ) {
    const length = Number(data.readBigUInt64LE(at));
    assert.equal(unmask(data.readUInt32LE(at + 8)), crc32c(data.subarray(at, at + 8)));
    const payload = data.subarray(at + 12, at + 12 + length);
    assert.equal(unmask(data.readUInt32LE(at + 12 + length)), crc32c(payload));
    found.push(payload);
    at += length + 16;
  }
  return found;
}

test('scalars can be read back by the rules of TFRecord and protocol buffers', () => {
  const writer = new TensorboardWriter(join(folder, 'tb'), 201);
  writer.scalars(300, { 'train/loss': 0.25, 'train/mfu': null, 'train/tokens': 4096 });
  writer.scalars(301, { 'train/mfu': null });
  writer.close();
  const [name, ...others] = readdirSync(join(folder, 'tb'));
  assert.match(name!, /^events\.out\.tfevents\.\d{10}\./);
  assert.deepEqual(others, []);
  const events = records(readFileSync(join(folder, 'tb', name!))).map(decode);
  assert.equal(events.length, 3);
  assert.equal(String(events[0]!.get(3)![0]), 'brain.Event:2');
  assert.deepEqual(events[1]!.get(2), [201n]);
  assert.deepEqual(decode(events[1]!.get(7)![0] as Buffer).get(1), [1n]);
  const [, , points] = events;
  assert.ok(Math.abs((points!.get(1)![0] as Buffer).readDoubleLE() - Date.now() / 1000) < 60);
  assert.deepEqual(points!.get(2), [300n]);
  const values = decode(points!.get(5)![0] as Buffer)
    .get(1)!
    .map((value) => decode(value as Buffer))
    .map((value) => [String(value.get(1)![0]), (value.get(2)![0] as Buffer).readFloatLE()]);
  assert.deepEqual(values, [
    ['train/loss', 0.25],
    ['train/tokens', 4096],
  ]);
});
