#pragma once

#include <memory>

#include "device/cuda_context.h"
#include "device/device.h"

namespace sllm {

class CudaDevice final : public Device {
 public:
  // `device` is below the driver's count. Throws device, exhausted or unsupported.
  CudaDevice(std::shared_ptr<const CudaDriver> driver, cuda::Ordinal device);

  DeviceKind kind() const override { return DeviceKind::kCuda; }
  std::string name() const override { return context_->name(); }
  int ordinal() const override { return context_->device(); }
  std::string model() const override { return model_; }
  Uuid uuid() const override { return uuid_; }
  MemoryState memory() const override;
  std::unique_ptr<DeviceMemory> allocate(std::uint64_t bytes, AllocationKind kind) override;
  std::unique_ptr<DeviceMemory> import_fd(UniqueFd fd, std::uint64_t bytes) override;
  std::unique_ptr<DeviceMemory> import_ipc(const IpcHandle& handle, std::uint64_t bytes) override;
  std::unique_ptr<Stream> make_stream() override;
  std::unique_ptr<HostRegistration> register_host(std::span<std::byte> memory) override;

 private:
  Uuid uuid_;
  std::string model_;
  std::shared_ptr<const CudaContext> context_;
};

// As find_device(), of a given driver, for names that begin with "cuda".
std::shared_ptr<Device> find_cuda_device(std::shared_ptr<const CudaDriver> driver, std::string_view name);

}  // namespace sllm
