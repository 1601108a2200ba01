/** The pieces that a rendered conversation is made of. */

export const IMAGE_TAG = '<image>';

export interface Turn {
  from: 'human' | 'gpt';
  text: string;
  /** SteerLM's attribute line of an answer, for the nv templates. */
  label?: string;
}

export interface Conversation {
  turns: readonly Turn[];
  /** Takes the place of the template's own system text. */
  system?: string;
}

export interface Segment {
  text: string;
  /** The model learns to produce this segment. */
  loss: boolean;
  /** Instead of text: the tokenizer's special token, or the features of the record's next image. */
  special?: 'bos' | 'eos' | 'image';
}

/** Collects segments; `<image>` tags inside a text become image segments. */
export class Writer {
  readonly segments: Segment[] = [];

  text(text: string, loss = false): void {
    text.split(IMAGE_TAG).forEach((part, index) => {
      if (index > 0) this.segments.push({ text: IMAGE_TAG, loss: false, special: 'image' });
      if (part !== '') this.segments.push({ text: part, loss });
    });
  }
  /** Text in the loss. */
  answer(text: string): void {
    this.text(text, true);
  }
  bos(): void {
    this.segments.push({ text: '', loss: false, special: 'bos' });
  }
  /** The end-of-text token after an answer, in the loss. */
  eos(): void {
    this.segments.push({ text: '', loss: true, special: 'eos' });
  }
}
