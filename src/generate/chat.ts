/** `neva chat`: a conversation with a trained model, line by line. */
import { createInterface } from 'node:readline';
import type { Turn } from '../data/segments.ts';
import { isUserError } from '../errors.ts';
import type { Question, Reply } from './answer.ts';

export interface ChatTerminal {
  input: NodeJS.ReadableStream;
  /** The answer's text as it grows is written here, and the prompt sign where `interactive`. */
  output: NodeJS.WritableStream;
  interactive: boolean;
}

export interface ChatModel {
  answer(question: Question, onText: (text: string) => void): Promise<Reply>;
  /** Reads a picture as the tower takes it; throws a user error where it cannot. */
  picture(path: string): Promise<Float32Array>;
}

const HELP = `/image FILE  show a picture with the next question
/reset       forget the conversation
/quit        end (also Ctrl-D)`;

/** `pictures` are shown with the first question. Goes on until the input ends or /quit. What cannot be answered is told, and the conversation goes on without it. */
export async function chat(
  model: ChatModel,
  { input, output, interactive }: ChatTerminal,
  pictures: readonly Float32Array[] = [],
): Promise<void> {
  const write = (text: string) => output.write(text);
  let turns: Turn[] = [];
  let images: Float32Array[] = [];
  let shown: Float32Array[] = [...pictures];

  const ask = async (text: string): Promise<void> => {
    const question: Turn = { from: 'human', text: '<image>\n'.repeat(shown.length) + text };
    let written = '';
    // Text that is taken back (an end string, half a letter) waits for the end.
    const grow = (now: string) => {
      if (!now.startsWith(written) || now.endsWith('\uFFFD')) return;
      write(now.slice(written.length));
      written = now;
    };
    const reply = await model.answer({ turns: [...turns, question], images: [...images, ...shown] }, grow);
    write(`${reply.text.startsWith(written) ? reply.text.slice(written.length) : `\n${reply.text}`}\n`);
    turns = [...turns, question, { from: 'gpt', text: reply.text }];
    images = [...images, ...shown];
    shown = [];
  };

  const obey = async (line: string): Promise<void> => {
    const [, command, argument = ''] = /^(\S+)\s*(.*)$/.exec(line)!;
    if (command === '/image' && argument !== '') {
      shown = [...shown, await model.picture(argument)];
    } else if (command === '/reset') {
      turns = [];
      images = [];
      shown = [];
    } else {
      write(`${HELP}\n`);
    }
  };

  const lines = createInterface({ input, ...(interactive ? { output, prompt: '> ' } : {}) });
  if (interactive) write(`${HELP}\n`);
  lines.prompt();
  for await (const typed of lines) {
    const line = typed.trim();
    if (line === '/quit') break;
    try {
      if (line.startsWith('/')) await obey(line);
      else if (line !== '') await ask(line);
    } catch (error) {
      if (!isUserError(error)) throw error;
      write(`${error.message}\n`);
    }
    lines.prompt();
  }
  lines.close();
}
