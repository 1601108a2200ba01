/** What each conversation template writes. System texts and separators are interface constants: models were trained on them. */
import { type Conversation, IMAGE_TAG, type Turn, type Writer } from './segments.ts';

export interface Rendering {
  turns: readonly Turn[];
  system: string;
  generation: boolean;
  /** NeMo's details instead of LLaVA's. */
  nemo: boolean;
  /** As LLaVA's training code writes it, where that differs from its conversations for inference. */
  training: boolean;
}

export interface TemplateBody {
  system: string;
  /** Where LLaVA's template of this name has another system text than NeMo's. */
  llavaSystem?: string;
  stop?: string[];
  tokens?: string[];
  bosIfAdded?: boolean;
  /** `nemo`: a template that only NeMo has. */
  origin?: 'nemo';
  /** Encoded as NeMo does whatever the compatibility: no other reference exists. */
  oneText?: boolean;
  unfit?: (conversation: Conversation) => string | null;
  write: (writer: Writer, rendering: Rendering) => void;
}

const VICUNA_USER =
  'A chat between a curious user and an artificial intelligence assistant. ' +
  "The assistant gives helpful, detailed, and polite answers to the user's questions.";
const VICUNA_HUMAN =
  'A chat between a curious human and an artificial intelligence assistant. ' +
  "The assistant gives helpful, detailed, and polite answers to the human's questions.";
const LLAVA_LLAMA_2 =
  'You are a helpful language and vision assistant. ' +
  'You are able to understand the visual content that the user provides, ' +
  'and assist the user with a variety of tasks using natural language.';
const META_LLAMA_2 =
  'You are a helpful, respectful and honest assistant. Always answer as helpfully as possible, while being safe.  ' +
  'Your answers should not include any harmful, unethical, racist, sexist, toxic, dangerous, or illegal content. ' +
  'Please ensure that your responses are socially unbiased and positive in nature.\n\n' +
  'If a question does not make any sense, or is not factually coherent, explain why instead of answering something ' +
  "not correct. If you don't know the answer to a question, please don't share false information.";
const STEERLM_LABELS =
  'quality:4,toxicity:0,humor:0,creativity:0,helpfulness:4,correctness:4,coherence:4,complexity:4,verbosity:4';

/** Image and caption: the question is thrown away, and no end-of-text is taught (the first stage). */
const plain: TemplateBody = {
  system: '',
  stop: ['\n'],
  unfit({ turns }) {
    if (turns.length !== 2) return `${turns.length} turns instead of an image and its caption`;
    return turns[0]?.text.includes(IMAGE_TAG) ? null : 'no <image> tag in the first turn';
  },
  write(writer, { turns, nemo }) {
    if (!nemo) writer.bos();
    for (const turn of turns) {
      if (turn.from === 'human') writer.text(IMAGE_TAG.repeat(turn.text.split(IMAGE_TAG).length - 1));
      else writer.answer(`${turn.text}\n`);
    }
  },
};

/** Vicuna v1.1. The space before an answer belongs to the answer, as the model meets it when it generates. */
const vicuna = (system: string): TemplateBody => ({
  system,
  write(writer, { turns, system, generation, nemo }) {
    if (!nemo) writer.bos();
    writer.text(`${system} `);
    turns.forEach((turn, index) => {
      if (turn.from === 'human') {
        writer.text(`${nemo && index > 0 ? ' ' : ''}USER: ${turn.text} `);
      } else {
        writer.text('ASSISTANT:');
        writer.answer(` ${turn.text}`);
        writer.eos();
      }
    });
    if (generation) writer.text('ASSISTANT:');
  },
});

/** LLaMA-2 chat. NeMo's text has a space before every [INST] and no beginning-of-text token at the very start. */
const llama2: TemplateBody = {
  system: LLAVA_LLAMA_2,
  write(writer, { turns, system, nemo }) {
    turns.forEach((turn, index) => {
      if (turn.from === 'human') {
        const head = index === 0 && system !== '' ? `<<SYS>>\n${system}\n<</SYS>>\n\n` : '';
        if (!nemo || index > 0) writer.bos();
        writer.text(`${nemo ? ' ' : ''}[INST] ${head}${turn.text} [/INST]`);
      } else {
        writer.answer(` ${turn.text} `);
        writer.eos();
      }
    });
  },
};

/** LLaVA's: LLaMA-2's form with one beginning-of-text token and no system text. */
const mistralInstruct: TemplateBody = {
  system: '',
  write(writer, { turns, system }) {
    writer.bos();
    turns.forEach((turn, index) => {
      if (turn.from === 'human') {
        const head = index === 0 && system !== '' ? `<<SYS>>\n${system}\n<</SYS>>\n\n` : '';
        writer.text(`[INST] ${head}${turn.text} [/INST]`);
      } else {
        writer.answer(` ${turn.text} `);
        writer.eos();
      }
    });
  },
};

