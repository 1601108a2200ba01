// Flash attention on the CPU (Dao et al. 2022; Dao 2023): scores live in blocks of 64 queries × 64 keys, never whole, so memory grows
// with the sequence, not with its square. Products go to oneDNN (block_products.h), where LibTorch's own flash attention goes to MKL.
// Grouped queries read their group's keys in place, and a packed row is attended record by record in one call.
#include "flash_attention.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <vector>

#include "block_products.h"

namespace neva {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// One row of the online softmax over a block: s [width] scores of which the first `visible` count, m and l the row's running maximum and
// sum, acc [D] what has been mixed so far. p [width] becomes e^(scale·s − m).
template <typename T>
NEVA_CLONES void softmax_row(float* s, T* p, int64_t visible, int64_t width, float scale, float* m, float* l, float* acc, int64_t D) {
  for (int64_t c = visible; c < width; ++c) s[c] = -kInfinity;
  float lanes[kLanes];
  for (int i = 0; i < kLanes; ++i) lanes[i] = s[i];
  for (int64_t c = kLanes; c < width; c += kLanes) {
    for (int i = 0; i < kLanes; ++i) lanes[i] = s[c + i] > lanes[i] ? s[c + i] : lanes[i];
  }
  float high = *m;
  for (float lane : lanes) high = lane * scale > high ? lane * scale : high;
  const float factor = *m == -kInfinity ? 0.0f : exp_of(*m - high);
  for (int64_t c = 0; c < width; ++c) s[c] = exp_of(s[c] * scale - high);
  for (int64_t c = visible; c < width; ++c) s[c] = 0;  // e^-87 is not quite 0
  float sums[kLanes] = {};
  for (int64_t c = 0; c < width; c += kLanes) {
    for (int i = 0; i < kLanes; ++i) sums[i] += s[c + i];
  }
  float sum = 0;
  for (float lane : sums) sum += lane;
  for (int64_t c = 0; c < width; ++c) p[c] = static_cast<T>(s[c]);
  if (factor != 1.0f) {
    for (int64_t d = 0; d < D; ++d) acc[d] *= factor;
  }
  *l = *l * factor + sum;
  *m = high;
}

template <typename T>
NEVA_CLONES void scaled_row(const float* from, float factor, T* to, int64_t size) {
  for (int64_t i = 0; i < size; ++i) to[i] = static_cast<T>(from[i] * factor);
}

// One key's row of a block in the backward pass: s [width] its scores with as many queries, dp [width] its products of dO and V. Queries before
// `first` do not see the key. p = e^(scale·s − lse), ds = scale · p · (dp − delta).
template <typename T>
NEVA_CLONES void gradient_row(const float* s, const float* dp, const float* lse, const float* delta, float scale, int64_t first,
                              int64_t width, T* p, T* ds) {
  for (int64_t c = 0; c < width; ++c) {
    const float seen = c >= first ? exp_of(s[c] * scale - lse[c]) : 0.0f;
    p[c] = static_cast<T>(seen);
    ds[c] = static_cast<T>(seen * (dp[c] - delta[c]) * scale);
  }
}

template <typename T>
NEVA_CLONES float dot(const T* a, const T* b, int64_t size) {
  float lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    for (int l = 0; l < kLanes; ++l) lanes[l] += static_cast<float>(a[i + l]) * static_cast<float>(b[i + l]);
  }
  float sum = 0;
  for (; i < size; ++i) sum += static_cast<float>(a[i]) * static_cast<float>(b[i]);
  for (float lane : lanes) sum += lane;
  return sum;
}

// A tensor [B, H, T, D] whose rows of D are dense.
template <typename T>
struct Heads {
  T* data;
  int64_t batch, head, row;
  Heads(const Tensor& x, T* data) : data(data), batch(x.stride(0)), head(x.stride(1)), row(x.stride(2)) {}
  T* at(int64_t b, int64_t h, int64_t t) const { return data + b * batch + h * head + t * row; }
};
template <typename T>
Heads<const T> reading(const Tensor& x) { return {x, x.const_data_ptr<T>()}; }
template <typename T>
Heads<T> writing(const Tensor& x) { return {x, x.mutable_data_ptr<T>()}; }

