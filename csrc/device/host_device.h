#pragma once

#include "device/device.h"

namespace sllm {

// Host memory behind the interface of a device. Copies are done when the call returns, so that events always
// are. Shareable memory is a memfd.
class HostDevice final : public Device {
 public:
  DeviceKind kind() const override { return DeviceKind::kHost; }
  std::string name() const override { return "cpu"; }
  int ordinal() const override { return 0; }
  std::string model() const override { return "host memory"; }
  Uuid uuid() const override { return {}; }
  MemoryState memory() const override;
  std::unique_ptr<DeviceMemory> allocate(std::uint64_t bytes, AllocationKind kind) override;
  std::unique_ptr<DeviceMemory> import_fd(UniqueFd fd, std::uint64_t bytes) override;
  std::unique_ptr<DeviceMemory> import_ipc(const IpcHandle& handle, std::uint64_t bytes) override;
  std::unique_ptr<Stream> make_stream() override;
  std::unique_ptr<HostRegistration> register_host(std::span<std::byte> memory) override;
};

}  // namespace sllm
