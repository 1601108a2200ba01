/** Rules that join several keys. Checked before anything is loaded; all that is broken goes into one message. */
import { ConfigError, problem } from './error.ts';
import type { NevaConfig } from './schema/index.ts';

export interface RuleContext {
  /** Processes in all; default trainer.devices × trainer.num_nodes, unknown while devices is −1. */
  worldSize?: number;
  /** Whether something is there. Without it, paths are not checked. */
  exists?: (path: string) => boolean;
  /** What the verb needs: data to train on, or a model to ask. */
  purpose?: 'train' | 'inference';
}

type Report = (key: string, what: string, details?: Parameters<typeof problem>[2]) => void;

/** @throws ConfigError with every broken rule */
export function checkConfig(config: NevaConfig, context: RuleContext = {}): void {
  const problems = findProblems(config, context);
  if (problems.length > 0) throw new ConfigError(problems.join('\n'));
}

export function findProblems(config: NevaConfig, context: RuleContext = {}): string[] {
  const problems: string[] = [];
  const report: Report = (key, what, details) => problems.push(problem(key, what, details));
  layout(config, context, report);
  shapes(config, report);
  numbers(config, report);
  if ((context.purpose ?? 'train') === 'train') training(config, report);
  if (context.exists !== undefined) paths(config, context.exists, context.purpose ?? 'train', report);
  return problems;
}

/** What is allowed and yet probably not meant, one line each. */
export function findRemarks({ trainer, model }: NevaConfig): string[] {
  const { sched } = model.optim;
  const steps = sched.max_steps ?? trainer.max_steps;
  if (steps <= 0 || sched.warmup_ratio !== null || sched.warmup_steps <= steps) return [];
  return [
    `model.optim.sched.warmup_steps=${sched.warmup_steps} is longer than the run of ${steps} steps: the learning rate never reaches model.optim.lr=${model.optim.lr}`,
  ];
}

function layout({ trainer, model }: NevaConfig, context: RuleContext, report: Report): void {
  const tp = model.tensor_model_parallel_size;
  const pp = model.pipeline_model_parallel_size;
  const world = context.worldSize ?? (trainer.devices > 0 ? trainer.devices * trainer.num_nodes : undefined);
  if (trainer.devices === 0)
    report('trainer.devices', 'at least one process is needed', { expected: '1 or more, or -1' });
  if (world === undefined || world === 0) return;
  const sizes = `tensor ${tp} × pipeline ${pp}`;
  if (world % (tp * pp) !== 0) {
    const fitting = Math.ceil(world / (tp * pp)) * tp * pp;
    report('trainer.devices', `${world} processes cannot be shared out over ${sizes}`, {
      expected: `a multiple of ${tp * pp} processes (devices × nodes)`,
      found: `${trainer.devices} × ${trainer.num_nodes} = ${world}`,
      fix: `set trainer.devices=${Math.ceil(fitting / trainer.num_nodes)}, or model.tensor_model_parallel_size=1`,
    });
    return;
  }
  const dp = world / (tp * pp);
  const step = model.micro_batch_size * dp;
  if (model.global_batch_size % step !== 0) {
    const near = Math.max(1, Math.round(model.global_batch_size / step)) * step;
    report('model.global_batch_size', 'it cannot be divided into micro batches', {
      expected: `a multiple of micro_batch_size × data-parallel ranks = ${model.micro_batch_size} × ${dp} = ${step}`,
      found: String(model.global_batch_size),
      fix: `set model.global_batch_size=${near}, or a smaller model.micro_batch_size`,
    });
  }
}

/** Where the number of layers comes from a checkpoint, it is compared when that is open. */
function stages(model: NevaConfig['model'], report: Report): void {
  const { num_layers: layers, pipeline_model_parallel_size: size, pipeline_model_parallel_layout: layout } = model;
  if (layers !== null && layers < size) {
    report('model.pipeline_model_parallel_size', 'more stages than the language model has layers', {
      expected: `at most model.num_layers=${layers}`,
      found: String(size),
    });
  }
  const total = layout?.reduce((sum, blocks) => sum + blocks, 0);
  if (layout !== null && (layout.length !== size || (layers !== null && total !== layers))) {
    report('model.pipeline_model_parallel_layout', 'the language model cannot be divided so', {
      expected: `${size} numbers (model.pipeline_model_parallel_size)${layers === null ? '' : ` that add up to model.num_layers=${layers}`}`,
      found: `[${layout.join(', ')}], ${total} in all`,
      fix: 'leave it out: the stages are then balanced',
    });
  }
}

