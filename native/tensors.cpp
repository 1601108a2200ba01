// Tensors from typed arrays and from mapped files, and back.
#include "tensors.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>

namespace neva {
namespace {

// A range of a file, mapped for one tensor: replacing the file by another leaves it as it was when it was opened.
struct Mapping {
  void* base = nullptr;
  size_t size = 0;
  size_t lead = 0;  // mappings begin at page borders, tensors anywhere

  Mapping(const std::string& path, size_t offset, size_t needed) {
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) throw std::runtime_error(path + ": " + std::strerror(errno));
    struct stat info {};
    if (fstat(fd, &info) != 0) {
      close(fd);
      throw std::runtime_error(path + ": " + std::strerror(errno));
    }
    const auto whole = static_cast<size_t>(info.st_size);
    if (offset > whole || needed > whole - offset) {
      close(fd);
      throw std::runtime_error(path + ": " + std::to_string(needed) + " bytes at offset " + std::to_string(offset) +
                               " do not lie within the file's " + std::to_string(whole));
    }
    lead = offset % static_cast<size_t>(sysconf(_SC_PAGESIZE));
    size = needed + lead;
    // Private and writable: an in-place update of a mapped weight copies the page, the file stays as it is.
    base = needed ? mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, static_cast<off_t>(offset - lead)) : nullptr;
    close(fd);
    if (base == MAP_FAILED) throw std::runtime_error(path + ": mapping failed: " + std::strerror(errno));
  }
  ~Mapping() {
    if (base) munmap(base, size);
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  uint8_t* data() const { return static_cast<uint8_t*>(base) + lead; }
};

size_t bytes_needed(const std::vector<int64_t>& shape, at::ScalarType type) {
  size_t count = 1;
  for (int64_t size : shape) {
    if (size < 0) throw BadArgument("shape: negative size");
    if (__builtin_mul_overflow(count, static_cast<size_t>(size), &count)) throw BadArgument("shape: too large");
  }
  if (__builtin_mul_overflow(count, c10::elementSize(type), &count)) throw BadArgument("shape: too large");
  return count;
}

}  // namespace

napi_value from_bytes(Call& call) {
  const Bytes bytes = as_bytes(call.env, call[0], "data");
  const auto shape = as_ints(call.env, call[1], "shape");
  const auto type = dtype_from_name(as_string(call.env, call[2], "dtype"));
  if (bytes_needed(shape, type) != bytes.size) {
    throw BadArgument("data: " + std::to_string(bytes.size) + " bytes do not fill the shape, which needs " +
                      std::to_string(bytes_needed(shape, type)));
  }
  at::Tensor tensor = at::empty(shape, at::TensorOptions().dtype(type));
  std::memcpy(tensor.mutable_data_ptr(), bytes.data, bytes.size);
  return tensor_value(call.env, std::move(tensor));
}

napi_value from_file(Call& call) {
  const std::string path = as_string(call.env, call[0], "path");
  const auto offset = static_cast<size_t>(as_int(call.env, call[1], "offset"));
  const auto shape = as_ints(call.env, call[2], "shape");
  const auto type = dtype_from_name(as_string(call.env, call[3], "dtype"));
  const size_t needed = bytes_needed(shape, type);
  auto mapping = std::make_shared<Mapping>(path, offset, needed);
  auto* data = mapping->data();
  if (reinterpret_cast<uintptr_t>(data) % c10::elementSize(type) != 0 || needed == 0) {
    // Misaligned for its type (a header of odd length): a copy is the safe way.
    at::Tensor copy = at::empty(shape, at::TensorOptions().dtype(type));
    if (needed) std::memcpy(copy.mutable_data_ptr(), data, needed);
    return tensor_value(call.env, std::move(copy));
  }
  at::Tensor tensor = at::from_blob(data, shape, [mapping](void*) mutable { mapping.reset(); },
                                    at::TensorOptions().dtype(type));
  return tensor_value(call.env, std::move(tensor));
}

napi_value read_bytes(Call& call) {
  const at::Tensor tensor = as_tensor(call.env, call[0]).detach().cpu().contiguous();
  void* data;
  napi_value out = array_buffer(call.env, tensor.nbytes(), &data);
  if (tensor.nbytes()) std::memcpy(data, tensor.const_data_ptr(), tensor.nbytes());
  return out;
}

napi_value item(Call& call) {
  return number(call.env, as_tensor(call.env, call[0]).item().toDouble());
}

napi_value shape(Call& call) {
  const auto sizes = as_tensor(call.env, call[0]).sizes();
  napi_value out;
  check(napi_create_array_with_length(call.env, sizes.size(), &out));
  for (size_t i = 0; i < sizes.size(); ++i) {
    check(napi_set_element(call.env, out, i, number(call.env, static_cast<double>(sizes[i]))));
  }
  return out;
}

napi_value dtype(Call& call) {
  return string(call.env, dtype_name(as_tensor(call.env, call[0]).scalar_type()));
}

napi_value device(Call& call) {
  return string(call.env, as_tensor(call.env, call[0]).device().str());
}

napi_value free_tensor(Call& call) {
  release(as_number(call.env, call[0], "tensor handle"));
  return nullptr;
}

napi_value live_count(Call& call) {
  return number(call.env, static_cast<double>(live_tensors()));
}

}  // namespace neva
