/** Which checkpoints of a run are kept. */
import { existsSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { writeFileAtomic } from '../files.ts';
import { type CheckpointState, checkpointsIn } from './folder.ts';
import { readJsonObject } from './json.ts';
import { removeFolder } from './write_folder.ts';

/** exp_manager.checkpoint_callback_params */
export interface KeepRule {
  /** How many of the best are kept; −1 for all. */
  topK: number;
  /** `val_loss` is the training loss in a run that was never validated. */
  monitor: 'val_loss' | 'loss' | 'step';
  mode: 'min' | 'max';
  /** The newest is kept besides the best. */
  last: boolean;
}

/**
 * Removes what the rule does not keep, and what an interrupted save left. Call it after a checkpoint was saved: nothing is removed
 * while `last` names none that is there.
 */
export function pruneCheckpoints(dir: string, rule: KeepRule): void {
  for (const name of existsSync(dir) ? readdirSync(dir) : []) {
    if (/^step=\d+\..*\.partial$/.test(name)) rmSync(join(dir, name), { recursive: true, force: true });
  }
  const names = checkpointsIn(dir);
  const lastFile = join(dir, 'last');
  const last = existsSync(lastFile) ? readFileSync(lastFile, 'utf8').trim() : '';
  if (rule.topK < 0 || !names.includes(last)) return;
  const states = new Map(names.map((name) => [name, stateOf(join(dir, name))]));
  const validated = [...states.values()].some((state) => typeof state?.valLoss === 'number');
  const value = (name: string): number => {
    const state = states.get(name);
    const found = rule.monitor === 'val_loss' ? (validated ? state?.valLoss : state?.loss) : state?.[rule.monitor];
    // One that cannot be read, or lacks the metric, is the worst.
    return typeof found !== 'number' ? Number.POSITIVE_INFINITY : rule.mode === 'min' ? found : -found;
  };
  const ranked = names
    .filter((name) => !rule.last || name !== last)
    .sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      return x === y ? (a < b ? 1 : -1) : x - y;
    });
  const removed = ranked.slice(rule.topK);
  if (removed.includes(last)) writeFileAtomic(lastFile, `${names.filter((name) => !removed.includes(name)).at(-1)}\n`);
  for (const name of removed) removeFolder(join(dir, name));
}

function stateOf(folder: string): CheckpointState | null {
  try {
    return readJsonObject(join(folder, 'state.json')) as unknown as CheckpointState;
  } catch {
    return null;
  }
}
