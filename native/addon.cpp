// Everything that JavaScript can call, in one table.
#include "addon.h"
#include "autograd.h"
#include "distributed.h"
#include "flash_attention.h"
#include "memory.h"
#include "operators.h"
#include "runtime.h"
#include "tensor_parallel.h"
#include "tensors.h"
#include "watch.h"

#include <node_api.h>

namespace neva {

static const Export kExports[] = {
    // operators.cpp
    {"findOperator", entry<find_operator>},
    {"operatorSchema", entry<operator_schema>},
    {"call", entry<call_operator>},
    // tensors.cpp
    {"fromBytes", entry<from_bytes>},
    {"fromFile", entry<from_file>},
    {"readBytes", entry<read_bytes>},
    {"item", entry<item>},
    {"shape", entry<shape>},
    {"dtype", entry<dtype>},
    {"device", entry<device>},
    {"free", entry<free_tensor>},
    {"liveTensors", entry<live_count>},
    // autograd.cpp
    {"detach", entry<detach>},
    {"setRequiresGrad", entry<set_requires_grad>},
    {"requiresGrad", entry<requires_grad>},
    {"setGradEnabled", entry<set_grad_enabled>},
    {"ownsMemory", entry<owns_memory>},
    {"gradients", entry<gradients>},
    // flash_attention.cpp
    {"flashDtypes", entry<flash_dtypes>},
    // runtime.cpp
    {"versions", entry<versions>},
    {"setThreads", entry<set_threads>},
    {"setTf32", entry<set_tf32>},
    {"setGpu", entry<set_gpu>},
    {"threads", entry<threads>},
    {"manualSeed", entry<manual_seed>},
    {"rngState", entry<rng_state>},
    {"setRngState", entry<set_rng_state>},
    // distributed.cpp
    {"openGroup", entry<open_group>},
    {"closeGroup", entry<close_group>},
    {"allReduce", entry<all_reduce>},
    {"broadcast", entry<broadcast>},
    {"allGather", entry<all_gather>},
    {"reduceScatter", entry<reduce_scatter>},
    {"send", entry<send>},
    {"receive", entry<receive>},
    {"barrier", entry<barrier>},
    {"workDone", entry<work_done>},
    {"waitWork", entry<wait_work>},
    {"traffic", entry<traffic>},
    {"digest", entry<digest>},
    // watch.cpp
    {"moment", entry<moment>},
    {"others", entry<others>},
    // tensor_parallel.cpp
    {"tpEnter", entry<tp_enter>},
    {"tpLeave", entry<tp_leave>},
    {"tpGatherRows", entry<tp_gather_rows>},
    {"tpScatterRows", entry<tp_scatter_rows>},
    {"tpCrossEntropy", entry<tp_cross_entropy>},
    // memory.cpp
    {"memory", entry<memory>},
    {"deviceMemory", entry<device_memory>},
    {"resetPeakMemory", entry<reset_peak_memory>},
};

static napi_value init(napi_env env, napi_value exports) {
  install_cpu_allocator();
  for (const Export& item : kExports) {
    napi_value function;
    if (napi_create_function(env, item.name, NAPI_AUTO_LENGTH, item.callback, nullptr, &function) != napi_ok) return nullptr;
    if (napi_set_named_property(env, exports, item.name, function) != napi_ok) return nullptr;
  }
  return exports;
}

}  // namespace neva

NAPI_MODULE(neva, neva::init)
