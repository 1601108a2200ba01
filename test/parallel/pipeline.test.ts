/** The turns of a pipeline's stages, and how layers are dealt out to them. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Engine } from '../../src/engine/engine.ts';
import { balancedLayout, stageOf } from '../../src/model/stage.ts';
import { ALONE, type Group } from '../../src/parallel/group.ts';
import { type Incoming, Neighbours, oneForwardOneBackward, type Turn } from '../../src/parallel/pipeline.ts';

const words = (turns: Turn[]) => turns.map(({ way, micro }) => `${way[0]}${micro}`).join(' ');

test('one forward, one backward: the order of Narayanan et al. 2021, figure 4', () => {
  const four = (stage: number) => words(oneForwardOneBackward(stage, 4, 8));
  assert.equal(four(0), 'f0 f1 f2 f3 b0 f4 b1 f5 b2 f6 b3 f7 b4 b5 b6 b7');
  assert.equal(four(2), 'f0 f1 b0 f2 b1 f3 b2 f4 b3 f5 b4 f6 b5 f7 b6 b7');
  assert.equal(four(3), 'f0 b0 f1 b1 f2 b2 f3 b3 f4 b4 f5 b5 f6 b6 f7 b7');
  assert.equal(words(oneForwardOneBackward(0, 1, 2)), 'f0 b0 f1 b1');
  assert.equal(words(oneForwardOneBackward(0, 4, 2)), 'f0 f1 b0 b1');
  assert.equal(words(oneForwardOneBackward(1, 4, 0)), '');
});

test('no stage waits for ever, holds more than S − s micro batches, or takes gradients out of order', () => {
  for (const stages of [1, 2, 3, 5]) {
    for (const microBatches of [1, 2, 4, 9]) {
      const left = Array.from({ length: stages }, (_, s) => oneForwardOneBackward(s, stages, microBatches));
      const done = new Set<string>();
      const held = left.map(() => 0);
      const ready = (s: number, { way, micro }: Turn) =>
        way === 'forward'
          ? s === 0 || done.has(`f${s - 1} ${micro}`)
          : done.has(`f${s} ${micro}`) && (s === stages - 1 || done.has(`b${s + 1} ${micro}`));
      for (let moved = true; moved; ) {
        moved = false;
        for (const [s, turns] of left.entries()) {
          const turn = turns[0];
          if (!turn || !ready(s, turn)) continue;
          turns.shift();
          done.add(`${turn.way[0]}${s} ${turn.micro}`);
          held[s]! += turn.way === 'forward' ? 1 : -1;
          assert.ok(held[s]! <= stages - s);
          moved = true;
        }
      }
      assert.equal(done.size, 2 * stages * microBatches);
    }
  }
});

/** A group whose messages are only counted; waiting for one that the other side does not take, or has not sent, is a mistake. */
function counted(rank: number, size: number, name: string, counts: Map<string, number>): Group {
  const next = (key: string) => {
    counts.set(key, (counts.get(key) ?? 0) + 1);
    return counts.get(key)!;
  };
  const has = (key: string, number: number) => assert.ok((counts.get(key) ?? 0) >= number, `${key}, number ${number}`);
  return {
    ...ALONE,
    rank,
    size,
    send(_tensor, to) {
      const number = next(`${name}: ${rank} sends to ${to}`);
      return { done: false, wait: () => has(`${name}: ${to} takes from ${rank}`, number) };
    },
    receive(_tensor, from) {
      const number = next(`${name}: ${rank} takes from ${from}`);
      return { done: false, wait: () => has(`${name}: ${from} sends to ${rank}`, number) };
    },
  };
}

test('a message that was sent is waited for only when the other side has begun to receive it', () => {
  const engine = { zeros: () => ({}) } as unknown as Engine;
  const tensor = engine.zeros([]);
  for (const stages of [2, 3, 5]) {
    for (const [microBatches, hurry] of [1, 2, 4, 9].flatMap((n) => [[n, 'first'] as const, [n, 'last'] as const])) {
      // Every third micro batch has no way back.
      const back = (micro: number) => micro % 3 !== 2;
      const counts = new Map<string, number>();
      const sent = new Set<string>();
      const ranks = Array.from({ length: stages }, (_, s) => {
        const [down, up] = ['down', 'up'].map((name) => counted(s, stages, name, counts)) as [Group, Group];
        const neighbours = new Neighbours(engine, { down, up });
        const expect = ({ way, micro }: Turn): Incoming | null => {
          if (way === 'forward') return s > 0 ? neighbours.expectHidden(micro, [], 'float32') : null;
          return s < stages - 1 && back(micro) ? neighbours.expectGradient(micro, [], 'float32') : null;
        };
        const turns = oneForwardOneBackward(s, stages, microBatches);
        return { s, neighbours, expect, turns, ahead: expect(turns[0]!) };
      });
      // Whenever several stages can go on, the first, or the last of them does.
      if (hurry === 'last') ranks.reverse();
      let left = 2 * stages * microBatches;
      for (let moved = true; moved; ) {
        moved = false;
        for (const rank of ranks) {
          if (moved) break;
          const { s, neighbours, expect, turns } = rank;
          const turn = turns[0];
          const needed = turn && (turn.way === 'forward' ? `f${s - 1} ${turn.micro}` : `b${s + 1} ${turn.micro}`);
          if (!turn || (rank.ahead && !sent.has(needed!))) continue;
          turns.shift();
          const incoming = rank.ahead;
          rank.ahead = turns[0] ? expect(turns[0]) : null;
          incoming?.wait();
          const { way, micro } = turn;
          if (way === 'forward' && s < stages - 1) neighbours.handHidden(tensor);
          if (way === 'backward' && s > 0 && back(micro)) neighbours.handGradient(tensor);
          sent.add(`${way[0]}${s} ${micro}`);
          left -= 1;
          moved = true;
        }
      }
      assert.equal(left, 0);
      for (const { neighbours } of ranks) neighbours.finish();
    }
  }
});

test('layers are dealt out so that the largest stage is as small as can be', () => {
  const layouts = (blocks: number, stages: number): number[][] =>
    stages === 1
      ? [[blocks]]
      : Array.from({ length: blocks - stages + 1 }, (_, i) =>
          layouts(blocks - i - 1, stages - 1).map((rest) => [i + 1, ...rest]),
        ).flat();
  for (const [front, end] of [
    [0, 0],
    [2.5, 0],
    [0.4, 1.7],
    [3, -0.5],
    [9, 9],
  ] as const) {
    const largest = (layout: number[]) =>
      Math.max(...layout.map((n, i) => n + (i === 0 ? front : 0) + (i === layout.length - 1 ? end : 0)));
    const found = balancedLayout(9, 4, { front, block: 1, end });
    assert.equal(
      found.reduce((sum, n) => sum + n, 0),
      9,
    );
    assert.equal(largest(found), Math.min(...layouts(9, 4).map(largest)), `${front} ${end}: ${found}`);
  }
  assert.deepEqual(balancedLayout(9, 4, { front: 0, block: 1, end: 0 }), [2, 2, 2, 3]);
  assert.deepEqual(stageOf([2, 3, 4], 1), { index: 1, count: 3, from: 2, to: 5 });
});
