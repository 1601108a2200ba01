#!/usr/bin/env node
import { existsSync } from 'node:fs';

const here = (path) => new URL(path, import.meta.url);
const [major, minor] = process.versions.node.split('.').map(Number);
if (major < 20 || (major === 20 && minor < 19)) {
  console.error(`neva needs Node 20.19 or newer, and this is Node ${process.versions.node}.`);
  process.exit(2);
}
if (existsSync(here('../src'))) {
  const { build, isStale } = await import('../scripts/build.js');
  const status = isStale() ? build() : 0;
  if (status !== 0) process.exit(status);
}
const { main } = await import('../dist/src/cli/main.js');
process.exitCode = await main(process.argv.slice(2));
