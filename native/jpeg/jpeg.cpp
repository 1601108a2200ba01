// Decodes JPEGs with the machine's libjpeg-turbo, on libuv's threads: src/engine/jpeg.ts builds and loads it. An addon of its own, so
// that it needs no LibTorch, and that a library which is removed later takes nothing else with it.

#include <node_api.h>

#include <csetjmp>
#include <cstdint>
#include <cstdio>

#include <jpeglib.h>

#ifndef LIBJPEG_TURBO_VERSION
#error "libjpeg-turbo is needed: other versions of libjpeg enlarge colour planes differently"
#endif
#define TEXT_OF(x) #x
#define TEXT(x) TEXT_OF(x)

namespace {

// As in libvips: no camera writes more, and a file of thousands of empty scans would take hours.
constexpr int kMaxScans = 100;

struct Failure {
  jpeg_error_mgr manager;
  jmp_buf back;
};

[[noreturn]] void fail(j_common_ptr info) { longjmp(reinterpret_cast<Failure*>(info->err)->back, 1); }
[[noreturn]] void out_of_data(j_decompress_ptr info) { fail(reinterpret_cast<j_common_ptr>(info)); }
boolean no_more(j_decompress_ptr info) { out_of_data(info); }

void skip(j_decompress_ptr info, long count) {
  if (count <= 0) return;
  if (static_cast<size_t>(count) > info->src->bytes_in_buffer) out_of_data(info);
  info->src->next_input_byte += count;
  info->src->bytes_in_buffer -= count;
}

void count_scans(j_common_ptr info) {
  if (reinterpret_cast<j_decompress_ptr>(info)->input_scan_number > kMaxScans) fail(info);
}

struct Job {
  napi_async_work work;
  napi_deferred deferred;
  napi_ref input, output;
  const uint8_t* bytes;
  size_t size;
  uint8_t* pixels;
  size_t width, height;
  bool decoded;
};

// RGB [height, width, 3] into `job.pixels`. False where the file is cut, damaged, or of another size than was said.
// Warnings (corrupt data between markers) are passed over, as Pillow and libvips do.
bool decode(const Job& job) {
  jpeg_decompress_struct info;
  Failure failure;
  info.err = jpeg_std_error(&failure.manager);
  failure.manager.error_exit = fail;
  failure.manager.emit_message = [](j_common_ptr, int) {};
  jpeg_progress_mgr progress{};
  progress.progress_monitor = count_scans;
  jpeg_source_mgr source{};
  source.init_source = [](j_decompress_ptr) {};
  source.fill_input_buffer = no_more;
  source.skip_input_data = skip;
  source.resync_to_restart = jpeg_resync_to_restart;
  source.term_source = [](j_decompress_ptr) {};
  source.next_input_byte = job.bytes;
  source.bytes_in_buffer = job.size;
  info.mem = nullptr;
  if (setjmp(failure.back)) {
    jpeg_destroy_decompress(&info);
    return false;
  }
  jpeg_create_decompress(&info);
  info.progress = &progress;
  info.src = &source;
  jpeg_read_header(&info, TRUE);
  if (info.image_width != job.width || info.image_height != job.height || info.num_components != 3) {
    jpeg_destroy_decompress(&info);
    return false;
  }
  info.out_color_space = JCS_RGB;
  jpeg_start_decompress(&info);
  while (info.output_scanline < info.output_height) {
    JSAMPROW row = job.pixels + info.output_scanline * job.width * 3;
    jpeg_read_scanlines(&info, &row, 1);
  }
  // Reads on to the end mark: a file that was cut behind its last row is found out.
  jpeg_finish_decompress(&info);
  jpeg_destroy_decompress(&info);
  return true;
}

void run(napi_env, void* data) {
  auto* job = static_cast<Job*>(data);
  job->decoded = decode(*job);
}

void complete(napi_env env, napi_status, void* data) {
  auto* job = static_cast<Job*>(data);
  napi_value decoded;
  napi_get_boolean(env, job->decoded, &decoded);
  napi_resolve_deferred(env, job->deferred, decoded);
  napi_delete_reference(env, job->input);
  napi_delete_reference(env, job->output);
  napi_delete_async_work(env, job->work);
  delete job;
}

// decode(bytes: Uint8Array, pixels: Uint8Array, width, height): Promise<boolean>
napi_value start(napi_env env, napi_callback_info info) {
  napi_value args[4];
  size_t count = 4;
  napi_get_cb_info(env, info, &count, args, nullptr, nullptr);
  napi_typedarray_type type[2];
  size_t length[2] = {};
  void* data[2] = {};
  double sides[2] = {};
  for (int i = 0; i < 2; i++) {
    if (count < 4 || napi_get_typedarray_info(env, args[i], &type[i], &length[i], &data[i], nullptr, nullptr) != napi_ok ||
        type[i] != napi_uint8_array || napi_get_value_double(env, args[2 + i], &sides[i]) != napi_ok || !(sides[i] >= 1) ||
        !(sides[i] <= JPEG_MAX_DIMENSION)) {
      napi_throw_type_error(env, nullptr, "decode(bytes: Uint8Array, pixels: Uint8Array, width, height)");
      return nullptr;
    }
  }
  auto* job = new Job{};
  job->bytes = static_cast<uint8_t*>(data[0]);
  job->size = length[0];
  job->pixels = static_cast<uint8_t*>(data[1]);
  job->width = static_cast<size_t>(sides[0]);
  job->height = static_cast<size_t>(sides[1]);
  if (length[1] != job->width * job->height * 3) {
    delete job;
    napi_throw_range_error(env, nullptr, "decode: pixels must hold width x height x 3 bytes");
    return nullptr;
  }
  napi_value promise, name;
  napi_create_promise(env, &job->deferred, &promise);
  napi_create_reference(env, args[0], 1, &job->input);
  napi_create_reference(env, args[1], 1, &job->output);
  napi_create_string_utf8(env, "neva jpeg", NAPI_AUTO_LENGTH, &name);
  napi_create_async_work(env, nullptr, name, run, complete, job, &job->work);
  napi_queue_async_work(env, job->work);
  return promise;
}

}  // namespace

NAPI_MODULE_INIT() {
  napi_value value;
  napi_create_function(env, "decode", NAPI_AUTO_LENGTH, start, nullptr, &value);
  napi_set_named_property(env, exports, "decode", value);
  napi_create_string_utf8(env, TEXT(LIBJPEG_TURBO_VERSION), NAPI_AUTO_LENGTH, &value);
  napi_set_named_property(env, exports, "version", value);
  return exports;
}