function shapes({ model }: NevaConfig, report: Report): void {
  const tp = model.tensor_model_parallel_size;
  const divisible = (key: keyof typeof model & string, by: number, byName: string): void => {
    const value = model[key];
    if (typeof value === 'number' && value % by !== 0) {
      report(`model.${key}`, `not divisible by ${byName}`, { expected: `a multiple of ${by}`, found: String(value) });
    }
  };
  divisible('num_attention_heads', tp, 'model.tensor_model_parallel_size');
  divisible('num_query_groups', tp, 'model.tensor_model_parallel_size');
  divisible('ffn_hidden_size', tp, 'model.tensor_model_parallel_size');
  stages(model, report);
  if (model.sequence_parallel)
    divisible('encoder_seq_length', tp, 'model.tensor_model_parallel_size (sequence_parallel)');
  const heads = model.num_attention_heads;
  if (heads !== null && model.kv_channels === null) divisible('hidden_size', heads, 'model.num_attention_heads');
  const groups = model.num_query_groups;
  if (heads !== null && groups !== null && heads % groups !== 0) {
    report('model.num_query_groups', 'heads cannot be shared out over the groups', {
      expected: `a divisor of model.num_attention_heads=${heads}`,
      found: String(groups),
    });
  }
  const positions = model.max_position_embeddings;
  const stretch = model.seq_len_interpolation_factor ?? 1;
  if (positions !== null && model.encoder_seq_length > positions * stretch) {
    report('model.encoder_seq_length', 'longer than the model has positions', {
      expected: `at most model.max_position_embeddings=${positions}`,
      found: String(model.encoder_seq_length),
      fix: `set model.encoder_seq_length=${positions}, or model.seq_len_interpolation_factor to stretch the positions`,
    });
  }
  const vision = model.mm_cfg.vision_encoder;
  if (vision.image_size !== null && vision.patch_dim !== null && vision.image_size % vision.patch_dim !== 0) {
    report('model.mm_cfg.vision_encoder.image_size', 'not divisible into patches', {
      expected: `a multiple of patch_dim=${vision.patch_dim}`,
      found: String(vision.image_size),
    });
  }
  if (!/^(?:linear|identity|mlp[1-9]\d*x_gelu)$/.test(model.mm_cfg.mm_mlp_adapter_type)) {
    report('model.mm_cfg.mm_mlp_adapter_type', 'there is no such projector', {
      expected: 'linear, mlp2x_gelu, mlp3x_gelu, … or identity',
      found: `'${model.mm_cfg.mm_mlp_adapter_type}'`,
    });
  }
  recomputation(model, report);
}

function recomputation(model: NevaConfig['model'], report: Report): void {
  const granularity = model.activations_checkpoint_granularity;
  const method = model.activations_checkpoint_method;
  const count = model.activations_checkpoint_num_layers;
  if (granularity === 'full' && method === null) {
    report('model.activations_checkpoint_method', 'full recomputation needs a method', {
      expected: 'uniform or block',
      found: 'null',
      fix: 'set model.activations_checkpoint_method=uniform model.activations_checkpoint_num_layers=1',
    });
  }
  if (granularity === null && (method !== null || count !== null)) {
    report('model.activations_checkpoint_granularity', 'a method is set, but nothing is recomputed', {
      expected: 'full or selective',
      found: 'null',
      fix: 'set model.activations_checkpoint_granularity=full',
    });
  }
  if (count !== null && model.num_layers !== null && count > model.num_layers) {
    report('model.activations_checkpoint_num_layers', 'more blocks than the model has', {
      expected: `at most model.num_layers=${model.num_layers}`,
      found: String(count),
    });
  }
}

