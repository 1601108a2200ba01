/** A hub of Hugging Face's on this machine: the part of its HTTP interface that fetching a model takes. */
import { createHash } from 'node:crypto';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

export interface FakeModel {
  name: string;
  /** Branch or tag → commit. */
  refs: Record<string, string>;
  files: Record<string, Buffer>;
  /** Files kept in large-file storage, which have a SHA-256. */
  large?: readonly string[];
  /** Who may read the files; everyone without it. */
  token?: string;
  /** Visible to all, its files to accounts that were given access. */
  gated?: boolean;
}

export interface FakeHub {
  url: string;
  /** Method, path and range of every request, in order. */
  requests: string[];
  /** The next so many downloads of that file break off after so many bytes. */
  breakOff(path: string, times: number, after: number): void;
  /** Answers every request so from now on; null: as usual. */
  answer(status: number | null): void;
  close(): Promise<void>;
}

const gitHash = (bytes: Buffer) => createHash('sha1').update(`blob ${bytes.length}\0`).update(bytes).digest('hex');

export async function openFakeHub(models: readonly FakeModel[]): Promise<FakeHub> {
  const requests: string[] = [];
  const breaks = new Map<string, { times: number; after: number }>();
  let status: number | null = null;

  const refuse = (response: ServerResponse, code: number, error: string, kind: string) => {
    response.writeHead(code, { 'Content-Type': 'application/json', 'X-Error-Code': kind });
    response.end(JSON.stringify({ error }));
  };
  const json = (response: ServerResponse, value: unknown) => {
    response.writeHead(200, { 'Content-Type': 'application/json' });
    response.end(JSON.stringify(value));
  };

  const send = (request: IncomingMessage, response: ServerResponse, path: string, about: Record<string, string>) => {
    const bytes = models.find(({ name }) => name === about.name)!.files[path]!;
    const [, from, to] = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? '') ?? [];
    const start = Number(from ?? 0);
    const end = Math.min(to ? Number(to) + 1 : bytes.length, bytes.length);
    const part = bytes.subarray(start, end);
    response.writeHead(from === undefined ? 200 : 206, {
      'Content-Length': part.length,
      ETag: `"${gitHash(bytes)}"`,
      'X-Repo-Commit': about.commit,
      ...(about.sha256 ? { 'X-Linked-ETag': `"${about.sha256}"`, 'X-Linked-Size': bytes.length } : {}),
      ...(from === undefined ? {} : { 'Content-Range': `bytes ${start}-${end - 1}/${bytes.length}` }),
    });
    const broken = breaks.get(path);
    if (!broken || broken.times === 0 || part.length <= broken.after) {
      response.end(part);
      return;
    }
    broken.times -= 1;
    response.write(part.subarray(0, broken.after), () => setTimeout(() => response.destroy(), 20));
  };

  const server = createServer((request, response) => {
    const url = new URL(request.url!, 'http://hub');
    requests.push(`${request.method} ${url.pathname} ${request.headers.range ?? ''}`.trim());
    if (status !== null) {
      refuse(response, status, 'so answered', 'Test');
      return;
    }
    const token = /^Bearer (.*)$/.exec(request.headers.authorization ?? '')?.[1];
    const [, api, name, what, revision = '', path = ''] =
      /^\/(api\/models\/)?([^/]+\/[^/]+)\/(revision|tree|resolve)\/([^/]+)\/?(.*)$/.exec(url.pathname) ?? [];
    const model = models.find((each) => each.name === name);
    if (!model) {
      // The hub does not say which models are private.
      if (token) refuse(response, 404, 'Repository not found', 'RepoNotFound');
      else refuse(response, 401, 'Invalid username or password.', 'RepoNotFound');
      return;
    }
    if (token && !models.some((each) => each.token === token)) {
      refuse(response, 401, 'Invalid credentials in Authorization header', 'Unauthorized');
      return;
    }
    const wanted = decodeURIComponent(revision);
    const commit = model.refs[wanted] ?? Object.values(model.refs).find((each) => each === wanted);
    if (!commit) {
      refuse(response, 404, `Invalid rev id: ${wanted}`, 'RevisionNotFound');
      return;
    }
    if (api && what === 'revision') {
      json(response, { _id: '1', id: name, private: false, gated: model.gated ?? false, sha: commit, lastModified: 0 });
      return;
    }
    if (api) {
      const entries = Object.entries(model.files).map(([file, bytes]) => ({
        type: 'file',
        path: file,
        size: bytes.length,
        oid: gitHash(bytes),
        ...(model.large?.includes(file)
          ? { lfs: { oid: createHash('sha256').update(bytes).digest('hex'), size: bytes.length, pointerSize: 130 } }
          : {}),
      }));
      json(response, [...entries, { type: 'directory', path: 'original', size: 0, oid: '0'.repeat(40) }]);
      return;
    }
    if (model.token && token !== model.token) {
      const text = `Access to model ${name} is restricted and you are not in the authorized list.`;
      refuse(response, token ? 403 : 401, text, 'GatedRepo');
      return;
    }
    const bytes = model.files[path];
    const sha256 = bytes && model.large?.includes(path) ? createHash('sha256').update(bytes).digest('hex') : '';
    if (bytes) send(request, response, path, { name: name!, commit, sha256 });
    else refuse(response, 404, 'Entry not found', 'EntryNotFound');
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    requests,
    breakOff: (path, times, after) => breaks.set(path, { times, after }),
    answer: (code) => {
      status = code;
    },
    close: () =>
      new Promise((resolve) => {
        server.closeAllConnections();
        server.close(() => resolve());
      }),
  };
}
