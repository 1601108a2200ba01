/** A model that ranks share out, by layers or by blocks, gives the losses and the weights of a single process. */
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { assertClose } from '../support/allclose.ts';
import { runRanks } from './ranks.ts';
import type { Outcome, Sharing } from './share_rank.ts';

const folder = mkdtempSync(join(tmpdir(), 'neva-share-'));
after(() => rmSync(folder, { recursive: true, force: true }));

const sharing = (stage: Sharing['stage'], changed: Partial<Sharing> = {}): Sharing => {
  const plain = { tensor: 1, pipeline: 1, sequence: false, sharded: false, recompute: false, ...changed };
  const { tensor, pipeline, ...flags } = plain;
  const words = Object.entries(flags).flatMap(([flag, on]) => (on ? [flag] : []));
  return { name: [stage, `tp${tensor}`, `pp${pipeline}`, ...words].join(' '), stage, ...plain };
};
const stages = ['pretrain', 'finetune'] as const;
const [sequence, sharded, recompute] = [true, true, true];

const byWorld: Record<number, Sharing[]> = {
  2: stages.flatMap((stage) => [
    sharing(stage, { tensor: 2 }),
    sharing(stage, { tensor: 2, recompute }),
    sharing(stage, { tensor: 2, sequence }),
    sharing(stage, { tensor: 2, sequence, recompute }),
  ]),
  4: [
    ...stages.flatMap((stage) => [
      sharing(stage, { tensor: 4 }),
      sharing(stage, { tensor: 4, sequence }),
      sharing(stage, { tensor: 2, recompute }),
      sharing(stage, { tensor: 2, sequence, sharded }),
    ]),
    sharing('finetune', { tensor: 2, sharded, recompute }),
  ],
};

async function outcomes(world: number, sharings: Sharing[]): Promise<Outcome[][]> {
  const results = await runRanks('./share_rank.js', world, [folder, JSON.stringify(sharings)]);
  for (const { status, output } of results) assert.equal(status, 0, output);
  return results.map((_, rank) => JSON.parse(readFileSync(join(folder, `world-${world}-rank-${rank}.json`), 'utf8')));
}

let single: Record<Sharing['stage'], Outcome>;
before(async () => {
  const [[pretrain, finetune] = []] = await outcomes(
    1,
    stages.map((stage) => sharing(stage)),
  );
  single = { pretrain: pretrain!, finetune: finetune! };
});

for (const [world, sharings] of Object.entries(byWorld)) {
  test(`20 steps on ${world} ranks, shared out in ${sharings.length} ways`, async () => {
    const ranks = await outcomes(Number(world), sharings);
    sharings.forEach(({ name, stage }, i) => {
      const { lines, values, tensors } = ranks[0]![i]!;
      const expected = single[stage];
      assert.equal(lines.length, 20, name);
      assert.equal(tensors.at(-1), tensors[2], `${name}: tensors left behind`);
      lines.forEach((line, step) => {
        const alone = expected.lines[step]!;
        for (const key of ['loss', 'grad_norm'] as const) {
          const [own, wanted] = [line[key]!, alone[key]!];
          assert.ok(
            Math.abs(own - wanted) <= 1e-5 * Math.abs(wanted),
            `${name}: ${key} of step ${step + 1} is ${own}, alone ${wanted}`,
          );
        }
        for (const key of ['tokens', 'label_tokens', 'consumed_samples'] as const) {
          assert.equal(line[key], alone[key], `${name}: ${key} of step ${step + 1}`);
        }
        assert.ok(Math.abs(line.tflops * line.step_time_s - alone.tflops * alone.step_time_s) < 1e-9, `${name}: flops`);
      });
      const own = new Map(values);
      assert.deepEqual([...own.keys()].sort(), expected.values.map(([key]) => key).sort(), name);
      for (const [key, alone] of expected.values) {
        // Second moments double the relative error of gradients.
        assertClose(own.get(key)!, alone, { relative: key.startsWith('exp_avg') ? 2e-5 : 1e-5 }, `${name}: ${key}`);
      }
    });
  });
}
