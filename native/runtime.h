#pragma once
#include "addon.h"

namespace neva {

napi_value versions(Call& call);           // () → {torch, cuda, gpus, nccl, cpuCapability}
napi_value set_threads(Call& call);        // (n)
napi_value set_tf32(Call& call);
napi_value set_gpu(Call& call);            // (index) the one that this process computes on
napi_value threads(Call& call);            // () → n
napi_value manual_seed(Call& call);        // (seed) of the CPU's and every CUDA generator
napi_value rng_state(Call& call);          // () → ArrayBuffer, the CPU generator's
napi_value set_rng_state(Call& call);      // (bytes)

}  // namespace neva