// Queries and keys that belong together. The last query sees the last key.
struct Record {
  int64_t batch, first_query, queries, first_key, keys;
  int64_t later() const { return keys - queries; }
  int64_t query_blocks() const { return (queries + kBlock - 1) / kBlock; }
  int64_t key_blocks() const { return (keys + kBlock - 1) / kBlock; }
};

std::vector<Record> records_of(const Tensor& q, const Tensor& k, at::IntArrayRef lengths) {
  std::vector<Record> records;
  if (lengths.empty()) {
    for (int64_t b = 0; b < q.size(0); ++b) records.push_back({b, 0, q.size(2), 0, k.size(2)});
    return records;
  }
  int64_t at = 0;
  for (int64_t length : lengths) {
    if (length > 0) records.push_back({0, at, length, at, length});
    at += length;
  }
  return records;
}

// Runs body(0), …, body(count − 1); a thread that is done takes the next.
template <typename T, typename Body>
void each_task(int64_t count, const Body& body) {
  std::atomic<int64_t> next{0};
  at::parallel_for(0, std::min<int64_t>(count, at::get_num_threads()), 1, [&](int64_t, int64_t) {
    for (int64_t task = next++; task < count; task = next++) body(task);
    end_products<T>();
  });
}

// [B, T, H, D] in memory, seen as [B, H, T, D]: the next projection then copies nothing.
Tensor like_projections(const Tensor& x) {
  return at::empty({x.size(0), x.size(2), x.size(1), x.size(3)}, x.options()).transpose(1, 2);
}

// Where each record's blocks begin in a buffer that holds those of all.
template <typename Count>
std::vector<int64_t> offsets(const std::vector<Record>& records, const Count& count) {
  std::vector<int64_t> out{0};
  for (const Record& record : records) out.push_back(out.back() + count(record));
  return out;
}

// The record that number `task` belongs to, and its number inside.
std::pair<size_t, int64_t> locate(const std::vector<int64_t>& begin, int64_t task) {
  const size_t record = std::upper_bound(begin.begin(), begin.end(), task) - begin.begin() - 1;
  return {record, task - begin[record]};
}

struct Problem {
  bool causal;
  float scale;
  std::vector<Record> records;
};

