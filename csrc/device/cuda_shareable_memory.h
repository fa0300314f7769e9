#pragma once

#include <memory>

#include "device/cuda_context.h"
#include "device/device.h"

namespace sllm {

// Memory of the driver's virtual memory management: physical memory that has a descriptor, at a reserved
// range of addresses. Its functions need no current context (CUDA Driver API, "Virtual Memory Management"),
// and its end gives it back whatever became of the context.

// Throws exhausted, device, and unsupported where the device cannot do it.
std::unique_ptr<DeviceMemory> allocate_shareable(std::shared_ptr<const CudaContext> context,
                                                 std::uint64_t bytes);

// Maps what export_fd() gave. Throws device.
std::unique_ptr<DeviceMemory> import_shareable(std::shared_ptr<const CudaContext> context, UniqueFd fd,
                                               std::uint64_t bytes);

}  // namespace sllm
