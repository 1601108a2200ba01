/**
 * neva/config: Hydra's override grammar and composition, OmegaConf's interpolation, and neva's schema of keys.
 * Nothing here imports any other part of neva.
 */
export {
  type Composed,
  type ComposedTree,
  type ComposeOptions,
  compose,
  composeTree,
  findPackageRoot,
  resolve,
} from './compose.ts';
export { ConfigError } from './error.ts';
export type { Element, Sweep, Value } from './grammar/element.ts';
export { type Override, parseOverride, parseOverrides, printOverride } from './grammar/override.ts';
export { type NevaConfig, schema } from './schema/index.ts';
export type { Origin } from './tree.ts';
