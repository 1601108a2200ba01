/** What stands between the two linear layers of a block's MLP, under NeMo's names (model.activation). */
import type { Engine, Tensor } from '../engine/engine.ts';
import type { Activation } from './shapes.ts';

/** Whether the MLP has a gate beside `up`: its inside is f(gate)·up. */
export const isGated = (activation: Activation): boolean => activation.endsWith('glu');

/** [..., F] from the projections of the input, [..., F] each; `gate` where the activation has one. */
export function activate(engine: Engine, activation: Activation, up: Tensor, gate: Tensor | null): Tensor {
  switch (activation) {
    case 'swiglu':
      return engine.siluMul(gate!, up);
    case 'geglu':
      return engine.mul(engine.gelu(gate!), up);
    case 'reglu':
      return engine.mul(engine.relu(gate!), up);
    case 'squared-relu': {
      const positive = engine.relu(up);
      return engine.mul(positive, positive);
    }
    case 'gelu':
      return engine.gelu(up);
    case 'gelu-tanh':
      return engine.geluTanh(up);
  }
}
