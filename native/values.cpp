// JS values to C++ and back.
#include "addon.h"

#include <sstream>

namespace neva {

napi_value Call::operator[](size_t i) const {
  if (i < count) return args[i];
  napi_value undefined;
  check(napi_get_undefined(env, &undefined));
  return undefined;
}

napi_value number(napi_env env, double value) {
  napi_value out;
  check(napi_create_double(env, value, &out));
  return out;
}

napi_value string(napi_env env, const std::string& value) {
  napi_value out;
  check(napi_create_string_utf8(env, value.data(), value.size(), &out));
  return out;
}

napi_value boolean(napi_env env, bool value) {
  napi_value out;
  check(napi_get_boolean(env, value, &out));
  return out;
}

static std::string wrong(const char* what, const char* expected) {
  return std::string(what) + ": expected " + expected;
}

double as_number(napi_env env, napi_value value, const char* what) {
  double out;
  if (napi_get_value_double(env, value, &out) != napi_ok) throw BadArgument(wrong(what, "a number"));
  return out;
}

int64_t as_int(napi_env env, napi_value value, const char* what) {
  napi_valuetype type;
  check(napi_typeof(env, value, &type));
  int64_t out;
  if (type == napi_bigint) {
    bool lossless;
    check(napi_get_value_bigint_int64(env, value, &out, &lossless));
    if (!lossless) throw BadArgument(wrong(what, "an integer of 64 bits"));
    return out;
  }
  const double number = as_number(env, value, what);
  out = static_cast<int64_t>(number);
  if (static_cast<double>(out) != number) throw BadArgument(wrong(what, "a whole number"));
  return out;
}

bool as_bool(napi_env env, napi_value value, const char* what) {
  bool out;
  if (napi_get_value_bool(env, value, &out) != napi_ok) throw BadArgument(wrong(what, "true or false"));
  return out;
}

std::string as_string(napi_env env, napi_value value, const char* what) {
  size_t length;
  if (napi_get_value_string_utf8(env, value, nullptr, 0, &length) != napi_ok) throw BadArgument(wrong(what, "a string"));
  std::string out(length, '\0');
  check(napi_get_value_string_utf8(env, value, out.data(), length + 1, &length));
  return out;
}

std::vector<napi_value> as_array(napi_env env, napi_value value, const char* what) {
  bool is_array = false;
  check(napi_is_array(env, value, &is_array));
  if (!is_array) throw BadArgument(wrong(what, "an array"));
  uint32_t length;
  check(napi_get_array_length(env, value, &length));
  std::vector<napi_value> out(length);
  for (uint32_t i = 0; i < length; ++i) check(napi_get_element(env, value, i, &out[i]));
  return out;
}

std::vector<int64_t> as_ints(napi_env env, napi_value value, const char* what) {
  std::vector<int64_t> out;
  for (napi_value item : as_array(env, value, what)) out.push_back(as_int(env, item, what));
  return out;
}

const at::Tensor& as_tensor(napi_env env, napi_value value) { return get(as_number(env, value, "tensor handle")); }

napi_value tensor_value(napi_env env, at::Tensor tensor) { return number(env, put(std::move(tensor))); }

bool is_nullish(napi_env env, napi_value value) {
  napi_valuetype type;
  check(napi_typeof(env, value, &type));
  return type == napi_undefined || type == napi_null;
}

static const struct {
  const char* name;
  at::ScalarType type;
} kDTypes[] = {
    {"float32", at::kFloat}, {"bfloat16", at::kBFloat16}, {"float16", at::kHalf}, {"float64", at::kDouble},
    {"int64", at::kLong},    {"int32", at::kInt},         {"uint8", at::kByte},   {"bool", at::kBool},
    {"int16", at::kShort},   {"int8", at::kChar},
};

at::ScalarType dtype_from_name(const std::string& name) {
  for (const auto& entry : kDTypes) {
    if (name == entry.name) return entry.type;
  }
  throw BadArgument("unknown dtype \"" + name + "\"");
}

std::string dtype_name(at::ScalarType type) {
  for (const auto& entry : kDTypes) {
    if (type == entry.type) return entry.name;
  }
  return c10::toString(type);
}

std::string describe(const at::Tensor& tensor) {
  if (!tensor.defined()) return "none";
  std::ostringstream out;
  out << dtype_name(tensor.scalar_type()) << '[';
  for (int64_t i = 0; i < tensor.dim(); ++i) out << (i ? ", " : "") << tensor.size(i);
  out << ']';
  if (!tensor.device().is_cpu()) out << '@' << tensor.device().str();
  return out.str();
}

Bytes as_bytes(napi_env env, napi_value value, const char* what) {
  bool is = false;
  void* data = nullptr;
  size_t size = 0;
  check(napi_is_typedarray(env, value, &is));
  if (is) {
    napi_typedarray_type type;
    size_t length;
    napi_value buffer;
    size_t offset;
    check(napi_get_typedarray_info(env, value, &type, &length, &data, &buffer, &offset));
    static const size_t kWidth[] = {1, 1, 1, 2, 2, 4, 4, 4, 8, 8, 8};
    return {static_cast<uint8_t*>(data), length * kWidth[type]};
  }
  check(napi_is_arraybuffer(env, value, &is));
  if (!is) throw BadArgument(wrong(what, "a typed array or an ArrayBuffer"));
  check(napi_get_arraybuffer_info(env, value, &data, &size));
  return {static_cast<uint8_t*>(data), size};
}

napi_value array_buffer(napi_env env, size_t size, void** data) {
  napi_value out;
  check(napi_create_arraybuffer(env, size, data, &out));
  return out;
}

napi_value guarded(napi_env env, napi_callback_info info, Body body) {
  try {
    Call call{env, 24, {}};
    check(napi_get_cb_info(env, info, &call.count, call.args, nullptr, nullptr));
    if (call.count > 24) throw BadArgument("too many arguments");
    return body(call);
  } catch (const NapiFailure&) {
    bool pending = false;
    napi_is_exception_pending(env, &pending);
    if (!pending) napi_throw_error(env, nullptr, "neva addon: a Node-API call failed");
  } catch (const BadArgument& error) {
    napi_throw_type_error(env, nullptr, error.what());
  } catch (const c10::Error& error) {
    napi_throw_error(env, nullptr, error.what_without_backtrace());
  } catch (const std::exception& error) {
    napi_throw_error(env, nullptr, error.what());
  }
  return nullptr;
}

}  // namespace neva
