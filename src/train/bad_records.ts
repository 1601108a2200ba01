/** Records that a run could not use, or not whole: told as they are met, and counted by kind at the end. */
import type { Loader } from '../data/loader.ts';
import type { Report } from '../report/report.ts';

/** Told one by one, of each kind; later ones go to the log file alone. */
const TOLD = 10;

/** Listens to the loader; the function that comes back writes the counts, if there is anything to count. */
export function tellBadRecords(loader: Loader, log: Report['log']): () => void {
  const counts = new Map<string, number>();
  loader.onProblem = ({ kind, message }) => {
    const count = (counts.get(kind) ?? 0) + 1;
    counts.set(kind, count);
    if (count <= TOLD) log.warn(`${kind}: ${message}`);
    else log.debug(`${kind}: ${message}`);
    if (count === TOLD) log.warn(`${kind}: ${TOLD} so far; further ones are in the log file`);
  };
  return () => {
    if (loader.cutRecords > 0) {
      log.warn(
        `${loader.cutRecords} times a record was cut to model.encoder_seq_length (no picture, and never all that is learnt)`,
      );
    }
    if (counts.size === 0) return;
    const total = [...counts.values()].reduce((sum, count) => sum + count, 0);
    const kinds = [...counts].sort(([, a], [, b]) => b - a).map(([kind, count]) => `${kind} ${count}`);
    log.warn(`${total} times a record could not be used: ${kinds.join(', ')}`);
  };
}
