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
  const plain = {
    ...{ gpt: false, tied: false, packed: false, tensor: 1, pipeline: 1 },
    ...{ sequence: false, sharded: false, recompute: false },
    ...changed,
  };
  const { tensor, pipeline, ...flags } = plain;
  const words = Object.entries(flags).flatMap(([flag, on]) => (on ? [flag] : []));
  return { name: [stage, `tp${tensor}`, `pp${pipeline}`, ...words].join(' '), stage, ...plain };
};
const stages = ['pretrain', 'finetune'] as const;
const [gpt, tied, packed, sequence, sharded, recompute] = [true, true, true, true, true, true];

const byWorld: Record<number, Sharing[]> = {
  2: stages.flatMap((stage) => [
    sharing(stage, { tensor: 2 }),
    sharing(stage, { tensor: 2, recompute }),
    sharing(stage, { tensor: 2, sequence }),
    sharing(stage, { tensor: 2, sequence, recompute }),
    sharing(stage, { gpt, tensor: 2 }),
    sharing(stage, { gpt, tensor: 2, sequence }),
    sharing(stage, { pipeline: 2 }),
    sharing(stage, { pipeline: 2, recompute }),
    sharing(stage, { pipeline: 2, packed }),
    sharing(stage, { gpt, tied, pipeline: 2 }),
    sharing(stage, { tensor: 2, packed }),
    sharing(stage, { tensor: 2, sequence, packed }),
    sharing(stage, { packed, recompute }),
    sharing(stage, { sharded, packed }),
  ]),
  4: [
    ...stages.flatMap((stage) => [
      sharing(stage, { tensor: 4 }),
      sharing(stage, { tensor: 4, sequence }),
      sharing(stage, { tensor: 4, recompute, packed }),
      sharing(stage, { tensor: 2, recompute }),
      sharing(stage, { tensor: 2, sequence, sharded }),
    ]),
    sharing('finetune', { tensor: 2, sharded, recompute }),
    ...stages.flatMap((stage) => [
      sharing(stage, { pipeline: 4 }),
      sharing(stage, { pipeline: 2, recompute }),
      sharing(stage, { pipeline: 2, sharded, packed }),
      sharing(stage, { pipeline: 2, tensor: 2 }),
      sharing(stage, { pipeline: 2, tensor: 2, sequence, recompute, packed }),
    ]),
    sharing('finetune', { gpt, tied, pipeline: 2, sharded }),
    sharing('finetune', { gpt, tied, pipeline: 2, tensor: 2, sequence }),
  ],
};

async function outcomes(world: number, sharings: Sharing[]): Promise<Outcome[][]> {
  const results = await runRanks('./share_rank.js', world, [folder, JSON.stringify(sharings)]);
  for (const { status, output } of results) assert.equal(status, 0, output);
  return results.map((_, rank) => JSON.parse(readFileSync(join(folder, `world-${world}-rank-${rank}.json`), 'utf8')));
}

/** Of share_rank.ts's model. */
const [L, C, FLOAT32] = [4, 48, 4];

/**
 * Bytes of whole tensors in finetuning, by the counts of the papers: a block has two sums forward and two backward (Shoeybi et
 * al. 2019, section 3), of B·T positions, each an all-reduce or, with own rows, a reduce-scatter and an all-gather (Korthikanti
 * et al. 2022, section 4.2.2); recomputation runs the forward ones again. What is neva's own: the last block's MLP and the head see
 * the M labelled positions only, and the loss takes three numbers a label.
 */
function expectedBytes({ sequence: rows, recompute: again }: Sharing, { positions, labels }: Outcome['work']) {
  const [whole, some] = [FLOAT32 * C * positions, FLOAT32 * C * labels];
  const forward = again ? 2 : 1;
  // Blocks but the last: two sums each way. The last: attention in; output and MLP out; MLP in. Head in.
  const sumsOut = 2 * (L - 1) * forward;
  const gradsIn = 2 * (L - 1) + 1;
  const ofLabels = some * (2 * forward + 2) + 3 * FLOAT32 * labels;
  if (!rows) return { allReduce: whole * (1 + sumsOut + gradsIn) + ofLabels, allGather: 0, reduceScatter: 0 };
  const enters = (2 * (L - 1) + 1) * forward;
  return {
    allReduce: ofLabels,
    allGather: whole * (enters + 2 * (L - 1) + 1),
    reduceScatter: whole * (1 + sumsOut + gradsIn),
  };
}

