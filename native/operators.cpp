// Any ATen operator by name: arguments are converted as the operator's own schema says, then the call goes boxed
// through the dispatcher (and so through autograd, autocast and device selection like any call from PyTorch).
#include "operators.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/jit_type.h>

#include <memory>
#include <unordered_map>

namespace neva {
namespace {

enum class Kind { Tensor, Scalar, Int, Float, Bool, String, DType, Device, Layout, MemoryFormat, Generator };

struct Parameter {
  std::string name;
  Kind kind;
  bool list = false;           // Kind[]
  bool optional = false;       // Kind? or Kind[]?
  bool optional_item = false;  // Kind?[]
  int32_t fixed = 0;           // int[N]: a single number stands for N of them
  bool has_default = false;
  c10::IValue default_value;
};

struct Operator {
  c10::OperatorHandle handle;
  std::string name;
  std::vector<Parameter> parameters;
  bool returns_alias;  // in-place or out= variant: the result is an argument, nothing is handed back
};

std::vector<std::unique_ptr<Operator>> operators;
std::unordered_map<std::string, size_t> operator_index;

Kind kind_of(const c10::Type& type, const std::string& where) {
  switch (type.kind()) {
    case c10::TypeKind::TensorType: return Kind::Tensor;
    case c10::TypeKind::NumberType: return Kind::Scalar;
    case c10::TypeKind::SymIntType:
    case c10::TypeKind::IntType: return Kind::Int;
    case c10::TypeKind::FloatType:
    case c10::TypeKind::SymFloatType: return Kind::Float;
    case c10::TypeKind::BoolType:
    case c10::TypeKind::SymBoolType: return Kind::Bool;
    case c10::TypeKind::StringType: return Kind::String;
    case c10::TypeKind::ScalarTypeType: return Kind::DType;
    case c10::TypeKind::DeviceObjType: return Kind::Device;
    case c10::TypeKind::LayoutType: return Kind::Layout;
    case c10::TypeKind::MemoryFormatType: return Kind::MemoryFormat;
    case c10::TypeKind::GeneratorType: return Kind::Generator;
    default: throw BadArgument(where + ": arguments of type " + type.str() + " are not supported by the addon");
  }
}

Parameter read_parameter(const c10::Argument& argument, const std::string& op) {
  Parameter out;
  out.name = argument.name();
  out.has_default = argument.default_value().has_value();
  if (out.has_default) out.default_value = *argument.default_value();
  // real_type tells ScalarType, Layout and MemoryFormat from int.
  c10::TypePtr type = argument.real_type();
  if (auto optional = type->cast<c10::OptionalType>()) {
    out.optional = true;
    type = optional->getElementType();
  }
  if (auto list = type->cast<c10::ListType>()) {
    out.list = true;
    out.fixed = argument.N().value_or(0);
    type = list->getElementType();
    if (auto item = type->cast<c10::OptionalType>()) {
      out.optional_item = true;
      type = item->getElementType();
    }
  }
  out.kind = kind_of(*type, op + " " + out.name);
  return out;
}

c10::Scalar to_scalar(napi_env env, napi_value value, const char* what) {
  napi_valuetype type;
  check(napi_typeof(env, value, &type));
  if (type == napi_boolean) return as_bool(env, value, what);
  if (type == napi_bigint) return as_int(env, value, what);
  const double number = as_number(env, value, what);
  // Whole numbers travel as integers, so that an integer tensor times 2 stays one; floats are unaffected.
  const auto whole = static_cast<int64_t>(number);
  if (static_cast<double>(whole) == number && std::abs(number) < 9.0e15) return whole;
  return number;
}

int64_t to_layout(const std::string& name) {
  if (name == "strided") return static_cast<int64_t>(c10::Layout::Strided);
  throw BadArgument("layout: only \"strided\" is supported, got \"" + name + "\"");
}

int64_t to_memory_format(const std::string& name) {
  if (name == "contiguous") return static_cast<int64_t>(c10::MemoryFormat::Contiguous);
  if (name == "preserve") return static_cast<int64_t>(c10::MemoryFormat::Preserve);
  if (name == "channels_last") return static_cast<int64_t>(c10::MemoryFormat::ChannelsLast);
  throw BadArgument("memory format: unknown \"" + name + "\"");
}

c10::IValue to_item(napi_env env, napi_value value, const Parameter& p) {
  const char* what = p.name.c_str();
  switch (p.kind) {
    case Kind::Tensor: return as_tensor(env, value);
    case Kind::Scalar: return to_scalar(env, value, what);
    case Kind::Int: return as_int(env, value, what);
    case Kind::Float: return as_number(env, value, what);
    case Kind::Bool: return as_bool(env, value, what);
    case Kind::String: return as_string(env, value, what);
    case Kind::DType: return static_cast<int64_t>(dtype_from_name(as_string(env, value, what)));
    case Kind::Device: return c10::Device(as_string(env, value, what));
    case Kind::Layout: return to_layout(as_string(env, value, what));
    case Kind::MemoryFormat: return to_memory_format(as_string(env, value, what));
    case Kind::Generator: throw BadArgument(p.name + ": leave generators out; the default one is used");
  }
  throw BadArgument(p.name + ": unreachable");
}

c10::IValue to_list(napi_env env, napi_value value, const Parameter& p) {
  const char* what = p.name.c_str();
  bool is_array = false;
  check(napi_is_array(env, value, &is_array));
  std::vector<napi_value> items;
  if (is_array) {
    items = as_array(env, value, what);
  } else if (p.fixed > 0) {
    items.assign(p.fixed, value);
  } else {
    throw BadArgument(p.name + ": expected an array");
  }
  if (p.kind == Kind::Tensor && p.optional_item) {
    c10::List<std::optional<at::Tensor>> out;
    for (napi_value item : items) {
      out.push_back(is_nullish(env, item) ? std::optional<at::Tensor>() : std::optional<at::Tensor>(as_tensor(env, item)));
    }
    return out;
  }
  switch (p.kind) {
    case Kind::Tensor: {
      std::vector<at::Tensor> out;
      out.reserve(items.size());
      for (napi_value item : items) out.push_back(as_tensor(env, item));
      return out;
    }
    case Kind::Int: {
      std::vector<int64_t> out;
      out.reserve(items.size());
      for (napi_value item : items) out.push_back(as_int(env, item, what));
      return out;
    }
    case Kind::Float: {
      std::vector<double> out;
      for (napi_value item : items) out.push_back(as_number(env, item, what));
      return out;
    }
    case Kind::Bool: {
      c10::List<bool> out;
      for (napi_value item : items) out.push_back(as_bool(env, item, what));
      return out;
    }
    case Kind::Scalar: {
      std::vector<at::Scalar> scalars;
      c10::impl::GenericList out(c10::NumberType::get());
      for (napi_value item : items) out.push_back(to_scalar(env, item, what));
      return out;
    }
    default: throw BadArgument(p.name + ": lists of this type are not supported by the addon");
  }
}

c10::IValue to_ivalue(napi_env env, napi_value value, const Parameter& p) {
  napi_valuetype type;
  check(napi_typeof(env, value, &type));
  if (type == napi_undefined) {
    if (p.has_default) return p.default_value;
    if (p.optional) return {};
    throw BadArgument(p.name + ": missing");
  }
  if (type == napi_null) {
    if (p.optional) return {};
    throw BadArgument(p.name + ": null is not allowed here");
  }
  return p.list ? to_list(env, value, p) : to_item(env, value, p);
}

napi_value to_js(napi_env env, c10::IValue value) {
  napi_value out;
  if (value.isTensor()) {
    at::Tensor tensor = std::move(value).toTensor();
    if (!tensor.defined()) {
      check(napi_get_null(env, &out));
      return out;
    }
    return tensor_value(env, std::move(tensor));
  }
  if (value.isTensorList()) {
    const auto list = value.toTensorVector();
    check(napi_create_array_with_length(env, list.size(), &out));
    for (size_t i = 0; i < list.size(); ++i) check(napi_set_element(env, out, i, tensor_value(env, list[i])));
    return out;
  }
  if (value.isInt() || value.isSymInt()) return number(env, static_cast<double>(value.toInt()));
  if (value.isDouble()) return number(env, value.toDouble());
  if (value.isBool()) return boolean(env, value.toBool());
  if (value.isScalar()) return number(env, value.toScalar().toDouble());
  if (value.isNone()) {
    check(napi_get_null(env, &out));
    return out;
  }
  throw BadArgument("the operator returned a value of type " + value.tagKind() + ", which the addon cannot hand over");
}

std::string describe_arguments(const Operator& op, const torch::jit::Stack& stack) {
  std::string out;
  for (size_t i = 0; i < stack.size() && i < op.parameters.size(); ++i) {
    std::string text;
    if (stack[i].isTensor()) {
      text = describe(stack[i].toTensor());
    } else if (stack[i].isTensorList()) {
      text = "[" + std::to_string(stack[i].toTensorVector().size()) + " tensors]";
    } else {
      continue;
    }
    out += (out.empty() ? "" : ", ") + op.parameters[i].name + " " + text;
  }
  return out;
}

Operator& operator_at(napi_env env, napi_value value) {
  const auto index = static_cast<size_t>(as_int(env, value, "operator"));
  if (index >= operators.size()) throw BadArgument("no such operator number");
  return *operators[index];
}

}  // namespace

napi_value find_operator(Call& call) {
  const std::string name = as_string(call.env, call[0], "operator name");
  const auto known = operator_index.find(name);
  if (known != operator_index.end()) return number(call.env, static_cast<double>(known->second));
  const size_t dot = name.find('.', name.find("::") + 2);
  const std::string base = name.substr(0, dot);
  const std::string overload = dot == std::string::npos ? "" : name.substr(dot + 1);
  auto handle = c10::Dispatcher::singleton().findSchema({base, overload});
  if (!handle) throw BadArgument("LibTorch has no operator \"" + name + "\"");
  auto op = std::make_unique<Operator>(Operator{*handle, name, {}, false});
  const auto& schema = handle->schema();
  for (const auto& argument : schema.arguments()) op->parameters.push_back(read_parameter(argument, name));
  for (const auto& result : schema.returns()) {
    if (result.alias_info() && result.alias_info()->isWrite()) op->returns_alias = true;
  }
  operators.push_back(std::move(op));
  operator_index[name] = operators.size() - 1;
  return number(call.env, static_cast<double>(operators.size() - 1));
}

napi_value operator_schema(Call& call) {
  const Operator& op = operator_at(call.env, call[0]);
  return string(call.env, c10::toString(op.handle.schema()));
}

napi_value call_operator(Call& call) {
  napi_env env = call.env;
  Operator& op = operator_at(env, call.args[0]);
  size_t given = call.count - 1;
  // Other releases of LibTorch may have fewer parameters than the generated functions pass on.
  while (given > op.parameters.size() && is_nullish(env, call.args[given])) --given;
  if (given > op.parameters.size()) {
    throw BadArgument(op.name + ": takes " + std::to_string(op.parameters.size()) + " arguments, got " + std::to_string(given));
  }
  torch::jit::Stack stack;
  stack.reserve(op.parameters.size());
  try {
    for (size_t i = 0; i < op.parameters.size(); ++i) stack.push_back(to_ivalue(env, call[i + 1], op.parameters[i]));
  } catch (const BadArgument& error) {
    throw BadArgument(op.name + ": " + error.what());
  }
  // Kept for the message: the call consumes the stack.
  const torch::jit::Stack arguments = stack;
  try {
    op.handle.callBoxed(stack);
  } catch (const c10::Error& error) {
    throw std::runtime_error(op.name + "(" + describe_arguments(op, arguments) + "): " + error.what_without_backtrace());
  } catch (const std::exception& error) {
    throw std::runtime_error(op.name + "(" + describe_arguments(op, arguments) + "): " + error.what());
  }
  napi_value out;
  if (op.returns_alias || stack.empty()) {
    check(napi_get_undefined(env, &out));
    return out;
  }
  if (stack.size() == 1) return to_js(env, std::move(stack[0]));
  check(napi_create_array_with_length(env, stack.size(), &out));
  for (size_t i = 0; i < stack.size(); ++i) check(napi_set_element(env, out, i, to_js(env, std::move(stack[i]))));
  return out;
}

}  // namespace neva
