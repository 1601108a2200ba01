#pragma once
#include "addon.h"

namespace neva {

napi_value detach(Call& call);             // (tensor) → the same values off the tape
napi_value set_requires_grad(Call& call);  // (leaf tensor, boolean)
napi_value requires_grad(Call& call);      // (tensor) → boolean
napi_value owns_memory(Call& call);        // (tensor) → dense, and nothing else shares its memory
napi_value set_grad_enabled(Call& call);   // (boolean) → what it was
// (outputs[], gradient|null per output, inputs[]) → gradient|null per input; frees the tape behind the outputs
napi_value gradients(Call& call);

}  // namespace neva
