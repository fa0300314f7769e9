#include "device/cuda_driver.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

namespace sllm {
namespace {

constexpr const char* kLibrary = "libcuda.so.1";
constexpr const char* kLibraryVariable = "SLLM_CUDA_DRIVER";

// CUDA 11.4: cuDeviceGetUuid_v2, without which MIG instances have no names of their own.
constexpr int kOldestVersion = 11040;

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

template <typename Function>
void find(void* handle, const std::string& library, const char* symbol, Function& function) {
  void* found = ::dlsym(handle, symbol);
  if (found == nullptr) {
    throw Error(ErrorCode::kUnsupported, "cannot use the CUDA driver " + library + ": it lacks " + symbol);
  }
  function = reinterpret_cast<Function>(found);
}

void check_version(const std::string& library, const cuda::Functions& functions) {
  int version = 0;
  const cuda::Result result = functions.cuDriverGetVersion(&version);
  if (result != cuda::Result::kSuccess || version < kOldestVersion) {
    throw Error(ErrorCode::kUnsupported, "cannot use the CUDA driver " + library + ": it is of CUDA " +
                                             version_text(version) + ", and " + version_text(kOldestVersion) +
                                             " is needed");
  }
}

// The two that say how old a driver is come first: an old one lacks others.
cuda::Functions find_all(void* handle, const std::string& library) {
  cuda::Functions functions;
  find(handle, library, "cuInit", functions.cuInit);
  find(handle, library, "cuDriverGetVersion", functions.cuDriverGetVersion);
  check_version(library, functions);
#define SLLM_CUDA_FIND(symbol, ...) find(handle, library, #symbol, functions.symbol);
  SLLM_CUDA_FUNCTIONS(SLLM_CUDA_FIND)
#undef SLLM_CUDA_FIND
  return functions;
}

}  // namespace

ErrorCode code_of_result(cuda::Result result) {
  switch (result) {
    case cuda::Result::kOutOfMemory:
      return ErrorCode::kExhausted;
    case cuda::Result::kHostMemoryAlreadyRegistered:
      return ErrorCode::kConflict;
    case cuda::Result::kStubLibrary:
    case cuda::Result::kNoDevice:
    case cuda::Result::kNotPermitted:
    case cuda::Result::kNotSupported:
    case cuda::Result::kSystemNotReady:
    case cuda::Result::kSystemDriverMismatch:
    case cuda::Result::kDeviceNotSupportedByCompat:
      return ErrorCode::kUnsupported;
    default:
      return ErrorCode::kDevice;
  }
}

CudaDriver::CudaDriver(std::string library, const cuda::Functions& functions)
    : library_(std::move(library)), functions_(functions), process_(::getpid()) {}

std::shared_ptr<const CudaDriver> CudaDriver::load(const std::string& library) {
  void* handle = ::dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    const char* reason = ::dlerror();
    throw Error(ErrorCode::kUnsupported,
                "cannot load the CUDA driver " + library + ": " + (reason != nullptr ? reason : "unknown"));
  }
  std::shared_ptr<const CudaDriver> driver(new CudaDriver(library, find_all(handle, library)));
  driver->start();
  return driver;
}

std::shared_ptr<const CudaDriver> CudaDriver::of_process() {
  // A failure is not kept: the next one who asks tries again.
  static const std::shared_ptr<const CudaDriver> driver = [] {
    const char* named = std::getenv(kLibraryVariable);
    return load(named != nullptr && *named != '\0' ? named : kLibrary);
  }();
  return driver;
}

void CudaDriver::start() const {
  const cuda::Result result = functions_.cuInit(0);
  if (result != cuda::Result::kSuccess) {
    const Error reason = error(result, "cannot start the CUDA driver " + library_);
    const bool may_be_forked = result == cuda::Result::kNotInitialized;
    throw Error(ErrorCode::kUnsupported,
                reason.what() + std::string(may_be_forked ? ", as after a fork: start processes that use it "
                                                            "with spawn"
                                                          : ""));
  }
  if (device_count() == 0) {
    throw Error(ErrorCode::kUnsupported, "the CUDA driver " + library_ + " has no device");
  }
}

int CudaDriver::device_count() const {
  check_process();
  int count = 0;
  const cuda::Result result = functions_.cuDeviceGetCount(&count);
  if (result != cuda::Result::kSuccess) throw error(result, "cannot count the devices of " + library_);
  return count;
}

Uuid CudaDriver::uuid_of(cuda::Ordinal device) const {
  check_process();
  cuda::UuidBytes bytes{};
  const cuda::Result result = functions_.cuDeviceGetUuid_v2(&bytes, device);
  if (result != cuda::Result::kSuccess) {
    throw error(result, "cannot get the UUID of cuda:" + std::to_string(device));
  }
  Uuid uuid{};
  static_assert(sizeof(uuid) == sizeof(bytes));
  std::memcpy(uuid.data(), bytes.bytes, sizeof(bytes));
  return uuid;
}

bool CudaDriver::is_usable_here() const { return ::getpid() == process_; }

void CudaDriver::check_process() const {
  if (is_usable_here()) return;
  throw Error(ErrorCode::kUnsupported,
              "cannot use the CUDA driver in a process that was forked after process " +
                  std::to_string(process_) + " initialised it; start such processes with spawn");
}

Error CudaDriver::error(cuda::Result result, const std::string& failed) const {
  const char* name = nullptr;
  const char* text = nullptr;
  functions_.cuGetErrorName(result, &name);
  functions_.cuGetErrorString(result, &text);
  std::string message = failed + ": ";
  message += name != nullptr ? name : "CUDA error " + std::to_string(static_cast<int>(result));
  if (text != nullptr) message += std::string(" (") + text + ")";
  return Error(code_of_result(result), message);
}

}  // namespace sllm
