// Who is where: every rank posts what it is at, twice a second, so that a rank which waits in vain can say for whom.
#pragma once
#include "addon.h"

#include <torch/csrc/distributed/c10d/Store.hpp>

namespace neva {

// Begins to post under `key`; `store`, kept at `where`, is a connection of its own. The first call of a process counts. From then on a failure
// in a thread of LibTorch's ends the process with one line that says where the ranks were.
void watch_begin(const c10::intrusive_ptr<c10d::Store>& store, int rank, int size, const std::string& who,
                 const std::string& key, const std::string& where);
// No more posts; returns when the last is through. Before the store goes in good order.
void watch_end();
// This rank belongs to a group, whose ranks all name it alike.
void watch_group(const std::string& group);
// It has begun message number `number` (from 1) of a group.
void watch_message(const std::string& group, int64_t number, const std::string& what);

// While it lives, this rank waits in a message of `group`. One that ends by an exception leaves the wait standing.
class Waiting {
 public:
  Waiting(const std::string& group, const std::string& what);
  ~Waiting();
  Waiting(const Waiting&) = delete;
  Waiting& operator=(const Waiting&) = delete;

 private:
  int failing_;
};

// What keeps the others, as far as it can be known; takes up to four seconds. Empty where nothing is known.
std::string watch_others();

napi_value moment(Call& call);  // (what the run is at: "step 7")
napi_value others(Call& call);  // () → watch_others

}  // namespace neva
