export { ConfigError } from './error.ts';
export { type NevaConfig, schema } from './schema/index.ts';
