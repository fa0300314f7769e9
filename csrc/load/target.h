#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "device/device.h"

namespace sllm {

// Memory that a load fills; its owner keeps it, and the device, until the load is over.
struct Target {
  Device* device = nullptr;  // null: host memory
  DeviceAddress start = 0;
  std::uint64_t bytes = 0;
  // Nothing else lies in its first and last block, so that a direct read may write whole blocks.
  bool is_exclusive = true;

  static Target in_host(std::span<std::byte> memory) {
    return {.start = reinterpret_cast<DeviceAddress>(memory.data()), .bytes = memory.size()};
  }
  bool is_host() const { return device == nullptr; }
  // Of host memory only.
  std::byte* at(std::uint64_t offset) const { return reinterpret_cast<std::byte*>(start + offset); }
};

}  // namespace sllm
