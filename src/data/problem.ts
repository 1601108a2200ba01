/** What can be wrong with a record, by kind: reports count these, and `data.on_error` decides what becomes of the record. */
import { type Mistake, mistake } from '../errors.ts';

export type ProblemKind =
  | 'json'
  | 'record'
  | 'image_count'
  | 'image_missing'
  | 'image_outside'
  | 'image_unreadable'
  | 'image_too_large'
  | 'image_cut'
  | 'no_labels';

export type RecordProblem = Error & { kind: ProblemKind };

/** A user error that concerns one record; `kind` groups it with its likes. */
export function problem(kind: ProblemKind, fields: Mistake): RecordProblem {
  return Object.assign(mistake(fields), { kind });
}

export function isRecordProblem(error: unknown): error is RecordProblem {
  return error instanceof Error && typeof (error as { kind?: unknown }).kind === 'string';
}
