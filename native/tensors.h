#pragma once
#include "addon.h"

namespace neva {

napi_value from_bytes(Call& call);   // (typed array, shape, dtype) → tensor on the CPU, a copy
napi_value from_file(Call& call);    // (path, byte offset, shape, dtype) → tensor over the mapped file, no copy
napi_value read_bytes(Call& call);   // (tensor) → ArrayBuffer with its values, contiguous, own dtype
napi_value item(Call& call);         // (one-element tensor) → number
napi_value shape(Call& call);        // (tensor) → number[]
napi_value dtype(Call& call);        // (tensor) → "float32" …
napi_value device(Call& call);       // (tensor) → "cpu", "cuda:0" …
napi_value free_tensor(Call& call);  // (tensor)
napi_value live_count(Call& call);   // () → handles alive

}  // namespace neva
