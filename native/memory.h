#pragma once
#include "addon.h"

namespace neva {

// Replaces LibTorch's CPU allocator for the life of the process; call before the first tensor is made.
void install_cpu_allocator();

napi_value memory(Call& call);             // () → {bytes, peakBytes, cachedBytes} of the CPU allocator
napi_value device_memory(Call& call);  // () → {bytes, peakBytes} of the first GPU, or null
napi_value reset_peak_memory(Call& call);  // ()

}  // namespace neva
