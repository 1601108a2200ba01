#pragma once
#include "addon.h"

namespace neva {

// Each can be differentiated. `group` is a process group's number.
napi_value tp_enter(Call& call);          // (group, x) → x; the gradient is summed over the ranks
napi_value tp_leave(Call& call);          // (group, x) → the sum over the ranks; the gradient is passed on as it is
napi_value tp_gather_rows(Call& call);    // (group, own rows [R, C], n) → the first n of all rows [n, C]
napi_value tp_scatter_rows(Call& call);   // (group, summands [n, C]) → own rows [R, C] of their sum, R = ⌈n/size⌉
// (group, logits of own tokens [M, V'], targets [M] int64, first own token) → sum of the losses, a float32 scalar
napi_value tp_cross_entropy(Call& call);

}  // namespace neva
