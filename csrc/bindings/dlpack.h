#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <memory>
#include <vector>

namespace sllm {

inline constexpr std::int32_t kDlpackCpu = 1;
inline constexpr std::int32_t kDlpackCuda = 2;

// Memory as DLPack describes it (github.com/dmlc/dlpack, versions 0.8 and 1.1): what is handed over, and the
// reference that keeps it alive until the consumer lets go.
struct ExportedTensor {
  std::shared_ptr<const void> owner;
  std::uint64_t address = 0;
  std::uint64_t bytes = 0;
  std::int32_t device_type = kDlpackCpu;  // DLDeviceType
  std::int32_t device_id = 0;
  std::uint8_t type_code = 1;  // DLDataTypeCode: 1 for unsigned integers
  std::uint8_t type_bits = 8;
  std::vector<std::int64_t> shape;  // dense, the last dimension innermost
};

// A capsule with the tensor: the legacy one, or one that says its version. Unconsumed, it lets go by itself.
pybind11::object make_capsule(ExportedTensor tensor, bool is_versioned);

}  // namespace sllm