// Returns what is mixed [B, H, T, D] and the logarithm of the softmax's sums, float32 [B, H, T].
template <typename T>
std::pair<Tensor, Tensor> forward_pass(const Tensor& q, const Tensor& k, const Tensor& v, const Problem& problem) {
  const int64_t H = q.size(1), G = k.size(1), D = q.size(3);
  const auto& [causal, scale, records] = problem;
  Tensor out = like_projections(q);
  Tensor lse = at::empty({q.size(0), H, q.size(2)}, q.options().dtype(at::kFloat));
  const auto qs = reading<T>(q), ks = reading<T>(k), vs = reading<T>(v);
  const auto outs = writing<T>(out);
  float* lses = lse.mutable_data_ptr<float>();
  const int64_t size = kBlock * D;

  const auto packs = offsets(records, [&](const Record& record) { return G * record.key_blocks(); });
  Tensor packed = at::empty({packs.back(), 2, size}, q.options());
  T* pack = packed.mutable_data_ptr<T>();
  each_task<T>(packs.back(), [&](int64_t task) {
    const auto [number, inside] = locate(packs, task);
    const Record& record = records[number];
    const int64_t group = inside / record.key_blocks(), from = inside % record.key_blocks() * kBlock;
    const int64_t count = std::min(kBlock, record.keys - from);
    T* to = pack + task * 2 * size;
    pack_over_columns(ks.at(record.batch, group, record.first_key + from), ks.row, count, D, to);
    pack_over_rows(vs.at(record.batch, group, record.first_key + from), vs.row, count, D, to + size);
  });

  const auto tasks = offsets(records, [&](const Record& record) { return H * record.query_blocks(); });
  each_task<T>(tasks.back(), [&](int64_t task) {
    const auto [number, inside] = locate(tasks, task);
    const Record& record = records[number];
    const int64_t head = inside / record.query_blocks();
    // The longest first.
    const int64_t from = (record.query_blocks() - 1 - inside % record.query_blocks()) * kBlock;
    const int64_t rows = std::min(kBlock, record.queries - from);
    const int64_t visible = causal ? std::min(record.keys, from + rows + record.later()) : record.keys;
    thread_local std::vector<float> acc, scores(kBlock * kBlock);
    thread_local std::vector<T> mixing(kBlock * kBlock);
    acc.assign(size, 0);
    float high[kBlock], sum[kBlock];
    std::fill_n(high, kBlock, -kInfinity);
    std::fill_n(sum, kBlock, 0.0f);
    const T* own = qs.at(record.batch, head, record.first_query + from);
    const T* block = pack + (packs[number] + head / (H / G) * record.key_blocks()) * 2 * size;
    for (int64_t key = 0; key < visible; key += kBlock, block += 2 * size) {
      const int64_t width = width_of(visible - key);
      product<T>(rows, width, D, own, qs.row, block, kBlock, scores.data(), kBlock, false);
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t last = causal ? std::min(record.keys, from + r + record.later() + 1) : record.keys;
        softmax_row<T>(scores.data() + r * kBlock, mixing.data() + r * kBlock, std::clamp<int64_t>(last - key, 0, width), width,
                       scale, high + r, sum + r, acc.data() + r * D, D);
      }
      product<T>(rows, D, width, mixing.data(), kBlock, block + size, D, acc.data(), D, true);
    }
    float* lse_row = lses + (record.batch * H + head) * q.size(2) + record.first_query + from;
    for (int64_t r = 0; r < rows; ++r) {
      scaled_row<T>(acc.data() + r * D, 1.0f / sum[r], outs.at(record.batch, head, record.first_query + from + r), D);
      lse_row[r] = high[r] + std::log(sum[r]);
    }
  });
  return {out, lse};
}

// All gradients of the heads of one group of one record, in one task: nothing is added up across threads, so their number changes no bit.
// Everything is transposed (keys are rows): the scores then come out as the first operand of dV's and dK's products.
template <typename T>
struct GroupBackward {
  Heads<const T> q, k, v, o, g;
  const float* lse;
  int64_t H, G, D, T_all;
  bool causal;
  float scale;

