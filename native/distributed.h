#pragma once
#include "addon.h"

namespace neva {

// (host, port, rank, size, timeout in ms, is the store's server, key prefix, address or "", interface or "",
// who this is, for messages; number of this rank's GPU, −1 for none,
// name of the group, the same on all its ranks) → group.
// Blocks until all ranks are there.
napi_value open_group(Call& call);
napi_value close_group(Call& call);     // (group)
// Each starts and returns a work number; its tensors must not be touched before `waitWork` or be freed by it alone.
napi_value all_reduce(Call& call);      // (group, tensors[]) sums over ranks, in place, as one message
napi_value broadcast(Call& call);       // (group, tensor, root)
napi_value all_gather(Call& call);      // (group, input [n], output [size·n])
napi_value reduce_scatter(Call& call);  // (group, input [size·n], output [n]) sums
napi_value send(Call& call);            // (group, tensor, rank, tag)
napi_value receive(Call& call);         // (group, tensor, rank, tag)
napi_value barrier(Call& call);         // (group)
napi_value work_done(Call& call);       // (work) → boolean
// (group) → for each Kind of process_groups.h, in its order: messages, bytes
napi_value traffic(Call& call);
napi_value digest(Call& call);          // (group) → number, of all messages so far, the same on all its ranks
napi_value wait_work(Call& call);       // (work, what is waited for) blocks; throws what went wrong, and forgets the work either way

}  // namespace neva
