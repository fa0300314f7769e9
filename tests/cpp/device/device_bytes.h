#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "device/device.h"

namespace sllm::testing {

// There and back, waiting for it.
inline void put(Device& device, DeviceAddress to, std::span<const std::byte> bytes) {
  const auto stream = device.make_stream();
  stream->copy_in(to, bytes);
  stream->finish();
}

inline std::vector<std::byte> get(Device& device, DeviceAddress from, std::size_t count) {
  std::vector<std::byte> bytes(count);
  const auto stream = device.make_stream();
  stream->copy_out(bytes, from);
  stream->finish();
  return bytes;
}

}  // namespace sllm::testing