function numbers({ trainer, model }: NevaConfig, report: Report): void {
  if (trainer.engine === 'tfjs') {
    if (trainer.precision !== '32') {
      report('trainer.precision', 'the tfjs engine computes in float32 alone', {
        expected: '32',
        found: trainer.precision,
        fix: 'set trainer.precision=32 or trainer.engine=torch',
      });
    }
    const ranks = model.tensor_model_parallel_size * model.pipeline_model_parallel_size;
    if (ranks > 1 || trainer.devices > 1 || trainer.num_nodes > 1) {
      report('trainer.engine', 'the tfjs engine runs in one process', {
        expected: 'one device, no tensor or pipeline parallelism',
        found: `${trainer.devices} × ${trainer.num_nodes} processes, tensor × pipeline = ${ranks}`,
        fix: 'set trainer.engine=torch',
      });
    }
  }
  if (trainer.accelerator === 'cpu' && trainer.precision === 'tf32') {
    report('trainer.precision', 'TF32 is a number format of NVIDIA GPUs', {
      expected: '32, bf16 or 16 on a CPU',
      found: 'tf32',
      fix: 'set trainer.precision=32',
    });
  }
}

function training({ trainer, model, exp_manager: manager }: NevaConfig, report: Report): void {
  const { save_top_k, save_last } = manager.checkpoint_callback_params;
  if (manager.create_checkpoint_callback && save_top_k === 0 && !save_last) {
    report('exp_manager.checkpoint_callback_params.save_last', 'every checkpoint would be removed at once', {
      expected: 'save_last=true, or save_top_k of 1 or more',
      found: 'save_top_k=0, save_last=false',
      fix: 'set exp_manager.create_checkpoint_callback=false to save nothing',
    });
  }
  const epochs = trainer.max_epochs ?? -1;
  if (trainer.max_steps < 0 && epochs < 0 && trainer.max_time === null) {
    report('trainer.max_steps', 'the run would never end', {
      expected: 'trainer.max_steps, trainer.max_epochs or trainer.max_time',
      found: 'none of them',
      fix: 'set trainer.max_epochs=1 for one pass over the data',
    });
  }
  const { lr, sched } = model.optim;
  if (sched.min_lr > lr) {
    report('model.optim.sched.min_lr', 'higher than the peak', {
      expected: `at most model.optim.lr=${lr}`,
      found: String(sched.min_lr),
    });
  }
  const { llm, mm_mlp_adapter_type: projector } = model.mm_cfg;
  if (llm.freeze && projector === 'identity') {
    report('model.mm_cfg.llm.freeze', 'nothing would learn: the LLM is frozen and the projector has no weights', {
      fix: 'set model.mm_cfg.llm.freeze=false or model.mm_cfg.mm_mlp_adapter_type=linear',
    });
  }
  if (llm.from_pretrained === null && model.restore_from_path === null) {
    const needed = ['num_layers', 'hidden_size', 'ffn_hidden_size', 'num_attention_heads'] as const;
    const absent = needed.filter((key) => model[key] === null);
    if (absent.length > 0) {
      report('model.mm_cfg.llm.from_pretrained', 'without a checkpoint the shape must be given', {
        expected: `a checkpoint, or ${absent.map((key) => `model.${key}`).join(', ')}`,
        found: 'null',
      });
    }
  }
  if (trainer.check_val_every_n_epoch !== null && trainer.val_check_interval !== null) {
    report('trainer.check_val_every_n_epoch', 'validations are counted in steps already', {
      expected: 'trainer.val_check_interval=null beside it',
      found: `trainer.val_check_interval=${trainer.val_check_interval}`,
      fix: 'set trainer.val_check_interval=null, or leave this out',
    });
  }
  dataRules(model, report);
  if (model.data.data_path === null && model.data.blend === null) {
    report('model.data.data_path', 'there is nothing to train on', {
      expected: 'a .json or .jsonl file of conversations',
      found: 'null',
      fix: 'set data.data_path=FILE data.image_folder=FOLDER',
    });
  }
}

