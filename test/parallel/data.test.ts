/** Data parallelism changes speed, never results; and its messages are the same on every rank, in the same order. */
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import type { Parameter, Tensor } from '../../src/engine/engine.ts';
import { gradientReduction } from '../../src/parallel/data.ts';
import { ALONE, type Group } from '../../src/parallel/group.ts';
import { assertClose } from '../support/allclose.ts';
import { torchEngine } from '../support/torch.ts';
import { runRanks } from './ranks.ts';
import type { Outcome, Setting } from './train_rank.ts';

const folder = mkdtempSync(join(tmpdir(), 'neva-data-parallel-'));
after(() => rmSync(folder, { recursive: true, force: true }));

const setting = (name: string, changed: Partial<Setting>): Setting => ({
  name,
  llm: true,
  recompute: false,
  reduction: 'tokens',
  sharded: false,
  lowPrecision: false,
  ...changed,
});
const settings: Setting[] = [
  setting('pretrain', { llm: false }),
  setting('pretrain, recomputed', { llm: false, recompute: true }),
  setting('pretrain, sharded', { llm: false, sharded: true }),
  setting('finetune', {}),
  setting('finetune, recomputed', { recompute: true }),
  setting('finetune, mean of micro batches', { reduction: 'micro_batches' }),
  setting('finetune, sharded', { sharded: true }),
  setting('finetune, sharded, recomputed', { sharded: true, recompute: true }),
  setting('finetune in bfloat16', { lowPrecision: true }),
  setting('finetune in bfloat16, sharded', { lowPrecision: true, sharded: true }),
  setting('finetune in bfloat16, sharded, remainders', { lowPrecision: true, sharded: true, remainders: true }),
  setting('finetune, gradients summed in bfloat16', { gradients: 'bfloat16' }),
  setting('finetune, gradients summed in bfloat16, sharded', { gradients: 'bfloat16', sharded: true }),
];
/** Sums in another order change the last bits of a bfloat16 activation now and then, and training makes more of it. */
const tolerance = ({ lowPrecision, gradients }: Setting) => (lowPrecision ? 2e-2 : gradients ? 5e-3 : 1e-5);

async function outcomes(world: number): Promise<Outcome[][]> {
  const results = await runRanks('./train_rank.js', world, [folder, JSON.stringify(settings)]);
  for (const { status, output } of results) assert.equal(status, 0, output);
  return results.map((_, rank) => JSON.parse(readFileSync(join(folder, `world-${world}-rank-${rank}.json`), 'utf8')));
}

/** Bytes that one sum over ranks of every trainable weight's gradient has in a setting. */
const bytesOf = (all: readonly Outcome[], name: string) => all.find((each) => each.name === name)!.summedBytes;

test('20 steps on 2 and on 4 ranks give the losses and weights of a single process', async () => {
  const [single] = await outcomes(1);
  for (const world of [2, 4]) {
    const ranks = await outcomes(world);
    for (const kind of ['', ', sharded']) {
      // Besides gradients, a step sums some figures, in float64.
      const half = bytesOf(ranks[0]!, `finetune, gradients summed in bfloat16${kind}`);
      const share = half / bytesOf(ranks[0]!, `finetune${kind}`);
      assert.ok(share > 0.5 && share < 0.52, `${kind}: ${share}`);
    }
    // store_param_remainders: bit for bit what whole main weights give, also those that a checkpoint gets.
    const [plain, remainders] = ['', ', remainders'].map((kind) => {
      const { lines, weights, moments } = ranks[0]!.find(
        ({ name }) => name === `finetune in bfloat16, sharded${kind}`,
      )!;
      return { losses: lines.map(({ loss, grad_norm }) => [loss, grad_norm]), weights, moments };
    });
    assert.deepEqual(remainders, plain);
    assert.ok(plain!.moments.some(([moment]) => moment.endsWith(' main')));
    single!.forEach(({ name, lines, weights, moments }, i) => {
      const own = ranks[0]![i]!;
      const bound = tolerance(settings[i]!);
      const label = `${name} on ${world} ranks`;
      assert.equal(own.lines.length, lines.length);
      for (const { tensors } of ranks.map((rank) => rank[i]!)) {
        assert.equal(tensors.at(-1), tensors[2], `${label}: tensors left behind`);
      }
      own.lines.forEach((line, step) => {
        const expected = lines[step]!;
        for (const key of ['loss', 'grad_norm'] as const) {
          const difference = Math.abs(line[key]! - expected[key]!);
          assert.ok(
            difference <= bound * Math.abs(expected[key]!),
            `${label}: ${key} of step ${step + 1} is ${line[key]}, alone ${expected[key]}`,
          );
        }
        for (const key of ['tokens', 'label_tokens', 'consumed_samples'] as const) {
          assert.equal(line[key], expected[key], `${label}: ${key} of step ${step + 1}`);
        }
      });
      own.weights.forEach(([weight, values], w) => {
        assertClose(values, weights[w]![1], { relative: bound }, `${label}: ${weight}`);
      });
      assert.equal(own.moments.length, moments.length, label);
      own.moments.forEach(([moment, values], m) => {
        assert.equal(moment, moments[m]![0]);
        // Second moments double the relative error of gradients.
        if (bound === 1e-5) assertClose(values, moments[m]![1], { relative: 2e-5 }, `${label}: ${moment}`);
      });
      // What every rank has is the same to the last bit, or they would drift apart.
      for (const other of ranks.slice(1)) assert.deepEqual(other[i]!.weights, own.weights, label);
    });
  }
});

