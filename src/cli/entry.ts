/** What a neva starts when it starts another neva: a script with a path of its own, and nothing to compile first. */
import { main } from './main.ts';

process.exitCode = await main(process.argv.slice(2));
