/** A trained model with everything that asking it takes: tokenizer, template, how pictures are prepared. */

import { isCheckpoint, readCheckpoint } from '../checkpoint/folder.ts';
import { localPath } from '../checkpoint/hub.ts';
import { addTower, isModel, openWhole } from '../checkpoint/parts.ts';
import { openWeights } from '../checkpoint/weights.ts';
import type { NevaConfig } from '../config/index.ts';
import { type Aspect, imageStatistics, loadImage } from '../data/images.ts';
import type { SourceOptions } from '../data/source.ts';
import { type Compat, findTemplate, type Template } from '../data/templates.ts';
import { loadTokenizer, type Tokenizer } from '../data/tokenizer.ts';
import type { Engine } from '../engine/engine.ts';
import { openEngine } from '../engine/open.ts';
import { mistake } from '../errors.ts';
import { NevaModel } from '../model/neva.ts';
import { featuresPerImage, positionLimit } from '../model/shapes.ts';
import { newestCheckpoint } from '../report/run_folder.ts';

interface Asked {
  /** Checkpoint, run, experiment or Hugging Face folder. */
  path: string;
  /** The language model, where `path` holds none and refers to none. */
  languageModel: string | null;
  /** Used where the model itself does not say how it was trained. */
  template: string;
  templateCompat: Compat;
  imageToFront: boolean;
}

export interface LoadedModel {
  path: string;
  model: NevaModel;
  tokenizer: Tokenizer;
  template: Template;
  /** [3, S, S] of an image file. */
  picture: (path: string) => Promise<Float32Array>;
  /** What reading a data set for this model takes, besides where it is. */
  source: Omit<SourceOptions, 'dataPath' | 'imageFolder'>;
}

/** neva_model_file, loaded on the engine that the configuration asks for. Throws a user error where no model is named. */
export async function openModel(config: NevaConfig, verb: string): Promise<{ engine: Engine; loaded: LoadedModel }> {
  const { neva_model_file: path, base_model_file: languageModel, model } = config;
  if (!path) throw mistake({ where: `neva ${verb}`, problem: 'no model is named', fix: '--model FOLDER' });
  const { conv_template: template, template_compat: templateCompat, sep_image_conv_front: imageToFront } = model.data;
  const engine = await openEngine(config.trainer);
  return { engine, loaded: loadModel(engine, { path, languageModel, template, templateCompat, imageToFront }) };
}

function loadModel(engine: Engine, asked: Asked): LoadedModel {
  const local = localPath(asked.path);
  const path = isModel(local) ? local : newestCheckpoint(local);
  const whole = openWhole(path);
  addTower(whole, null);
  const llm = whole.parts.llm ?? (asked.languageModel ? openWeights(asked.languageModel) : undefined);
  const { vision, projector } = whole.parts;
  const shapes = whole.config;
  if (!llm || !vision || !projector || !shapes?.llm || !shapes.vision || !shapes.projector) {
    const missing = Object.entries({ 'language model': llm, 'vision tower': vision, projector }).flatMap(
      ([name, part]) => (part ? [] : [name]),
    );
    throw mistake({
      where: path,
      problem: 'it is not a whole model',
      expected: 'language model, vision tower and projector',
      found: missing.length > 0 ? `no ${missing.join(', no ')}` : 'no config.json with the shapes of all three',
      fix: 'name a checkpoint of neva finetune or a whole LLaVA folder (base_model_file=… gives a language model)',
    });
  }
  const tokenizerFolder = whole.tokenizerFolder ?? llm.tokenizerFolder;
  if (!tokenizerFolder) throw mistake({ where: path, problem: 'there is no tokenizer beside the model' });
  const state = isCheckpoint(path) ? readCheckpoint(path) : null;
  const tokenizer = loadTokenizer(tokenizerFolder, state?.additionalTokens ?? []);
  // Tokens that were added to a frozen language model have no rows in its files.
  const vocabSize = Math.max(shapes.llm.vocabSize, tokenizer.vocabSize);
  const statistics = imageStatistics(vision.path);
  const model = new NevaModel(
    engine,
    { llm: { ...shapes.llm, vocabSize }, vision: shapes.vision, projector: shapes.projector },
    {
      sources: {
        vision_encoder: vision.source(engine, 'vision'),
        projector: projector.source(engine, 'projector'),
        llm: llm.source(engine, 'llm'),
      },
    },
  );
  const imageOptions = {
    imageSize: shapes.vision.imageSize,
    aspect: (state?.imageAspect ?? 'pad') as Aspect,
    ...(statistics ? { imageMean: statistics.mean, imageStd: statistics.std } : {}),
  };
  const source = {
    ...imageOptions,
    tokenizerFolder,
    additionalTokens: state?.additionalTokens ?? [],
    template: state?.template ?? asked.template,
    templateCompat: state?.templateCompat ?? asked.templateCompat,
    maxLength: positionLimit(shapes.llm),
    featuresPerImage: featuresPerImage(shapes.vision),
    useImStartEnd: state?.useImStartEnd ?? false,
    imageToFront: state?.imageToFront ?? asked.imageToFront,
  };
  return {
    path,
    model,
    tokenizer,
    template: findTemplate(source.template, source.templateCompat),
    picture: (file) => loadImage(file, imageOptions),
    source,
  };
}
