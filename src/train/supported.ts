/** What a configuration may ask for and this build cannot do: refused before anything is loaded, all at once. */
import type { NevaConfig } from '../config/index.ts';
import { UserError } from '../errors.ts';

/** One line for each key that asks for more than this build can do. */
export function unsupported({ trainer, model }: NevaConfig): string[] {
  const tfjs = trainer.engine === 'tfjs';
  const alone = 'the tfjs engine is one process on one device';
  const problems: [boolean, string][] = [
    [
      model.data.vision_cache !== null && !model.mm_cfg.vision_encoder.freeze,
      'model.data.vision_cache: the features of a tower that trains change with every step; leave it out, or set model.mm_cfg.vision_encoder.freeze=true',
    ],
    [
      model.optim.store_param_remainders && (trainer.precision !== 'bf16' || !model.megatron_amp_O2),
      'model.optim.store_param_remainders: only bfloat16 weights leave a remainder; set trainer.precision=bf16 and model.megatron_amp_O2=true, or leave it out',
    ],
    [
      tfjs && trainer.devices > 1,
      `trainer.devices=${trainer.devices}: ${alone}; set trainer.devices=1, or trainer.engine=torch`,
    ],
    [
      tfjs && trainer.num_nodes > 1,
      `trainer.num_nodes=${trainer.num_nodes}: ${alone}; set trainer.num_nodes=1, or trainer.engine=torch`,
    ],
    [
      tfjs && model.tensor_model_parallel_size !== 1,
      `model.tensor_model_parallel_size=${model.tensor_model_parallel_size}: ${alone}; set it to 1`,
    ],
    [
      tfjs && model.pipeline_model_parallel_size !== 1,
      `model.pipeline_model_parallel_size=${model.pipeline_model_parallel_size}: ${alone}; set it to 1`,
    ],
    [
      !['fused_adam', 'adamw', 'distributed_fused_adam'].includes(model.optim.name),
      `model.optim.name=${model.optim.name}: only AdamW is built yet; set model.optim.name=fused_adam`,
    ],
    [
      tfjs && trainer.precision !== '32',
      `trainer.precision=${trainer.precision}: the tfjs engine computes in float32; set trainer.precision=32, or trainer.engine=torch`,
    ],
    [
      tfjs && trainer.num_threads !== null && trainer.tfjs_backend === 'cpu',
      `trainer.num_threads=${trainer.num_threads}: plain JavaScript computes on one core; leave it out, or set trainer.engine=torch`,
    ],
  ];
  return problems.filter(([is]) => is).map(([, text]) => text);
}

export function refuseUnsupported(config: NevaConfig): void {
  const found = unsupported(config).map((text) => `  ${text}`);
  if (found.length > 0)
    throw new UserError(`this configuration asks for more than neva can do here:\n${found.join('\n')}`);
}
