#pragma once

#include <memory>

#include "device/cuda_context.h"
#include "device/device.h"

namespace sllm {

// Throws exhausted, device.
std::unique_ptr<DeviceMemory> allocate_plain(std::shared_ptr<const CudaContext> context, std::uint64_t bytes);

// Maps what export_ipc() of another process gave. Throws device, unsupported, and invalid where it holds
// less.
std::unique_ptr<DeviceMemory> open_ipc(std::shared_ptr<const CudaContext> context, const IpcHandle& handle,
                                       std::uint64_t bytes);

// The error text of an allocation that failed: what was wanted and what is free, as far as the driver says.
// In the context.
std::string describe_allocation(const CudaContext& context, std::uint64_t bytes);

}  // namespace sllm
