/**
 * Trains the demo's vision tower, with neva's own tower, engine and optimizer, to tell of each patch what stands in it (nothing,
 * or one of the shapes in one of the colours) and which patch it is. The two linear heads that this is read off are thrown
 * away. Without the second, features would not carry their place, and the language model could not answer where something is.
 *
 *     node dist/data/demo/make/tower.js --out FOLDER [--steps 250]
 *
 * Writes FOLDER/model.safetensors and config.json, as Hugging Face's CLIPVisionModel has them.
 */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { visionConfig } from '../../../src/checkpoint/hf_config.ts';
import { writeName } from '../../../src/checkpoint/names.ts';
import { writeSafetensors } from '../../../src/checkpoint/safetensors.ts';
import { CLIP_MEAN, CLIP_STD } from '../../../src/data/images.ts';
import type { Parameter, Segment, Tensor } from '../../../src/engine/engine.ts';
import { openEngine } from '../../../src/engine/open.ts';
import { writeFileAtomic } from '../../../src/files.ts';
import type { VisionShape } from '../../../src/model/shapes.ts';
import { VisionTower } from '../../../src/model/vision.ts';
import { Optimizer } from '../../../src/train/optimizer.ts';
import { learningRate } from '../../../src/train/schedule.ts';
import { rasterize } from './picture.ts';
import { examples } from './records.ts';
import { CELL, COLORS, GRID, type Scene, SHAPES, SIDE } from './world.ts';

const SHAPE: VisionShape = {
  imageSize: SIDE,
  patchSize: CELL,
  hiddenSize: 128,
  numLayers: 3,
  numAttentionHeads: 4,
  ffnHiddenSize: 256,
  normEpsilon: 1e-5,
  selectLayer: -1,
  classTokenLength: 1,
};
const BATCH = 64;
const CLASSES = 1 + SHAPES.length * COLORS.length;
const PATCHES = GRID * GRID;

const { values } = parseArgs({ options: { out: { type: 'string' }, steps: { type: 'string', default: '250' } } });
if (values.out === undefined) {
  console.error('usage: tower.js --out FOLDER [--steps N]');
  process.exit(2);
}

const engine = await openEngine({ engine: 'torch', accelerator: 'cpu', num_threads: null } as never);
engine.seed(1);
const tower = new VisionTower(engine, SHAPE);
const linearHead = (name: string, classes: number): Parameter => ({
  name,
  value: engine.keep(engine.normal([classes, SHAPE.hiddenSize], 0, 0.05)),
  main: null,
  grad: null,
  trainable: true,
  decay: true,
});
const head = linearHead('what', CLASSES);
const placeHead = linearHead('where', PATCHES);
for (const parameter of tower.parameters) parameter.trainable = true;
const optimizer = new Optimizer(engine, [...tower.parameters, head, placeHead], {
  betas: [0.9, 0.95],
  eps: 1e-8,
  weightDecay: 0.01,
  clip: 1,
});

/** [3, S, S] as neva's loader makes it of the picture. */
function pixelsOf(scene: Scene, into: Float32Array, at: number): void {
  const bytes = rasterize(scene);
  for (let i = 0; i < SIDE * SIDE; i++) {
    for (let c = 0; c < 3; c++) {
      into[at + c * SIDE * SIDE + i] = (bytes[i * 3 + c]! / 255 - CLIP_MEAN[c]!) / CLIP_STD[c]!;
    }
  }
}

function labelsOf(scene: Scene, into: Int32Array, at: number): void {
  for (const { shape, color, row, column } of scene.things) {
    into[at + row * GRID + column] = 1 + SHAPES.indexOf(shape) * COLORS.length + COLORS.indexOf(color);
  }
}

/** The mean loss and the share of non-empty patches that were named rightly. */
function step(scenes: Scene[], number: number, lr: number): { loss: number; right: number } {
  const pixels = new Float32Array(scenes.length * 3 * SIDE * SIDE);
  const labels = new Int32Array(scenes.length * PATCHES);
  scenes.forEach((scene, i) => {
    pixelsOf(scene, pixels, i * 3 * SIDE * SIDE);
    labelsOf(scene, labels, i * PATCHES);
  });
  const result = engine.scope(() => {
    const targets = engine.cast(engine.tensor(labels, [labels.length]), 'int64');
    const places = engine.cast(
      engine.tensor(
        labels.map((_, i) => i % PATCHES),
        [labels.length],
      ),
      'int64',
    );
    let guesses: Tensor | undefined;
    const whole: Segment = {
      name: 'tower and head',
      parameters: [...tower.parameters, head, placeHead],
      forward: (inputs) => {
        const [features] = tower.segments().reduce((x, segment) => segment.forward(x), [...inputs]);
        const flat = engine.reshape(features!, [-1, SHAPE.hiddenSize]);
        const logits = engine.linear(flat, head.value);
        guesses = engine.keep(engine.argmax(logits));
        const where = engine.crossEntropy(engine.linear(flat, placeHead.value), places);
        return [engine.add(engine.crossEntropy(logits, targets), where)];
      },
    };
    const vjp = engine.vjp(whole, [engine.tensor(pixels, [scenes.length, 3, SIDE, SIDE])], [false]);
    const loss = engine.item(vjp.outputs[0]!) / labels.length;
    vjp.backward([engine.full([], 1 / labels.length)]);
    const guessed = engine.read(guesses!);
    guesses!.dispose();
    const things = [...labels.keys()].filter((i) => labels[i] !== 0);
    return { loss, right: things.filter((i) => guessed[i] === labels[i]).length / things.length };
  });
  optimizer.step(number, lr);
  return result;
}

const steps = Number(values.steps);
const schedule = { name: 'CosineAnnealing', lr: 2e-3, minLr: 1e-5, warmupSteps: 20, constantSteps: 0, maxSteps: steps };
const scenes = examples(11);
for (let number = 1; number <= steps; number++) {
  const batch = Array.from({ length: BATCH }, () => scenes.next().value.scene);
  const { loss, right } = step(batch, number, learningRate(schedule, number - 1));
  if (number === 1 || number % 50 === 0) {
    console.log(`${number}/${steps}  loss ${loss.toFixed(4)}  things named rightly ${(100 * right).toFixed(1)} %`);
  }
}

mkdirSync(values.out, { recursive: true });
writeSafetensors(
  join(values.out, 'model.safetensors'),
  tower.parameters.map(({ name, value }) => ({
    name: writeName(name, 'part'),
    dtype: value.dtype,
    shape: value.shape,
    data: () => engine.bytes(value),
  })),
);
writeFileAtomic(join(values.out, 'config.json'), `${JSON.stringify(visionConfig(SHAPE), null, 2)}\n`);
