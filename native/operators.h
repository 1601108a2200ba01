#pragma once
#include "addon.h"

namespace neva {

// (name "aten::add.Tensor") → operator number
napi_value find_operator(Call& call);
// (operator number) → its schema as PyTorch prints it
napi_value operator_schema(Call& call);
// (operator number, ...arguments) → handle | handle[] | number | boolean | null, undefined for in-place operators
napi_value call_operator(Call& call);

}  // namespace neva
