#pragma once

#include <sys/types.h>

#include <memory>
#include <string>

#include "base/error.h"
#include "device/cuda_abi.h"
#include "device/uuid.h"

namespace sllm {

// What a caller can do about a result of the driver; the whole translation.
ErrorCode code_of_result(cuda::Result result);

// The CUDA driver, loaded and initialised: a table of functions. Thread-safe.
//
// It is never unloaded: the driver has threads of its own, and torch may use it too. A process that forks
// cannot use it in the child (CUDA Programming Guide, "Multi-Process": contexts don't survive fork()), so
// every way in asks check_process() first.
class CudaDriver {
 public:
  // `library` is a file, or a name for dlopen(3). Throws unsupported, naming it: it isn't there, isn't a
  // driver, is older than CUDA 11.4's, doesn't start, or has no device.
  static std::shared_ptr<const CudaDriver> load(const std::string& library);

  // $SLLM_CUDA_DRIVER, or libcuda.so.1, loaded when it is first asked for.
  static std::shared_ptr<const CudaDriver> of_process();

  const cuda::Functions& functions() const { return functions_; }
  const std::string& library() const { return library_; }
  int device_count() const;
  Uuid uuid_of(cuda::Ordinal device) const;

  // Whether this is the process that initialised the driver. check_process() throws unsupported if not.
  bool is_usable_here() const;
  void check_process() const;

  // The error for a result: `failed` says what could not be done ("cannot allocate 8 bytes on cuda:0").
  Error error(cuda::Result result, const std::string& failed) const;

 private:
  CudaDriver(std::string library, const cuda::Functions& functions);
  void start() const;

  std::string library_;
  cuda::Functions functions_;
  pid_t process_;
};

}  // namespace sllm
