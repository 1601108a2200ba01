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
  multirunJobs,
  resolve,
  resolveTree,
  type Setting,
} from './compose.ts';
export type { DefaultsList, Loaded } from './defaults.ts';
export { type CompletionIndex, complete, completionIndex, helpText, keyDocs, renderDocs } from './docs.ts';
export { ConfigError } from './error.ts';
export type { Element, Sweep, Value } from './grammar/element.ts';
export { type Override, parseOverride, parseOverrides, printOverride } from './grammar/override.ts';
export { checkConfig, compareShapes, findProblems, findRemarks, type RuleContext } from './rules.ts';
export { type NevaConfig, schema } from './schema/index.ts';
export { SearchPath } from './search_path.ts';
export { printYaml, showDefaults, showDefaultsTree, showOrigins, showYaml, why } from './show.ts';
export { Sources } from './sources.ts';
export { expandJobs } from './sweep.ts';
export type { Origin } from './tree.ts';
