/**
 * Pictures a second and core for decoding, resizing and normalising: neva beside Pillow + CLIPImageProcessor, taking turns in
 * one run on one JPEG of 640 × 480. CPU time is counted, so that neither gains by threads. Decoding is also timed by itself.
 *
 *     npm run build && node dist/bench/data/run.js [--rounds 10] [--pictures 20] [--size 336]
 *
 * Needs pillow, torch and transformers in the python3 on PATH; with torchvision, CLIPImageProcessor's other backend is timed as well.
 * Writes bench/results/DATE-data.json.
 */
import { spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';
import sharp from 'sharp';
import { decodeFile, loadImage } from '../../src/data/images.ts';
import { generator } from '../../src/data/permutation.ts';
import { buildJpeg, loadJpeg } from '../../src/engine/jpeg.ts';
import { packageRoot } from '../../src/root.ts';

const { values: flags } = parseArgs({
  options: {
    rounds: { type: 'string', default: '10' },
    pictures: { type: 'string', default: '20' },
    size: { type: 'string', default: '336' },
  },
});
const [rounds, pictures, size] = [Number(flags.rounds), Number(flags.pictures), Number(flags.size)];

/** Waves and grain: compresses about as a photograph does. */
async function writePhoto(path: string): Promise<void> {
  const [width, height] = [640, 480];
  const random = generator(1);
  const data = Uint8ClampedArray.from({ length: width * height * 3 }, (_, i) => {
    const pixel = Math.floor(i / 3);
    const [x, y] = [(pixel % width) / width, Math.floor(pixel / width) / height];
    const wave = [Math.sin(20 * x) * 60 + 128, Math.cos(17 * y) * 80 + 128, x * y * 200][i % 3]!;
    return wave + (random() + random() - 1) * 20;
  });
  await sharp(data, { raw: { width, height, channels: 3 } })
    .jpeg({ quality: 90 })
    .toFile(path);
}

await buildJpeg(console.error);
const jpeg = loadJpeg();
const folder = mkdtempSync(join(tmpdir(), 'neva-bench-'));
const photo = join(folder, 'photo.jpg');
await writePhoto(photo);
sharp.concurrency(1);
sharp.cache(false);

/** Python beside us; each of the processors in a process of its own, for what malloc keeps of one speeds up the other. */
function openPeer() {
  const script = join(packageRoot, 'bench', 'data', 'pillow_peer.py');
  const child = spawn('python3', [script, photo, String(size)], { stdio: ['pipe', 'pipe', 'inherit'] });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const next = async () => {
    const line = await lines.next();
    if (line.done) throw new Error('the Python side ended early');
    return line.value;
  };
  return {
    ready: next,
    /** CPU seconds that the request took. */
    async run(request: string) {
      child.stdin.write(`${request}\n`);
      return Number(await next());
    },
    close: () => child.stdin.end(),
  };
}

const pillow = openPeer();
const torchvision = openPeer();
const options = { imageSize: size, aspect: 'square' } as const;
for (let i = 0; i < 20; i++) await loadImage(photo, options);
await Promise.all([pillow.ready(), torchvision.ready()]);

const own = async (count: number, work: () => Promise<unknown>) => {
  const before = process.cpuUsage();
  for (let i = 0; i < count; i++) await work();
  const { user, system } = process.cpuUsage(before);
  return (user + system) / 1e6;
};
const seconds = { neva: 0, pillow: 0, torchvision: 0 };
const decoding = { neva: 0, pillow: 0 };
for (let round = 0; round < rounds; round++) {
  seconds.neva += await own(pictures, () => loadImage(photo, options));
  seconds.pillow += await pillow.run(`whole ${pictures}`);
  seconds.torchvision += await torchvision.run(`torchvision ${pictures}`);
  decoding.neva += await own(pictures, () => decodeFile(photo));
  decoding.pillow += await pillow.run(`decode ${pictures}`);
}
pillow.close();
torchvision.close();
rmSync(folder, { recursive: true });

// Null where there is no torchvision.
const rounded = (value: number, digits: number) => (Number.isFinite(value) ? Number(value.toFixed(digits)) : null);
const rate = (spent: number) => rounded((rounds * pictures) / spent, 1);
const result = {
  date: new Date().toISOString().slice(0, 10),
  cpu: cpus()[0]?.model,
  node: process.version,
  size,
  decoder: jpeg ? `libjpeg-turbo ${jpeg.version}` : 'sharp',
  picturesPerSecondAndCore: {
    neva: rate(seconds.neva),
    pillow: rate(seconds.pillow),
    torchvision: rate(seconds.torchvision),
  },
  ratio: rounded(seconds.pillow / seconds.neva, 2),
  ratioToTorchvision: rounded(seconds.torchvision / seconds.neva, 2),
  decodedPerSecondAndCore: { neva: rate(decoding.neva), pillow: rate(decoding.pillow) },
};
console.log(JSON.stringify(result, null, 2));
mkdirSync(join(packageRoot, 'bench', 'results'), { recursive: true });
writeFileSync(
  join(packageRoot, 'bench', 'results', `${result.date}-data.json`),
  `${JSON.stringify(result, null, 2)}\n`,
);
