/** What the data part needs to know, from configuration and the model's shape. */
import type { NevaConfig } from '../config/index.ts';
import { imageStatistics } from '../data/images.ts';
import type { DataOptions } from '../data/loader.ts';
import { mistake } from '../errors.ts';
import { userCache } from '../files.ts';
import { featuresPerImage, type VisionShape } from '../model/shapes.ts';

export interface DataModel {
  vision: VisionShape;
  tokenizerFolder: string;
  /** Whose preprocessor_config.json applies; null when the tower starts at random. */
  visionFolder: string | null;
}

export function dataOptions(
  { model: m }: NevaConfig,
  { vision, tokenizerFolder, visionFolder }: DataModel,
): DataOptions {
  const { data } = m;
  const blend = data.blend?.map((set, at) => ({
    dataPath: required(set.data_path, `model.data.blend[${at}].data_path`),
    imageFolder: set.image_folder ?? data.image_folder,
    weight: set.weight,
  }));
  const dataPath = blend
    ? blend.map((set) => set.dataPath).join(', ')
    : required(data.data_path, 'model.data.data_path');
  const statistics = visionFolder ? imageStatistics(visionFolder) : null;
  return {
    dataPath,
    imageFolder: data.image_folder,
    ...(blend ? { blend } : {}),
    tokenizerFolder,
    additionalTokens: m.tokenizer.additional_special_tokens ?? [],
    template: data.conv_template,
    templateCompat: data.template_compat,
    maxLength: m.encoder_seq_length,
    imageSize: vision.imageSize,
    featuresPerImage: featuresPerImage(vision),
    aspect: data.image_aspect_ratio,
    ...(statistics ? { imageMean: statistics.mean, imageStd: statistics.std } : {}),
    useImStartEnd: m.mm_cfg.use_im_start_end,
    imageToFront: data.sep_image_conv_front,
    microBatchSize: m.micro_batch_size,
    globalBatchSize: m.global_batch_size,
    dataParallelRank: 0,
    dataParallelSize: 1,
    seed: m.seed,
    dataloaderType: data.dataloader_type,
    poolBatches: data.group_pool_batches,
    cacheFolder: userCache(),
    ...(data.validation_fraction > 0 ? { part: 'train', validationFraction: data.validation_fraction } : {}),
    packed: data.packed_sequence,
    packPrefix: data.data_prefix,
    prefetchBatches: data.prefetch_batches,
    onError: data.on_error,
    maxBadFraction: data.max_bad_fraction,
    checkAtStart: data.check_at_start,
  };
}

/** What a run validates on: records of their own, those that training leaves out, or (null) nothing. */
export function validationOptions({ model: { data } }: NevaConfig, training: DataOptions): DataOptions | null {
  // Packs that were made beforehand are of the training data.
  const { blend: _, part: __, packPrefix: ___, ...rest } = training;
  if (data.validation_data_path !== null) {
    return {
      ...rest,
      dataPath: data.validation_data_path,
      imageFolder: data.validation_image_folder ?? data.image_folder,
    };
  }
  return data.validation_fraction > 0 ? { ...training, packPrefix: null, part: 'validation' } : null;
}

function required(path: string | null, where: string): string {
  if (path) return path;
  throw mistake({ where, problem: 'not set', fix: `${where}=FILE.json` });
}
