/** The one description of every key. Types, defaults, checks, help and docs/config.md all come from here. */
import { expManager } from './experiment.ts';
import { type Infer, mapping, noEffect, path, refused, section, str } from './field.ts';
import { inference, inferenceTop } from './inference.ts';
import { model } from './model.ts';
import { trainer } from './trainer.ts';

export const schema = section('neva', {
  name: str('neva', 'Name of the experiment, for interpolation'),
  trainer,
  exp_manager: expManager,
  model,
  inference,
  ...inferenceTop,
  restore_from_path: path(null, 'Twin of model.restore_from_path', { ...refused('set model.restore_from_path') }),
  cluster_type: str(null, 'Kind of cluster', {
    ...noEffect('rank and address come from the environment of torchrun, Slurm, Kubeflow or mpirun'),
  }),
  run: mapping("A launcher's own settings, for interpolation", {
    ...noEffect('no jobs are submitted; `neva launch` starts the ranks'),
  }),
  vars: mapping('Variables of your own, for interpolation'),
});

/** A composed, resolved and checked configuration. */
export type NevaConfig = Infer<typeof schema>;

export type { Field, FieldType, SchemaNode, Section, Status } from './field.ts';