  void run(const Record& record, int64_t group, Heads<T> dq, Heads<T> dk, Heads<T> dv) const {
    constexpr int64_t pair = Packing<T>::pair;
    const int64_t size = kBlock * D, query_blocks = record.query_blocks(), key_blocks = record.key_blocks();
    std::vector<float> dks(key_blocks * size, 0), dvs(key_blocks * size, 0), dqs(query_blocks * size);
    std::vector<float> scores(kBlock * kBlock), dp(kBlock * kBlock), sums(query_blocks * kBlock), delta(query_blocks * kBlock), rows(size);
    std::vector<T> p(kBlock * kBlock), ds(kBlock * kBlock), paired(kBlock * kBlock);
    std::vector<T> keys(key_blocks * size), packs(query_blocks * 4 * size), turned(size);
    for (int64_t j = 0; j < key_blocks; ++j) {
      const int64_t from = j * kBlock;
      pack_over_columns(k.at(record.batch, group, record.first_key + from), k.row, std::min(kBlock, record.keys - from), D, turned.data());
      unpack_columns(turned.data(), D, keys.data() + j * size);
    }
    for (int64_t head = group * (H / G); head < (group + 1) * (H / G); ++head) {
      std::fill(dqs.begin(), dqs.end(), 0.0f);
      // Beyond the last query the softmax's sum is infinite: every share is 0 there.
      std::fill(sums.begin(), sums.end(), kInfinity);
      std::fill(delta.begin(), delta.end(), 0.0f);
      const float* lse_row = lse + (record.batch * H + head) * T_all + record.first_query;
      std::copy_n(lse_row, record.queries, sums.begin());
      for (int64_t t = 0; t < record.queries; ++t) {
        delta[t] = dot<T>(g.at(record.batch, head, record.first_query + t), o.at(record.batch, head, record.first_query + t), D);
      }
      for (int64_t i = 0; i < query_blocks; ++i) {
        const int64_t from = i * kBlock, count = std::min(kBlock, record.queries - from);
        const T* queries = q.at(record.batch, head, record.first_query + from);
        const T* grads = g.at(record.batch, head, record.first_query + from);
        T* to = packs.data() + i * 4 * size;
        pack_over_columns(queries, q.row, count, D, to);
        pack_over_columns(grads, g.row, count, D, to + size);
        pack_over_rows(queries, q.row, count, D, to + 2 * size);
        pack_over_rows(grads, g.row, count, D, to + 3 * size);
      }
      for (int64_t j = 0; j < key_blocks; ++j) {
        const int64_t key = j * kBlock, count = std::min(kBlock, record.keys - key);
        // Rows beyond the last key stay zero.
        std::fill(p.begin(), p.end(), T(0));
        std::fill(ds.begin(), ds.end(), T(0));
        const T* key_rows = k.at(record.batch, group, record.first_key + key);
        const T* value_rows = v.at(record.batch, group, record.first_key + key);
        const int64_t first = causal ? std::max<int64_t>(0, key - record.later()) / kBlock : 0;
        for (int64_t i = first; i < query_blocks; ++i) {
          const T* pack = packs.data() + i * 4 * size;
          const int64_t width = width_of(record.queries - i * kBlock);
          product<T>(count, width, D, key_rows, k.row, pack, kBlock, scores.data(), kBlock, false);
          product<T>(count, width, D, value_rows, v.row, pack + size, kBlock, dp.data(), kBlock, false);
          for (int64_t r = 0; r < count; ++r) {
            const int64_t sees = causal ? key + r - record.later() - i * kBlock : 0;
            gradient_row<T>(scores.data() + r * kBlock, dp.data() + r * kBlock, sums.data() + i * kBlock, delta.data() + i * kBlock, scale,
                            sees, width, p.data() + r * kBlock, ds.data() + r * kBlock);
          }
          const T* second = ds.data();
          if constexpr (pair == 2) {
            const auto* words = reinterpret_cast<const uint16_t*>(ds.data());
            auto* pairs = reinterpret_cast<uint32_t*>(paired.data());
            for (int64_t r = 0; r < width_of(count); r += 2) pair_rows(words + r * kBlock, words + (r + 1) * kBlock, pairs + r / 2 * kBlock, kBlock);
            second = paired.data();
          }
          product<T>(count, D, width, p.data(), kBlock, pack + 3 * size, D, dvs.data() + j * size, D, true);
          product<T>(count, D, width, ds.data(), kBlock, pack + 2 * size, D, dks.data() + j * size, D, true);
          product<T>(D, width, width_of(count), keys.data() + j * size, kBlock, second, kBlock, dqs.data() + i * size, kBlock, true);
        }
      }
      for (int64_t i = 0; i < query_blocks; ++i) {
        const int64_t from = i * kBlock, count = std::min(kBlock, record.queries - from);
        turn(dqs.data() + i * size, kBlock, D, count, rows.data(), D);
        for (int64_t t = 0; t < count; ++t) {
          scaled_row<T>(rows.data() + t * D, 1.0f, dq.at(record.batch, head, record.first_query + from + t), D);
        }
      }
    }
    for (int64_t t = 0; t < record.keys; ++t) {
      scaled_row<T>(dks.data() + t * D, 1.0f, dk.at(record.batch, group, record.first_key + t), D);
      scaled_row<T>(dvs.data() + t * D, 1.0f, dv.at(record.batch, group, record.first_key + t), D);
    }
  }
};

template <typename T>
variable_list backward_pass(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out, const Tensor& lse, const Tensor& grad,
                            const Problem& problem) {
  const int64_t H = q.size(1), G = k.size(1);
  Tensor dq = like_projections(q), dk = like_projections(k), dv = like_projections(v);
  const GroupBackward<T> backward{reading<T>(q), reading<T>(k),  reading<T>(v), reading<T>(out), reading<T>(grad),
                                  lse.const_data_ptr<float>(), H, G, q.size(3), q.size(2), problem.causal, problem.scale};
  const auto dqs = writing<T>(dq), dks = writing<T>(dk), dvs = writing<T>(dv);
  each_task<T>(problem.records.size() * G, [&](int64_t task) { backward.run(problem.records[task / G], task % G, dqs, dks, dvs); });
  return {dq, dk, dv};
}

