#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <memory>

#include "device/device.h"
#include "load/target.h"
#include "memory/host_buffer.h"

namespace sllm {

// One allocation on a device, as Python and its tensors share it.
struct DeviceBuffer {
  std::shared_ptr<Device> device;
  std::unique_ptr<DeviceMemory> memory;
};

// Every address of a device, or of this process: for memory that a caller owns, whose offset is its address.
struct AddressSpace {
  std::shared_ptr<Device> device;  // null for host memory
};

// `memory` is a HostBuffer, a DeviceBuffer or an AddressSpace, and outlives the target. Throws invalid for
// anything else.
Target target_of(const pybind11::handle& memory);

}  // namespace sllm
