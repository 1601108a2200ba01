// Shared by every file of the addon: Node-API helpers, the tensor table, error translation.
#pragma once

#include <node_api.h>

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace neva {

// Thrown where JavaScript handed over something that does not fit; becomes a JS TypeError with this text.
struct BadArgument : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// A Node-API call failed and left a pending JS exception (or none): unwind to the entry point.
struct NapiFailure {};

inline void check(napi_status status) {
  if (status != napi_ok) throw NapiFailure{};
}

// ---- tensor table (handles.cpp) ---------------------------------------------------------------------------------
// A handle is a JS number: generation · 2^22 + slot. A freed slot's generation moves on, so a stale handle is
// recognised and throws instead of touching another tensor.
double put(at::Tensor tensor);
const at::Tensor& get(double handle);
void release(double handle);
int64_t live_tensors();

// ---- JS values --------------------------------------------------------------------------------------------------
napi_value number(napi_env env, double value);
napi_value string(napi_env env, const std::string& value);
napi_value boolean(napi_env env, bool value);
double as_number(napi_env env, napi_value value, const char* what);
int64_t as_int(napi_env env, napi_value value, const char* what);
bool as_bool(napi_env env, napi_value value, const char* what);
std::string as_string(napi_env env, napi_value value, const char* what);
std::vector<napi_value> as_array(napi_env env, napi_value value, const char* what);
std::vector<int64_t> as_ints(napi_env env, napi_value value, const char* what);
const at::Tensor& as_tensor(napi_env env, napi_value value);
napi_value tensor_value(napi_env env, at::Tensor tensor);
bool is_nullish(napi_env env, napi_value value);

at::ScalarType dtype_from_name(const std::string& name);
std::string dtype_name(at::ScalarType type);
// "float32[2, 3]", for error messages.
std::string describe(const at::Tensor& tensor);

struct Bytes {
  uint8_t* data;
  size_t size;
};
// The memory behind an ArrayBuffer, typed array or Buffer (its view only).
Bytes as_bytes(napi_env env, napi_value value, const char* what);
// A fresh ArrayBuffer of `size` bytes and where to write them.
napi_value array_buffer(napi_env env, size_t size, void** data);

// ---- entry points -----------------------------------------------------------------------------------------------
struct Call {
  napi_env env;
  size_t count;
  napi_value args[24];
  napi_value operator[](size_t i) const;  // undefined past the end
};

using Body = napi_value (*)(Call&);

// Runs `body`, turning C++ exceptions into JS ones; c10::Error keeps its message and loses its C++ backtrace.
template <Body body>
napi_value entry(napi_env env, napi_callback_info info);

napi_value guarded(napi_env env, napi_callback_info info, Body body);

template <Body body>
napi_value entry(napi_env env, napi_callback_info info) {
  return guarded(env, info, body);
}

struct Export {
  const char* name;
  napi_callback callback;
};

}  // namespace neva
