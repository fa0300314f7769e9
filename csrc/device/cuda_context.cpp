#include "device/cuda_context.h"

namespace sllm {

CudaContext::CudaContext(std::shared_ptr<const CudaDriver> driver, cuda::Ordinal device)
    : driver_(std::move(driver)), device_(device) {
  driver_->check_process();
  const cuda::Result result = driver_->functions().cuDevicePrimaryCtxRetain(&context_, device_);
  if (result != cuda::Result::kSuccess) throw driver_->error(result, "cannot get the context of " + name());
}

CudaContext::~CudaContext() {
  if (driver_->is_usable_here()) driver_->functions().cuDevicePrimaryCtxRelease_v2(device_);
}

CudaContext::Current::Current(const CudaContext& context) : context_(context) {
  context.driver_->check_process();
  const cuda::Result result = context.driver_->functions().cuCtxPushCurrent_v2(context.context_);
  if (result != cuda::Result::kSuccess) {
    throw context.driver_->error(result, "cannot enter the context of " + context.name());
  }
}

CudaContext::Current::~Current() {
  cuda::Context ours = nullptr;
  context_.driver_->functions().cuCtxPopCurrent_v2(&ours);
}

}  // namespace sllm
