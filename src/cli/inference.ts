/** What the verbs that ask a model have in common. */
import type { NevaConfig } from '../config/index.ts';
import { type ConfigFlags, checkRules, composeOrShow, tellNotices } from './hydra.ts';

/**
 * The configuration, checked, with the engine chosen and --model in its place; null where a flag asked to see it instead.
 * A model named by --model is looked for when it is opened.
 */
export async function modelConfig(
  overrides: string[],
  flags: ConfigFlags & { model?: string },
): Promise<NevaConfig | null> {
  const composed = await composeOrShow('neva_inference', overrides, flags);
  if (!composed) return null;
  await tellNotices(composed, 'inference');
  const { config } = composed;
  const neva_model_file = flags.model === undefined ? config.neva_model_file : null;
  await checkRules({ config: { ...config, neva_model_file } }, 'inference');
  const { chooseEngine } = await import('../engine/open.ts');
  const trainer = await chooseEngine(config.trainer, (line) => console.error(line));
  return { ...config, trainer, neva_model_file: flags.model ?? config.neva_model_file };
}

export function showProgress(done: number, total: number): void {
  process.stderr.write(`\r${done}/${total}${done === total ? '\n' : ''}`);
}
