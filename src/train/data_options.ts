/** What the data part needs to know, from configuration and the model's shape. */
import type { NevaConfig } from '../config/index.ts';
import { imageStatistics } from '../data/images.ts';
import type { DataOptions } from '../data/loader.ts';
import { mistake } from '../errors.ts';
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
  if (!data.data_path) {
    throw mistake({ where: 'model.data.data_path', problem: 'not set', fix: 'model.data.data_path=FILE.json' });
  }
  const statistics = visionFolder ? imageStatistics(visionFolder) : null;
  return {
    dataPath: data.data_path,
    imageFolder: data.image_folder,
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
    microBatchSize: m.micro_batch_size,
    globalBatchSize: m.global_batch_size,
    dataParallelRank: 0,
    dataParallelSize: 1,
    seed: m.seed,
    dataloaderType: data.dataloader_type,
    prefetchBatches: data.prefetch_batches,
    onError: data.on_error,
    maxBadFraction: data.max_bad_fraction,
  };
}