Tensor dense_rows(const Tensor& x) { return x.stride(-1) == 1 ? x : x.contiguous(); }

struct FlashAttention : torch::autograd::Function<FlashAttention> {
  static Tensor forward(AutogradContext* ctx, const Tensor& q_in, const Tensor& k_in, const Tensor& v_in, bool causal, double scale,
                        const std::vector<int64_t>& lengths) {
    at::AutoDispatchBelowADInplaceOrView below;
    const Tensor q = dense_rows(q_in), k = dense_rows(k_in), v = dense_rows(v_in);
    const Problem problem{causal, static_cast<float>(scale), records_of(q, k, lengths)};
    const auto [out, lse] =
        q.scalar_type() == at::kFloat ? forward_pass<float>(q, k, v, problem) : forward_pass<at::BFloat16>(q, k, v, problem);
    ctx->save_for_backward({q, k, v, out, lse});
    ctx->saved_data["causal"] = causal;
    ctx->saved_data["scale"] = scale;
    ctx->saved_data["lengths"] = lengths;
    return out;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &q = saved[0], &k = saved[1], &v = saved[2], &out = saved[3], &lse = saved[4];
    const Tensor grad = dense_rows(grads[0]);
    const Problem problem{ctx->saved_data["causal"].toBool(), static_cast<float>(ctx->saved_data["scale"].toDouble()),
                          records_of(q, k, ctx->saved_data["lengths"].toIntVector())};
    variable_list found = q.scalar_type() == at::kFloat ? backward_pass<float>(q, k, v, out, lse, grad, problem)
                                                        : backward_pass<at::BFloat16>(q, k, v, out, lse, grad, problem);
    found.resize(6);
    return found;
  }
};

// q [B, H, T, D]; k, v [B, G, U, D] with G dividing H. With `lengths`, B is 1 and row after row of so many positions is a record.
Tensor flash_attention(const Tensor& q, const Tensor& k, const Tensor& v, bool causal, double scale, at::IntArrayRef lengths) {
  TORCH_CHECK(q.is_cpu() && supports(q.scalar_type()) && k.scalar_type() == q.scalar_type() && v.scalar_type() == q.scalar_type(),
              "float32 or bfloat16 on a CPU with AVX-512");
  TORCH_CHECK(q.dim() == 4 && k.dim() == 4 && k.sizes() == v.sizes() && k.size(0) == q.size(0) && k.size(3) == q.size(3) &&
                  q.size(1) % k.size(1) == 0 && q.size(3) % 2 == 0 && scale > 0,
              "q must be [B, H, T, D], k and v [B, G, U, D], G a divisor of H and D even");
  TORCH_CHECK(!causal || k.size(2) >= q.size(2), "every query must see a key");
  int64_t sum = 0;
  for (int64_t length : lengths) sum += length;
  TORCH_CHECK(lengths.empty() || (q.size(0) == 1 && k.size(2) == q.size(2) && sum == q.size(2)),
              "records must fill the one row");
  return FlashAttention::apply(q, k, v, causal, scale, lengths.vec());
}

}  // namespace

napi_value flash_dtypes(Call& call) {
  napi_value out;
  check(napi_create_array(call.env, &out));
  uint32_t count = 0;
  if (supports(at::kFloat)) check(napi_set_element(call.env, out, count++, string(call.env, "float32")));
  if (supports(at::kBFloat16)) check(napi_set_element(call.env, out, count++, string(call.env, "bfloat16")));
  return out;
}

TORCH_LIBRARY_FRAGMENT(neva, m) {
  m.def("flash_attention(Tensor q, Tensor k, Tensor v, bool causal, float scale, int[] lengths) -> Tensor", flash_attention);
}

}  // namespace neva
