import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { isUserError } from '../src/errors.ts';
import { bornAt, takeLock } from '../src/lock.ts';

const folder = mkdtempSync(join(tmpdir(), 'neva-lock-'));
after(() => rmSync(folder, { recursive: true, force: true }));
const path = (name: string) => join(folder, name);
const left = (name: string, holder: object) => writeFileSync(path(name), `${JSON.stringify(holder)}\n`);
const since = '2026-11-24T00:00:00.000Z';

test('one at a time, and who holds it is told', async () => {
  const lock = await takeLock(path('a'), 'a sweep runs');
  await assert.rejects(takeLock(path('a'), 'a sweep runs'), (error: Error) => {
    assert.ok(isUserError(error));
    assert.match(error.message, /a: a sweep runs in this folder already\n/);
    assert.match(error.message, new RegExp(`found: +process ${process.pid} on ${hostname()}, since 20`));
    assert.match(error.message, /remove .*\/a$/);
    return true;
  });
  lock.release();
  assert.equal(existsSync(path('a')), false);
  (await takeLock(path('a'), '')).release();
});

test('a holder that was killed, or whose number another process has since got, has left it', async () => {
  const child = spawn(process.execPath, ['-e', 'setInterval(() => {}, 1000)']);
  const holder = { pid: child.pid, host: hostname(), born: bornAt(child.pid!), since };
  left('b', holder);
  await assert.rejects(takeLock(path('b'), ''), isUserError);
  left('c', { ...holder, born: 'another boot 1' });
  if (holder.born !== null) (await takeLock(path('c'), '')).release();
  child.kill('SIGKILL');
  await once(child, 'close');
  const lock = await takeLock(path('b'), '');
  assert.equal(JSON.parse(readFileSync(path('b'), 'utf8')).pid, process.pid);
  lock.release();
});

test('on another machine, silence is the sign; one that gives signs of life keeps it', async () => {
  const holder = { pid: 1, host: 'elsewhere', born: null, since };
  left('d', holder);
  (await takeLock(path('d'), '', 300)).release();
  left('e', holder);
  const beats = setInterval(() => utimesSync(path('e'), new Date(), new Date()), 50);
  await assert.rejects(takeLock(path('e'), '', 2000), /process 1 on elsewhere/);
  clearInterval(beats);
});

test('a lock that others have taken over is not removed', async () => {
  const lock = await takeLock(path('f'), '');
  left('f', { pid: 1, host: 'elsewhere', born: null, since });
  lock.release();
  assert.equal(existsSync(path('f')), true);
});
