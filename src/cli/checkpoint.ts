/** `neva checkpoint inspect` and `diff`: what is in a model on the disk, and in what two of them differ. */
import type { Command } from 'commander';
import type { ModelDifference, TensorDifference } from '../checkpoint/diff.ts';
import type { Inspection } from '../checkpoint/inspect.ts';

const PATHS =
  'Paths: anything that neva reads: its checkpoint, run and experiment folders, Hugging Face and LLaVA folders, files of weights, .nemo archives.';

export function define(command: Command): void {
  command
    .command('inspect')
    .description('kind, parts, shapes, number formats, parallel sizes, tokenizer, template, checksums')
    .argument('<path>', 'a model')
    .option('--tensors', 'list every tensor')
    .option('--json', 'print one JSON object, tensors included')
    .addHelpText('after', `\n${PATHS}\nExit code 2 when it does not match its own checksums.`)
    .action(inspectModel);
  command
    .command('diff')
    .description('compare two models tensor by tensor, whatever layouts they are in')
    .argument('<a>', 'a model')
    .argument('<b>', 'another')
    .option('--json', 'print one JSON object: same, identical, differences')
    .addHelpText('after', `\n${PATHS}`)
    .action(diff);
}

async function inspectModel(path: string, { json, tensors }: { json?: boolean; tensors?: boolean }): Promise<void> {
  const { inspect } = await import('../checkpoint/inspect.ts');
  const { modelFolder } = await import('../train/assemble.ts');
  const found = inspect(modelFolder(path));
  console.log(json ? JSON.stringify(found, null, 2) : describe(found, tensors ?? false));
  if (found.checksums !== null && found.checksums !== 'whole') process.exitCode = 2;
}

async function diff(a: string, b: string, { json }: { json?: boolean }): Promise<void> {
  const { diffModels } = await import('../checkpoint/diff.ts');
  const { modelFolder } = await import('../train/assemble.ts');
  const difference = diffModels(modelFolder(a), modelFolder(b));
  console.log(json ? JSON.stringify(difference, null, 2) : describeDifference(difference));
}

const number = (value: number) => value.toLocaleString('en-US');
const shapeText = (shape: readonly number[]) => `[${shape.join(', ')}]`;

function describe(found: Inspection, withTensors: boolean): string {
  const { nemo, training, config } = found;
  const rows: [string, string][] = [['kind', found.kind]];
  if (nemo) rows.push(['parallel', `tensor ${nemo.tp}, pipeline ${nemo.pp}; ${nemo.names} names`]);
  for (const [part, content] of Object.entries(found.parts)) {
    const { tensors, parameters, bytes, dtypes } = content;
    rows.push([
      part,
      `${number(parameters)} parameters in ${tensors} tensors, ${(bytes / 1e6).toFixed(1)} MB, ${dtypes.join(', ')}`,
    ]);
  }
  for (const { part, path, state } of found.references)
    rows.push([part, state === 'included' ? `here, from ${path}` : `elsewhere, ${state}: ${path}`]);
  for (const part of ['llm', 'vision', 'projector'] as const) {
    const shape = config?.[part];
    if (shape)
      rows.push([
        `${part} shape`,
        Object.entries(shape)
          .map(([key, value]) => `${key} ${value}`)
          .join(', '),
      ]);
  }
  if (config?.visionTower) rows.push(['tower', `named: ${config.visionTower}`]);
  rows.push(['tokenizer', found.tokenizer.join(', ') || 'none']);
  if (training) {
    const { stage, step, epoch, consumedSamples, loss, valLoss, template, templateCompat, imageAspect } = training;
    rows.push(['template', `${template} (${templateCompat}), pictures ${imageAspect}`]);
    rows.push(['trained', `${stage}, step ${step}, epoch ${epoch}, ${consumedSamples} samples`]);
    rows.push(['loss', `${loss}${valLoss === null ? '' : `, validation ${valLoss}`}`]);
  }
  rows.push([
    'checksums',
    found.checksums === null
      ? 'none to compare with'
      : found.checksums === 'whole'
        ? 'whole'
        : `DAMAGED: ${found.checksums}`,
  ]);
  const width = Math.max(...rows.map(([key]) => key.length));
  const lines = [found.path, ...rows.map(([key, value]) => `  ${key.padEnd(width)}  ${value}`)];
  if (withTensors)
    lines.push(...found.tensors.map(({ name, dtype, shape }) => `  ${name}  ${dtype} ${shapeText(shape)}`));
  return lines.join('\n');
}

function describeDifference({ same, identical, differences }: ModelDifference): string {
  if (same) return `the same: ${identical} tensors, bit for bit`;
  return [
    ...differences.map(line),
    `${identical} tensors are the same bit for bit, ${differences.length} are not`,
  ].join('\n');
}

function line({ name, a, b, values }: TensorDifference): string {
  const side = (of: TensorDifference['a']) => (of ? `${of.dtype} ${shapeText(of.shape)}` : 'not there');
  if (!a || !b || !values) return `${name}: ${side(a)} | ${side(b)}`;
  const types = a.dtype === b.dtype ? a.dtype : `${a.dtype} | ${b.dtype}`;
  const { differing, elements, largest, mean } = values;
  if (differing === 0) return `${name}: ${types}, the same values`;
  return `${name}: ${types}, ${number(differing)} of ${number(elements)} values, by ${largest.toExponential(3)} at most and ${mean.toExponential(3)} on average`;
}
