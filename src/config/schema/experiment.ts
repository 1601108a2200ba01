import { bool, choice, float, int, mapping, noEffect, path, refused, section, str } from './field.ts';

const wandb = 'no logger but TensorBoard events and metrics.jsonl is built in; import those into Weights & Biases';

/** NeMo's exp_manager: where a run writes, what it keeps, how it goes on. */
export const expManager = section('Folder of the run, checkpoints, resuming', {
  exp_dir: path('neva_experiments', 'Folder that holds all experiments', { nullable: true }),
  name: str('neva', "The experiment's name, a folder below exp_dir", { nullable: true }),
  version: str(
    null,
    'Folder of this run below the name; null takes the next free number, or the last one when resuming',
  ),
  explicit_log_dir: path(null, 'The folder of the run itself; wins over exp_dir, name and version'),
  use_datetime_version: bool(true, 'Name versions by date and time', {
    ...noEffect('versions are numbers, made exclusively'),
  }),
  resume_if_exists: bool(false, 'Go on from the last checkpoint of this run folder when there is one'),
  resume_past_end: bool(false, 'Go on even with a run that had finished; raise trainer.max_steps for more steps'),
  resume_ignore_no_checkpoint: bool(true, 'Start from the beginning, with a notice, when there is nothing to resume'),
  resume_from_checkpoint: path(null, 'Checkpoint folder to go on from when the run folder holds none'),
  create_wandb_logger: bool(false, 'Log to Weights & Biases', { ...refused(wandb) }),
  wandb_logger_kwargs: section('Weights & Biases', {
    project: str(null, 'Project', { ...noEffect(wandb) }),
    name: str(null, 'Run name', { ...noEffect(wandb) }),
  }),
  create_tensorboard_logger: bool(true, 'Write TensorBoard events to the run folder'),
  create_mlflow_logger: bool(false, 'Log to MLflow', {
    ...refused('TensorBoard events and metrics.jsonl are written'),
  }),
  create_checkpoint_callback: bool(true, 'Save checkpoints'),
  checkpoint_callback_params: section('What is saved, and how many of them are kept', {
    monitor: choice(
      ['val_loss', 'loss', 'step'],
      'val_loss',
      'Metric that ranks checkpoints; val_loss is the training loss where nothing was validated',
      {
        synonyms: { train_loss: 'loss', reduced_train_loss: 'loss', global_step: 'step' },
      },
    ),
    mode: choice(['min', 'max'], 'min', 'Whether a smaller or a larger metric is better'),
    save_top_k: int(10, 'Best checkpoints to keep besides the last one; -1 keeps all, 0 only the last', { min: -1 }),
    save_last: bool(
      true,
      'Keep the newest checkpoint besides the best; checkpoints/last names the newest that is kept',
    ),
    every_n_train_steps: int(
      null,
      'Steps between checkpoints; with this and the two below null, one at every validation',
      {
        min: 1,
      },
    ),
    every_n_epochs: int(null, 'Epochs between checkpoints', { min: 1 }),
    train_time_interval: float(null, 'Minutes between checkpoints', { min: 0, exclusiveMin: true }),
    save_frozen_weights: bool(
      false,
      'Keep weights that do not train in the checkpoints too, once on the disk, instead of their path and fingerprint',
    ),
    dirpath: path(null, 'Folder of the checkpoints', { ...refused('checkpoints live in the run folder') }),
    filename: str('megatron_clip--{val_loss:.2f}-{step}-{consumed_samples}', 'Pattern of checkpoint names', {
      nullable: true,
      ...noEffect('folders are called step=NNNNNNN; their metrics stand in metadata.json'),
    }),
    always_save_nemo: bool(false, 'Write a .nemo at every save', {
      ...refused('run `neva convert-checkpoint --to nemo` on the checkpoint you want'),
    }),
    save_nemo_on_train_end: bool(false, 'Write a .nemo at the end', {
      ...noEffect('`neva convert-checkpoint --to nemo` writes one from the last checkpoint'),
    }),
    model_parallel_size: int(1, "Ranks of one model, for NeMo's file names", {
      ...noEffect('it follows from model.*_model_parallel_size'),
    }),
  }),
  save_on_train_end: bool(true, 'Save a checkpoint after the last step'),
  on_save_error: choice(
    ['stop', 'continue'],
    'stop',
    'When a checkpoint cannot be written (disk full, permissions): end the run, or warn and train on. The ones before stay whole',
  ),
  log_step_timing: bool(true, 'Log step times', { ...noEffect('step_time_s is always logged') }),
  step_timing_kwargs: mapping('Settings of the step timer', { ...noEffect('step_time_s is always logged') }),
  log_local_rank_0_only: bool(false, 'Only local rank 0 logs', {
    ...noEffect('every rank logs to neva.log, rank 0 to the terminal'),
  }),
  log_global_rank_0_only: bool(false, 'Only rank 0 logs', {
    ...noEffect('every rank logs to neva.log, rank 0 to the terminal'),
  }),
  max_time_per_run: str(null, 'Wall-clock limit', { ...refused('set trainer.max_time') }),
  ema: section('Moving average of the weights', {
    enable: bool(false, 'Keep one of all that trains, in float32; checkpoints hold it in ema.safetensors'),
    decay: float(0.9999, 'Weight of the old average', { min: 0, max: 1 }),
    validate_original_weights: bool(false, 'Validate the weights themselves and not their average'),
    every_n_steps: int(1, 'Steps between updates', { min: 1 }),
    cpu_offload: bool(false, 'Keep it in host memory', { ...noEffect('it is kept on the device') }),
  }),
});
