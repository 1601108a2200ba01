/** A whole plan: whether a run fits, how long it takes, what it costs. */
import { typicalMicro } from './activations.ts';
import type { Hardware } from './hardware.ts';
import { type Memory, predictMemory } from './memory.ts';
import { type Setting, worldOf } from './setting.ts';
import { predictTime, type StepTime } from './time.ts';

export interface Plan {
  memory: Memory;
  /** With every record of a micro batch as long as the context. */
  longest: Memory;
  /** Bytes that a rank may use; null where that is not known. */
  available: number | null;
  fits: boolean | null;
  step: StepTime;
  samplesPerSecond: number;
  tokensPerSecond: number;
  /** FLOPs that cannot be avoided, as a share of all devices' peak. */
  mfu: number;
  /** Of all steps; null where only the data say how many. */
  hours: number | null;
  cost: number | null;
}

export interface PlanOptions {
  contextLength: number;
  /** Bytes of a device. */
  memory: number | null;
  /** Of a device. */
  pricePerHour: number | null;
}

export function makePlan(
  setting: Setting,
  hardware: Hardware,
  { contextLength, memory, pricePerHour }: PlanOptions,
): Plan {
  const predicted = predictMemory(setting);
  const step = predictTime(setting, hardware);
  const devices = worldOf(setting);
  const available = memory === null ? null : memory - hardware.reserved;
  const hours = setting.steps === null ? null : (setting.steps * step.total) / 3600;
  return {
    memory: predicted,
    longest: predictMemory(setting, { ...typicalMicro(setting), length: contextLength }),
    available,
    fits: available === null ? null : predicted.peak <= available,
    step,
    samplesPerSecond: setting.globalBatch / step.total,
    tokensPerSecond: (setting.globalBatch * setting.record.length) / step.total,
    mfu: step.flops / step.total / (devices * hardware.peak[setting.precision]),
    hours,
    cost: hours === null || pricePerHour === null ? null : hours * devices * pricePerHour,
  };
}
