/** The table of verbs. A verb's module is loaded when it is asked for, and what it needs when it runs. */
import type { Command } from 'commander';

export interface VerbModule {
  /** Adds the verb's flags, arguments and action. An action that ends well but not with 0 sets `process.exitCode`. */
  define(command: Command): void;
  /** More for `--help`, made only when it is asked for. */
  help?(): Promise<string>;
}

export interface Verb {
  name: string;
  help: string;
  /** Left out of the list of verbs: programs call it, not people. */
  hidden?: boolean;
  load(): Promise<VerbModule>;
}

const stage = async (name: 'pretrain' | 'finetune') => (await import('./train.ts')).stageVerb(name);

export const verbs: readonly Verb[] = [
  { name: 'pretrain', help: 'feature alignment: train the projector', load: () => stage('pretrain') },
  { name: 'finetune', help: 'train the projector and the language model', load: () => stage('finetune') },
  { name: 'generate', help: 'answer prompts about pictures with a trained model', load: () => import('./generate.ts') },
  { name: 'chat', help: 'a conversation with a trained model in the terminal', load: () => import('./chat.ts') },
  {
    name: 'evaluate',
    help: "a trained model's loss and exact matches on a data set with answers",
    load: () => import('./evaluate.ts'),
  },
  {
    name: 'plan',
    help: 'predict memory, time and cost of a run from its configuration alone',
    load: () => import('./plan.ts'),
  },
  {
    name: 'launch',
    help: 'run a training verb on several ranks, here or on several machines',
    load: () => import('./launch.ts'),
  },
  {
    name: 'convert-checkpoint',
    help: 'write a model, or a part of it, in another layout',
    load: () => import('./convert.ts'),
  },
  {
    name: 'checkpoint',
    help: 'say what is in a model on the disk; compare two of them',
    load: () => import('./checkpoint.ts'),
  },
  {
    name: 'download',
    help: 'fetch a model of the Hugging Face hub into its local cache',
    load: () => import('./download.ts'),
  },
  {
    name: 'data',
    help: 'check what a run would read; show a record as the model sees it; pack records ahead of a run',
    load: () => import('./data.ts'),
  },
  {
    name: 'config',
    help: 'show a configuration; list, explain and trace its keys; repeat a run',
    load: () => import('./config.ts'),
  },
  {
    name: 'doctor',
    help: 'say what is on this machine, and what to do about what is missing',
    load: () => import('./doctor.ts'),
  },
  {
    name: 'completion',
    help: 'print a script that completes verbs, groups and keys in bash, zsh or fish',
    load: () => import('./completion.ts'),
  },
  { name: '__complete', help: 'what the completion scripts ask', hidden: true, load: () => import('./complete.ts') },
  { name: 'setup', help: 'find or fetch LibTorch and build the addon', load: () => import('./setup.ts') },
];