/** Every rank's outcomes in the world of four. */
let inFours: Outcome[][];
let single: Record<string, Outcome>;
const aloneAs = ({ stage, gpt, tied, packed }: Sharing) => `${stage} ${gpt} ${tied} ${packed}`;
before(async () => {
  const alone = stages.flatMap((stage) => [
    sharing(stage),
    sharing(stage, { packed }),
    sharing(stage, { gpt }),
    sharing(stage, { gpt, tied }),
  ]);
  const [outcome] = await outcomes(1, alone);
  single = Object.fromEntries(alone.map((each, i) => [aloneAs(each), outcome![i]!]));
});

for (const [world, sharings] of Object.entries(byWorld)) {
  test(`20 steps on ${world} ranks, shared out in ${sharings.length} ways`, async () => {
    const ranks = await outcomes(Number(world), sharings);
    if (world === '4') inFours = ranks;
    sharings.forEach((sharing, i) => {
      const { name } = sharing;
      const { lines, values } = ranks[0]![i]!;
      const expected = single[aloneAs(sharing)]!;
      assert.equal(lines.length, 20, name);
      for (const [rank, own] of ranks.entries()) {
        const { tensors } = own[i]!;
        assert.equal(tensors.at(-1), tensors[2], `${name}: tensors left behind on rank ${rank}`);
      }
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
        // A key's bias changes no softmax: its gradient is rounding alone, of which Adam makes full steps.
        if (key.includes('k_proj.bias')) continue;
        // Second moments double the relative error of gradients.
        assertClose(own.get(key)!, alone, { relative: key.startsWith('exp_avg') ? 2e-5 : 1e-5 }, `${name}: ${key}`);
      }
    });
  });
}

test('messages of a group that shares the layers have the bytes of the formulas', () => {
  const counted = byWorld[4]!.flatMap((sharing, i) => {
    const { traffic, work } = inFours[0]![i]!;
    return traffic && sharing.stage === 'finetune' && sharing.pipeline === 1 ? [{ sharing, traffic, work }] : [];
  });
  assert.deepEqual(new Set(counted.map(({ sharing }) => sharing.sequence)), new Set([true, false]));
  for (const { sharing, traffic, work } of counted) {
    const { allReduce, allGather, reduceScatter } = traffic;
    const bytes = { allReduce: allReduce.bytes, allGather: allGather.bytes, reduceScatter: reduceScatter.bytes };
    assert.deepEqual(bytes, expectedBytes(sharing, work), sharing.name);
  }
});

/** Every micro batch with labels crosses each border once down, and once up if something learns below: B·T·C, or own rows. */
test('messages between pipeline stages have the bytes of the formula', () => {
  const counted = byWorld[4]!.map((sharing, i) => ({ sharing, ranks: inFours.map((each) => each[i]!) }));
  const piped = counted.filter(({ sharing }) => sharing.pipeline > 1);
  for (const { sharing, ranks } of piped) {
    const perStage = ranks.length / sharing.pipeline;
    ranks.forEach(({ handed, work }, rank) => {
      const stage = Math.floor(rank / perStage);
      const expected = {
        down: stage < sharing.pipeline - 1 ? FLOAT32 * C * work.rowsDown : 0,
        up: stage > 0 ? FLOAT32 * C * work.rowsUp : 0,
      };
      assert.deepEqual(handed, expected, `${sharing.name}, rank ${rank}`);
    });
    const { work } = ranks[0]!;
    if (sharing.stage === 'finetune') assert.equal(work.rowsUp, work.rowsDown);
    else assert.ok(work.rowsUp > 0 && work.rowsUp < work.rowsDown);
  }
  assert.ok(piped.length > 10);
});
