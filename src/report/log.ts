/** The run's log: every line as JSON in neva.log, the ones for people also on the terminal. */
import { hostname } from 'node:os';
import { type Logger as Pino, pino } from 'pino';

export type Fields = Record<string, unknown>;

/** Prints one line for people; a progress bar that is being shown steps aside for it. */
export type Print = (line: string) => void;

export interface Logger {
  /** To the file alone. */
  debug(message: string, fields?: Fields): void;
  info(message: string, fields?: Fields): void;
  warn(message: string, fields?: Fields): void;
  /** To the file alone: what goes wrong is printed once, by the command line. */
  error(error: unknown): void;
}

/** Opens the log for appending. Writes are synchronous: nothing is lost when the process ends, however it ends. */
export function openLog(file: string, print: Print, rank = 0): Logger {
  const destination = pino.destination({ dest: file, append: true, sync: true });
  const log: Pino = pino(
    { level: 'debug', base: { rank, host: hostname(), pid: process.pid }, timestamp: pino.stdTimeFunctions.isoTime },
    destination,
  );
  return {
    debug: (message, fields = {}) => log.debug(fields, message),
    info(message, fields = {}) {
      log.info(fields, message);
      print(message);
    },
    warn(message, fields = {}) {
      log.warn(fields, message);
      print(`warning: ${message}`);
    },
    error: (error) => log.error(error instanceof Error ? { err: error } : { thrown: String(error) }, String(error)),
  };
}
