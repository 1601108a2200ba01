// neva::flash_attention, and the dtypes that it takes on this processor: none where there is no AVX-512.
#pragma once
#include "addon.h"

namespace neva {

napi_value flash_dtypes(Call& call);

}  // namespace neva