/** NeMo's: no space around the answer. */
const mistral: TemplateBody = {
  system: '',
  origin: 'nemo',
  write(writer, { turns, system }) {
    writer.bos();
    turns.forEach((turn, index) => {
      if (turn.from === 'human') {
        writer.text(` [INST] ${index === 0 && system !== '' ? `${system}\n` : ''}${turn.text} [/INST]`);
      } else {
        writer.answer(turn.text);
        writer.eos();
      }
    });
  },
};

const header = (role: string) => `<|start_header_id|>${role}<|end_header_id|>\n\n`;

const llama3: TemplateBody = {
  system: LLAVA_LLAMA_2,
  origin: 'nemo',
  stop: ['<|eot_id|>'],
  tokens: ['<|start_header_id|>', '<|end_header_id|>', '<|eot_id|>'],
  write(writer, { turns, system, generation }) {
    writer.bos();
    writer.text(`${header('system')}${system}<|eot_id|>`);
    for (const turn of turns) {
      if (turn.from === 'human') {
        writer.text(`${header('user')}${turn.text}<|eot_id|>`);
      } else {
        writer.text(header('assistant'));
        writer.answer(`${turn.text}<|eot_id|>`);
      }
    }
    if (generation) writer.text(header('assistant'));
  },
};

/** Vicuna v0: `###` after every turn, and the model learns to write it. */
const v0: TemplateBody = {
  system: VICUNA_HUMAN,
  stop: ['###'],
  write(writer, { turns, system, generation, training }) {
    writer.bos();
    if (training) {
      writer.text(`${system}\n\n`);
      for (const { from, text } of turns) writer.text(`### ${from === 'human' ? 'Human' : 'Assistant'}: ${text}\n`);
      writer.text('### ');
      return;
    }
    writer.text(`${system}###`);
    for (const turn of turns) {
      if (turn.from === 'human') {
        writer.text(`Human: ${turn.text}###`);
      } else {
        writer.text('Assistant:');
        writer.answer(` ${turn.text}###`);
      }
    }
    if (generation) writer.text('Assistant:');
  },
};

const chatml = (system: string): TemplateBody => ({
  system,
  stop: ['<|im_end|>'],
  tokens: ['<|im_start|>', '<|im_end|>'],
  bosIfAdded: true,
  write(writer, { turns, system, generation }) {
    writer.bos();
    writer.text(`<|im_start|>system\n${system}<|im_end|>`);
    for (const turn of turns) {
      if (turn.from === 'human') {
        writer.text(`<|im_start|>user\n${turn.text}<|im_end|>`);
      } else {
        writer.text('<|im_start|>assistant\n');
        writer.answer(`${turn.text}<|im_end|>`);
      }
    }
    if (generation) writer.text('<|im_start|>assistant\n');
  },
});

/** NVGPT: with `labels`, an attribute line that is read and not learnt stands before every answer. */
const nvgpt = (system: string, labels: string | null): TemplateBody => ({
  system,
  origin: 'nemo',
  oneText: true,
  stop: ['<extra_id_1>'],
  tokens: ['<extra_id_0>', '<extra_id_1>', '<extra_id_2>'],
  write(writer, { turns, system, generation }) {
    const attributes = (own: string | undefined) => {
      return labels === null ? '' : `<extra_id_2>${own ?? labels}\n`;
    };
    writer.text(`<extra_id_0>System\n${system}<extra_id_1>`);
    for (const turn of turns) {
      if (turn.from === 'human') {
        writer.text(`User\n${turn.text}\n<extra_id_1>`);
      } else {
        writer.text(`Assistant\n${attributes(turn.label)}`);
        writer.answer(`${turn.text}\n<extra_id_1>`);
      }
    }
    if (generation) writer.text(`Assistant\n${attributes(undefined)}`);
  },
});

export const BODIES: Record<string, TemplateBody> = {
  plain,
  v1: vicuna(VICUNA_USER),
  vicuna_v1: vicuna(VICUNA_USER),
  llava_v1: vicuna(VICUNA_HUMAN),
  // NeMo writes LLaVA's system text under this name, LLaVA Meta's.
  llama_2: { ...llama2, llavaSystem: META_LLAMA_2 },
  llava_llama_2: llama2,
  v0,
  llava_v0: v0,
  mpt: chatml(
    'A conversation between a user and an LLM-based AI assistant. The assistant gives helpful and honest answers.',
  ),
  chatml_direct: chatml('Answer the questions.'),
  mistral,
  mistral_instruct: mistralInstruct,
  llama_3: llama3,
  nvgpt: nvgpt(`${VICUNA_USER}\n\n`, STEERLM_LABELS),
  nv_steerlm: nvgpt(`${VICUNA_USER}\n\n`, STEERLM_LABELS),
  nv_dpo: nvgpt('\n', null),
};