function dataRules({ data }: NevaConfig['model'], report: Report): void {
  if (data.image_aspect_ratio === 'keep') {
    report('model.data.image_aspect_ratio', 'keep makes pictures of every size, and the vision tower takes one', {
      expected: 'square or pad',
      found: 'keep',
      fix: 'set square: the same pixels for square pictures, the only ones that keep works with in LLaVA and NeMo',
    });
  }
  if (data.validation_data_path !== null && data.validation_fraction > 0) {
    report('model.data.validation_fraction', 'there are two sets to validate on', {
      expected: 'validation_data_path or validation_fraction',
      found: 'both',
      fix: 'set model.data.validation_fraction=0',
    });
  }
  if (data.blend === null) return;
  if (data.blend.length === 0) report('model.data.blend', 'no sets in it', { expected: 'at least one, or null' });
  data.blend.forEach((set, i) => {
    if (set.data_path === null) report(`model.data.blend[${i}].data_path`, 'must be given', { found: 'null' });
  });
  const weighed = data.blend.filter(({ weight }) => weight !== null).length;
  if (weighed > 0 && weighed < data.blend.length) {
    report('model.data.blend', 'only some of the sets have a weight', {
      expected: 'a weight for each set, or for none',
      found: `${weighed} of ${data.blend.length}`,
    });
  }
}

function paths(
  config: NevaConfig,
  exists: (path: string) => boolean,
  purpose: 'train' | 'inference',
  report: Report,
): void {
  const { model } = config;
  const check = (key: string, path: string | null, fix?: string): void => {
    // Of a pattern of shards, each is looked for when it is opened.
    if (path !== null && !path.includes('{') && !exists(path)) {
      report(key, 'there is nothing at this path', { found: path, ...(fix === undefined ? {} : { fix }) });
    }
  };
  if (purpose === 'inference') {
    check('neva_model_file', config.neva_model_file);
    check('base_model_file', config.base_model_file);
    check('inference.prompt_file', config.inference.prompt_file);
    return;
  }
  check('model.restore_from_path', model.restore_from_path);
  if (model.data.blend === null) check('model.data.data_path', model.data.data_path);
  model.data.blend?.forEach((set, i) => {
    check(`model.data.blend[${i}].data_path`, set.data_path);
    check(`model.data.blend[${i}].image_folder`, set.image_folder);
  });
  check('model.data.image_folder', model.data.image_folder);
  check('model.data.validation_data_path', model.data.validation_data_path);
  check('model.data.validation_image_folder', model.data.validation_image_folder);
  check(
    'model.mm_cfg.pretrain_mm_mlp_adapter',
    model.mm_cfg.pretrain_mm_mlp_adapter,
    'run `neva pretrain` first, or set it to null',
  );
  // A name like org/model may be an entry of the hub's cache, which is looked up when it is loaded.
  const local = (path: string | null): string | null =>
    path !== null && /^(?:[./~]|[A-Za-z]:)/.test(path) ? path : null;
  check('model.tokenizer.model', local(model.tokenizer.model));
  check('model.mm_cfg.llm.from_pretrained', local(model.mm_cfg.llm.from_pretrained));
  check('model.mm_cfg.vision_encoder.from_pretrained', local(model.mm_cfg.vision_encoder.from_pretrained));
}

/**
 * Shapes that the configuration states against those that a checkpoint has; null states nothing.
 * @throws ConfigError with both side by side
 */
export function compareShapes(
  stated: Readonly<Record<string, string | number | boolean | null>>,
  found: Readonly<Record<string, string | number | boolean | null>>,
  checkpoint: string,
): void {
  const wrong = Object.entries(stated).filter(
    ([key, value]) => value !== null && found[key] !== undefined && found[key] !== null && found[key] !== value,
  );
  if (wrong.length === 0) return;
  const width = Math.max(...wrong.map(([key]) => key.length));
  const lines = wrong.map(
    ([key, value]) => `  ${key.padEnd(width)}  config ${String(value).padEnd(8)}  checkpoint ${String(found[key])}`,
  );
  throw new ConfigError(
    [
      `${checkpoint}: the checkpoint has another shape than the configuration`,
      ...lines,
      '  fix:      leave these keys out (null): shapes come from the checkpoint; or name the right checkpoint',
    ].join('\n'),
  );
}
