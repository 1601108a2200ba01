/** Rewrites a model in a layout of Hugging Face or LLaVA, tensor by tensor: memory is bounded by the largest one. */
import { copyFileSync, existsSync, mkdirSync, renameSync, rmSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';
import type { DType, Engine } from '../engine/engine.ts';
import { mistake } from '../errors.ts';
import { besideName, writeFileAtomic } from '../files.ts';
import type { NevaShape } from '../model/shapes.ts';
import { tokenizerFiles } from './folder.ts';
import { llamaConfig, visionConfig, writeConfig } from './hf_config.ts';
import { type Layout, type Part, partOf, writeName } from './names.ts';
import { openWhole } from './parts.ts';
import { readTensor } from './pieces.ts';
import { type TensorToWrite, writeSafetensors } from './safetensors.ts';
import { load, type Weights } from './weights.ts';

export interface ConvertOptions {
  /** A Hugging Face folder or a checkpoint folder. */
  from: string;
  to: 'hf' | 'hf-new' | 'llava';
  out: string;
  part: 'all' | Part;
  /** null keeps every tensor's own. */
  dtype: DType | null;
}

/** Returns what was written. Nothing stands at `out` until all of it is there; an existing `out` is refused. */
export function convert(engine: Engine, options: ConvertOptions): { tensors: number; bytes: number } {
  const out = resolve(options.out);
  if (existsSync(out)) {
    throw mistake({
      where: options.out,
      problem: 'there is something already',
      fix: 'name a folder that does not exist yet',
    });
  }
  const { parts, config, tokenizerFolder } = openWhole(options.from);
  const wanted = options.part === 'all' ? (['llm', 'vision', 'projector'] as const) : [options.part];
  for (const part of wanted) {
    if (!parts[part])
      throw mistake({ where: options.from, problem: `it has no ${part}`, fix: 'choose another --part' });
  }
  const layout: Layout = options.part === 'all' ? options.to : 'part';
  const shapes = config as Partial<NevaShape> | null;
  const linear = shapes?.projector?.type === 'linear';
  const tensors = wanted.flatMap((part) =>
    partTensors(engine, parts[part]!, part, options.dtype, (name) => writeName(name, layout, linear)),
  );

  const beside = besideName(out);
  rmSync(beside, { recursive: true, force: true });
  mkdirSync(beside, { recursive: true });
  try {
    const { bytes } = writeSafetensors(join(beside, 'model.safetensors'), tensors);
    const json = configOf(options, shapes);
    if (json) {
      const dtype = options.dtype ?? tensors[0]!.dtype;
      writeFileAtomic(join(beside, 'config.json'), `${JSON.stringify({ ...json, dtype }, null, 2)}\n`);
    }
    if (options.part !== 'vision' && options.part !== 'projector' && tokenizerFolder) {
      for (const file of tokenizerFiles(tokenizerFolder)) copyFileSync(file, join(beside, basename(file)));
    }
    const vision = parts.vision?.path;
    const preprocessor = vision && join(vision, 'preprocessor_config.json');
    if (preprocessor && existsSync(preprocessor) && wanted.some((part) => part === 'vision')) {
      copyFileSync(preprocessor, join(beside, 'preprocessor_config.json'));
    }
    renameSync(beside, out);
    return { tensors: tensors.length, bytes };
  } finally {
    rmSync(beside, { recursive: true, force: true });
  }
}

function configOf({ part, to, from }: ConvertOptions, shapes: Partial<NevaShape> | null): object | null {
  const need = <T>(shape: T | undefined): T => {
    if (shape) return shape;
    throw mistake({ where: join(from, 'config.json'), problem: 'it does not give the shapes that the new one needs' });
  };
  switch (part) {
    case 'llm':
      return llamaConfig(need(shapes?.llm));
    case 'vision':
      return visionConfig(need(shapes?.vision));
    case 'projector':
      return null;
    case 'all': {
      const whole = { llm: need(shapes?.llm), vision: need(shapes?.vision), projector: need(shapes?.projector) };
      return to === 'llava' ? originalConfig(whole) : writeConfig(whole);
    }
  }
}

/** config.json of LLaVA's own code: the LLM's fields at the top, the tower inside the weights. */
function originalConfig(shape: NevaShape): object {
  return {
    ...llamaConfig(shape.llm),
    architectures: ['LlavaLlamaForCausalLM'],
    model_type: 'llava_llama',
    mm_projector_type: shape.projector.type,
    mm_hidden_size: shape.projector.inputSize,
    mm_vision_select_layer: shape.vision.selectLayer,
    mm_vision_select_feature: shape.vision.classTokenLength === 1 ? 'patch' : 'cls_patch',
    mm_use_im_start_end: false,
    use_mm_proj: true,
  };
}

function partTensors(
  engine: Engine,
  weights: Weights,
  part: Part,
  dtype: DType | null,
  rename: (name: string) => string,
): TensorToWrite[] {
  return [...weights.entries]
    .filter(([name]) => partOf(name) === part)
    .map(([name, entry]) => ({
      name: rename(name),
      dtype: dtype ?? entry.dtype,
      shape: entry.shape,
      data: () => {
        if (!dtype || dtype === entry.dtype) return readTensor(entry);
        const stored = load(engine, entry);
        const cast = engine.cast(stored, dtype);
        const bytes = engine.bytes(cast);
        stored.dispose();
        cast.dispose();
        return bytes;
      },
    }));
}
