#include "watch.h"

#include <unistd.h>

#include <chrono>
#include <deque>
#include <exception>
#include <future>
#include <map>
#include <mutex>
#include <optional>
#include <sstream>
#include <thread>

namespace neva {
namespace {

using Store = c10::intrusive_ptr<c10d::Store>;

constexpr auto kPeriod = std::chrono::milliseconds(500);
// Between two looks: who has posted nothing in it is no longer there, even on a machine that is very busy.
constexpr auto kBetween = std::chrono::milliseconds(1800);
constexpr auto kPatience = std::chrono::milliseconds(4000);
// Messages that are remembered of each group: ranks that differ do so in one of the last.
constexpr size_t kHistory = 8;

// What a rank posts. Messages of a group are counted from 1.
struct Place {
  int64_t beat = 0;
  std::string who;
  std::string moment = "the beginning";
  std::string group;    // of the message that is waited for
  std::string waiting;  // for what; empty while it computes
  std::string last;     // what it waited for before
  struct Messages {
    int64_t number = 0;  // of the last that was begun
    std::deque<std::string> last;
  };
  std::map<std::string, Messages> groups;
};

// Never destroyed: the thread that posts ends with the process.
std::mutex& mutex = *new std::mutex;
Place& own = *new Place;
Store& connection = *new Store;
std::string& keys = *new std::string;
std::string& meeting_point = *new std::string;
std::mutex& posting = *new std::mutex;
bool ended = false;
int own_rank = 0;
int world = 1;

std::string line(std::string text) {
  for (char& c : text) {
    if (c == '\n' || c == '\t') c = ' ';
  }
  return text;
}

std::string write(const Place& place) {
  std::ostringstream out;
  out << place.beat << '\n';
  for (const auto* text : {&place.who, &place.moment, &place.group, &place.waiting, &place.last}) out << line(*text) << '\n';
  for (const auto& [name, messages] : place.groups) {
    out << line(name) << '\t' << messages.number;
    for (const auto& message : messages.last) out << '\t' << line(message);
    out << '\n';
  }
  return out.str();
}

Place read(const std::vector<uint8_t>& bytes) {
  Place place;
  std::istringstream in(std::string(bytes.begin(), bytes.end()));
  std::string text;
  std::getline(in, text);
  place.beat = std::stoll(text);
  for (auto* field : {&place.who, &place.moment, &place.group, &place.waiting, &place.last}) std::getline(in, *field);
  while (std::getline(in, text)) {
    std::istringstream parts(text);
    std::string name, number, message;
    std::getline(parts, name, '\t');
    std::getline(parts, number, '\t');
    auto& messages = place.groups[name];
    messages.number = std::stoll(number);
    while (std::getline(parts, message, '\t')) messages.last.push_back(message);
  }
  return place;
}

std::string key(int rank) { return keys + std::to_string(rank); }

void post() {
  std::lock_guard<std::mutex> one(posting);
  if (ended) return;
  std::string text;
  {
    std::lock_guard<std::mutex> lock(mutex);
    own.beat += 1;
    text = write(own);
  }
  connection->set(key(own_rank), text);
}

// Where every rank was when it last posted; none of one that never has.
std::vector<std::optional<Place>> look() {
  std::vector<std::optional<Place>> places(world);
  for (int rank = 0; rank < world; ++rank) {
    if (connection->check({key(rank)})) places[rank] = read(connection->get(key(rank)));
  }
  return places;
}

std::string activity(const Place& place) {
  if (!place.waiting.empty()) return "at " + place.moment + ", where it waits for " + place.waiting;
  return "at " + place.moment + (place.last.empty() ? ", before its first message" : ", after " + place.last);
}

// The first of the messages that both remember in which they differ; 0 where there is none.
int64_t parting(const Place::Messages& mine, const Place::Messages& theirs) {
  const auto first = [](const Place::Messages& of) { return of.number - static_cast<int64_t>(of.last.size()) + 1; };
  for (int64_t n = std::max(first(mine), first(theirs)); n <= std::min(mine.number, theirs.number); ++n) {
    if (mine.last[n - first(mine)] != theirs.last[n - first(theirs)]) return n;
  }
  return 0;
}

const std::string& message(const Place::Messages& of, int64_t n) { return of.last[n - 1 - of.number + of.last.size()]; }

std::string joined(const std::vector<std::string>& parts) {
  std::string all;
  for (const auto& part : parts) all += (all.empty() ? "" : "; ") + part;
  return all;
}

// The ranks in other messages, else those that are gone or silent, else those that have not come, else all that wait.
std::string explain(const Place& mine, const std::vector<std::optional<Place>>& before,
                    const std::vector<std::optional<Place>>& now) {
  std::vector<std::string> silent, parted, late, idle, waiting;
  for (int rank = 0; rank < world; ++rank) {
    if (rank == own_rank) continue;
    if (!now[rank]) {
      silent.push_back("rank " + std::to_string(rank) + " of " + std::to_string(world) + " has never come");
      continue;
    }
    const Place& other = *now[rank];
    if (before[rank] && before[rank]->beat == other.beat) {
      silent.push_back(other.who + " does not answer any more: it is stopped, gone or cut off, and was last heard of " + activity(other));
    }
    const auto ours = mine.groups.find(mine.group);
    const auto theirs = other.groups.find(mine.group);
    if (ours != mine.groups.end() && theirs != other.groups.end()) {
      const int64_t n = parting(ours->second, theirs->second);
      if (n > 0) {
        parted.push_back("message " + std::to_string(n) + " of " + mine.group + " is " + message(ours->second, n) +
                         " here, and " + message(theirs->second, n) + " on " + other.who + ", which is " + activity(other));
      } else if (theirs->second.number < ours->second.number) {
        late.push_back(other.who + " has not come to it: it is " + activity(other));
      }
    }
    (other.waiting.empty() ? idle : waiting).push_back(other.who + " is " + activity(other));
  }
  for (const auto* found : {&parted, &silent, &late, &idle, &waiting}) {
    if (!found->empty()) return joined(*found);
  }
  return "";
}

// A thread of LibTorch's has failed: there is nobody to catch it.
[[noreturn]] void on_terminate() {
  std::string reason = "for a reason that is not known";
  try {
    if (const auto error = std::current_exception()) std::rethrow_exception(error);
  } catch (const std::exception& error) {
    reason = error.what();
  } catch (...) {
  }
  reason = reason.substr(0, reason.find('\n'));
  const std::string others = watch_others();
  std::string who, moment;
  {
    std::lock_guard<std::mutex> lock(mutex);
    who = own.who;
    moment = own.waiting.empty() ? own.moment : own.moment + ", waiting for " + own.waiting;
  }
  const std::string text = "neva: " + who + " ends, at " + moment + ": " + (others.empty() ? "" : others + ": ") + line(reason) + "\n";
  if (::write(2, text.data(), text.size()) < 0) ::_exit(1);
  ::_exit(1);
}

}  // namespace

void watch_begin(const Store& store, int rank, int size, const std::string& who, const std::string& key,
                 const std::string& where) {
  if (connection) return;
  own.who = who;
  own_rank = rank;
  world = size;
  keys = key;
  meeting_point = where;
  connection = store;
  post();
  std::set_terminate(on_terminate);
  std::thread([] {
    try {
      for (;;) {
        std::this_thread::sleep_for(kPeriod);
        post();
      }
    } catch (const std::exception&) {
      // The store is gone, and rank 0 with it: what waits for it will say so.
    }
  }).detach();
}

void watch_end() {
  std::lock_guard<std::mutex> one(posting);
  ended = true;
}

void watch_group(const std::string& group) {
  std::lock_guard<std::mutex> lock(mutex);
  own.groups[group];
}

void watch_message(const std::string& group, int64_t number, const std::string& what) {
  std::lock_guard<std::mutex> lock(mutex);
  auto& messages = own.groups[group];
  messages.number = number;
  messages.last.push_back(what);
  if (messages.last.size() > kHistory) messages.last.pop_front();
}

Waiting::Waiting(const std::string& group, const std::string& what) : failing_(std::uncaught_exceptions()) {
  std::lock_guard<std::mutex> lock(mutex);
  own.group = group;
  own.waiting = what;
}

Waiting::~Waiting() {
  if (std::uncaught_exceptions() > failing_) return;
  std::lock_guard<std::mutex> lock(mutex);
  own.last = std::move(own.waiting);
  own.waiting.clear();
}

std::string watch_others() {
  if (!connection) return "";
  // The store may not answer: its rank is stopped or cut off.
  auto found = std::make_shared<std::promise<std::string>>();
  auto answer = found->get_future();
  std::thread([found] {
    try {
      const auto before = look();
      std::this_thread::sleep_for(kBetween);
      const auto now = look();
      Place mine;
      {
        std::lock_guard<std::mutex> lock(mutex);
        mine = own;
      }
      found->set_value(explain(mine, before, now));
    } catch (const std::exception&) {
      found->set_value("rank 0, at whose store the ranks meet (" + meeting_point + "), has gone");
    }
  }).detach();
  if (answer.wait_for(kPatience) == std::future_status::ready) return answer.get();
  return "rank 0, at whose store the ranks meet (" + meeting_point + "), does not answer any more: it is stopped or cut off";
}

napi_value moment(Call& call) {
  const std::string text = as_string(call.env, call[0], "moment");
  std::lock_guard<std::mutex> lock(mutex);
  own.moment = text;
  return nullptr;
}

napi_value others(Call& call) { return string(call.env, watch_others()); }

}  // namespace neva
