#pragma once

#include <memory>
#include <string>
#include <utility>

#include "device/cuda_driver.h"

namespace sllm {

// A device's primary context, retained while this lives: the one that torch uses too. Thread-safe.
//
// Everything made in the context shares this object, so that nothing outlives what it was made in.
class CudaContext {
 public:
  // Throws device, exhausted or unsupported.
  CudaContext(std::shared_ptr<const CudaDriver> driver, cuda::Ordinal device);
  ~CudaContext();
  CudaContext(const CudaContext&) = delete;
  CudaContext& operator=(const CudaContext&) = delete;

  const CudaDriver& driver() const { return *driver_; }
  cuda::Ordinal device() const { return device_; }
  // "cuda:0".
  std::string name() const { return "cuda:" + std::to_string(device_); }

  // Makes the context the thread's current one while it lives, then the one from before again. Throws as
  // call() does.
  class Current {
   public:
    explicit Current(const CudaContext& context);
    ~Current();
    Current(const Current&) = delete;
    Current& operator=(const Current&) = delete;

   private:
    const CudaContext& context_;
  };

  // Calls a function of the driver in the context. `describe` gives the text for the error, only where there
  // is one: "cannot copy 8 bytes to cuda:0".
  template <typename Function, typename Describe>
  void call(Function&& function, Describe&& describe) const {
    const Current current(*this);
    const cuda::Result result = std::forward<Function>(function)(driver_->functions());
    if (result != cuda::Result::kSuccess) throw driver_->error(result, std::forward<Describe>(describe)());
  }

  // For destructors: calls functions that give something back, and lets pass what they say. A context that
  // cannot be made current is gone, and everything in it; a forked child has none of it.
  template <typename Function>
  void release(Function&& function) const noexcept {
    const cuda::Functions& functions = driver_->functions();
    if (!driver_->is_usable_here()) return;
    if (functions.cuCtxPushCurrent_v2(context_) != cuda::Result::kSuccess) return;
    std::forward<Function>(function)(functions);
    cuda::Context ours = nullptr;
    functions.cuCtxPopCurrent_v2(&ours);
  }

 private:
  std::shared_ptr<const CudaDriver> driver_;
  cuda::Ordinal device_;
  cuda::Context context_ = nullptr;
};

}  // namespace sllm
