/** Bytes with damage at random. */

/** Numbers in [0, 1) from a seed (mulberry32), so that a failing case can be had again. */
export function random(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

const INTERESTING = [0, 1, 0x2e, 0x52, 0x62, 0x63, 0x7d, 0x7f, 0x80, 0x8a, 0x8e, 0x93, 0xff];

/** A copy with one to five changes: bytes, runs of bytes, parts doubled, taken out or cut off. */
export function damage(bytes: Buffer, next: () => number): Buffer {
  let result = Buffer.from(bytes);
  const at = () => Math.floor(next() * result.length);
  for (let change = 0; change <= next() * 4; change++) {
    const [start, length] = [at(), Math.floor(next() ** 3 * 64)];
    switch (Math.floor(next() * 6)) {
      case 0:
        result[start] = Math.floor(next() * 256);
        break;
      case 1:
        result[start] = INTERESTING[Math.floor(next() * INTERESTING.length)]!;
        break;
      case 2:
        result.fill(next() < 0.5 ? 0xff : 0, start, Math.min(result.length, start + 8));
        break;
      case 3:
        result = result.subarray(0, start + 1);
        break;
      case 4: // a part again
        result = Buffer.concat([
          result.subarray(0, start),
          result.subarray(at(), at() + length),
          result.subarray(start),
        ]);
        break;
      default: // a part taken out
        result = Buffer.concat([result.subarray(0, start), result.subarray(start + length)]);
    }
    if (result.length === 0) return result;
  }
  return result;
}