/** A group of two whose messages are only noted, and which gradients there are; each arrives when it is waited for. */
function noted(messages: string[], present: number[]): Group {
  return {
    ...ALONE,
    size: 2,
    sum(values: readonly number[]) {
      present.push(...values);
      return [...values];
    },
    allReduce(tensors: readonly Tensor[]) {
      messages.push(tensors.map(({ shape }) => shape.join()).join(' '));
      return { done: false, wait: () => void messages.push('waited') };
    },
  };
}

test('buckets start in one order, while backward goes on, whatever is ready or missing on a rank', () => {
  const engine = torchEngine();
  const make = (name: string, size: number, grad: boolean): Parameter => ({
    name,
    value: engine.zeros([size]),
    main: null,
    grad: grad ? engine.full([size], 1) : null,
    trainable: true,
    decay: true,
  });
  const started = (grads: boolean[], steps: number[][], overlap = true) => {
    const messages: string[] = [];
    const present: number[] = [];
    const parameters = [10, 20, 30, 40].map((size, i) => make(`p${i}`, size, grads[i]!));
    const reduction = gradientReduction(engine, noted(messages, present), parameters, { bytes: 4 * 50, overlap });
    const after = steps.map((which) => {
      reduction.final(which.map((i) => parameters[i]!));
      return messages.length;
    });
    reduction.finish();
    reduction.wait();
    return { messages, after, present, parameters };
  };

  const usual = started([true, true, true, true], [[3], [2], [1], [0]]);
  // 40 alone, as 30 would make it more than 50; 30 and 20 together; 10.
  assert.deepEqual(usual.messages, ['40', '30 20', '10', 'waited', 'waited', 'waited']);
  assert.deepEqual(usual.after, [1, 1, 2, 3]);
  assert.deepEqual(usual.present, [1, 1, 1, 1]);

  const otherOrder = started([true, true, true, true], [[0], [1, 2], [3]]);
  assert.deepEqual(otherOrder.messages.slice(0, 3), ['40', '30 20', '10']);
  assert.deepEqual(otherOrder.after, [0, 0, 3]);

  const withoutPictures = started([false, true, true, true], [[3], [2], [1]]);
  assert.deepEqual(withoutPictures.messages.slice(0, 3), ['40', '30 20', '10']);
  assert.deepEqual(withoutPictures.present, [0, 1, 1, 1]);
  assert.equal(withoutPictures.parameters[0]!.grad, null, 'no rank has a gradient: the optimizer must not see one');

  const atTheEnd = started([true, true, true, true], [[3], [2], [1], [0]], false);
  assert.deepEqual(atTheEnd.after, [0, 0, 0, 0]);
  assert.deepEqual(atTheEnd.messages, usual.messages);

  // Small models: sixteen messages at least, of a megabyte at least, whatever a bucket may hold.
  const many = Array.from({ length: 64 }, (_, i) => make(`m${i}`, 100_000, true));
  const messages: string[] = [];
  gradientReduction(engine, noted(messages, []), many, { bytes: 125e6, overlap: true }).finish();
  assert.equal(messages.length, 16);
  assert.equal(messages[0], '100000 100000 100000 100000');

  const nothing = started([false, false, false, false], []);
  assert.deepEqual(nothing.messages.slice(0, 3), ['40', '30 20', '10']);
});
